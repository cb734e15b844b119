#pragma once
// Copies from device memory to shared memory that are under way when the function returns. From
// compute capability 8.0 on.
// Docs: docs/08-backends.md

#include "cuda/device.cuh"

namespace rotkv::cuda {

/// The address that instructions on shared memory take.
__device__ inline uint32_t shared_address(const void* pointer) {
    return uint32_t(__cvta_generic_to_shared(pointer));
}

/// A float.
__device__ inline void copy_float(float* to, const float* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                 :
                 : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from))
                 : "memory");
}

/// 16 bytes, or zeros unless `there`. Both addresses are multiples of 16.
__device__ inline void copy_16(uint32_t to, const std::byte* from, bool there) {
    asm volatile(
        "{.reg .pred empty;\n setp.eq.b32 empty, %2, 0;\n"
        "cp.async.cg.shared.global [%0], [%1], 16, empty;}"
        :
        : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(int(there))
        : "memory");
}

/// All copies of this thread so far, as one group.
__device__ inline void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most `groups` of this thread are under way.
template <int groups>
__device__ void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" : : "n"(groups) : "memory");
}

/// Waits for all that this thread started.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }

}  // namespace rotkv::cuda
