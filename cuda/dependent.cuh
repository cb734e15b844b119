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

#include <cstddef>

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

/// Of every thread of a kernel, before it waits: its arguments, a __grid_constant__, come into the
/// processor's cache of constants, which has none of a new launch's. Each line that is asked for
/// only later would be a third of a microsecond of everybody's time.
template <class Arguments>
__device__ void fetch_arguments(const Arguments& arguments) {
    constexpr size_t k_line = 64;
#pragma unroll
    for (size_t i = 0; i < sizeof(Arguments); i += k_line) {
        const uint32_t word =
            *reinterpret_cast<const uint32_t*>(reinterpret_cast<const std::byte*>(&arguments) + i);
        asm volatile("" : : "r"(word));
    }
}

/// kernel<<<blocks, threads, shared_bytes, stream>>>(args...), overlapping where its code knows how
/// to wait, in clusters of so many neighbouring blocks (cluster.cuh).
template <class... Params, class... Args>
void launch_cluster(void (*kernel)(Params...), uint32_t cluster, dim3 blocks, dim3 threads,
                    size_t shared_bytes, cudaStream_t stream, const Args&... args) {
    cudaFuncAttributes code;
    require_success(cudaFuncGetAttributes(&code, kernel), "kernel");
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {cluster, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = code.ptxVersion < 90 ? 0 : cluster == 1 ? 1 : 2;  // 8.0 would not wait
    require_success(launched(cudaLaunchKernelEx(&config, kernel, Params(args)...)), "launch");
}

/// The same without clusters.
template <class... Params, class... Args>
void launch_dependent(void (*kernel)(Params...), dim3 blocks, dim3 threads, size_t shared_bytes,
                      cudaStream_t stream, const Args&... args) {
    launch_cluster(kernel, 1, blocks, threads, shared_bytes, stream, args...);
}

}  // namespace rotkv::cuda
