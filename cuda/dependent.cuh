#pragma once
// Launches that overlap: a kernel's blocks may come onto the device while the last of the kernel
// before still run, and wait there (programmatic dependent launch, compute capability 9.0 on).
//
// A kernel launched so calls wait_for_earlier() before it touches memory that others write; all
// that earlier kernels did is done and seen from there on. That each of them waits makes this hold
// for those before them too. A kernel launched in the usual way waits for all by itself.
//
// Where tokens and cells are, and which are in use, the host says: no kernel writes such integers,
// and uploads overlap with none. So they may be read before. Ids of experts may not: route writes
// them.
// Docs: docs/08-backends.md

#include "cuda/device.cuh"

namespace rotkv::cuda {

/// Of every thread of a kernel launched by launch_dependent, before its first access to memory;
/// prefetch() and the host's integers may come earlier.
__device__ inline void wait_for_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The next kernel's blocks may come from now on, as far as they find room. Where they find it on
/// few processors they crowd there: say so when there is room everywhere, or nowhere.
__device__ inline void let_next_come() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/// Asks for memory to be brought into L2, where every write to it meets it: allowed at any time.
__device__ inline void prefetch(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

/// kernel<<<blocks, threads, shared_bytes, stream>>>(args...), overlapping where its code knows how
/// to wait.
template <class... Params, class... Args>
void launch_dependent(void (*kernel)(Params...), dim3 blocks, dim3 threads, size_t shared_bytes,
                      cudaStream_t stream, const Args&... args) {
    cudaFuncAttributes code;
    require_success(cudaFuncGetAttributes(&code, kernel), "kernel");
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = code.ptxVersion >= 90 ? 1 : 0;  // code for 8.0 would not wait
    require_success(launched(cudaLaunchKernelEx(&config, kernel, Params(args)...)), "launch");
}

}  // namespace rotkv::cuda
