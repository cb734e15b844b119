#pragma once
// Clusters: blocks of threads that are on the device at the same time and read each other's shared
// memory (compute capability 9.0 on). Code for 8.0 has none, and is not launched so.
// Docs: docs/08-backends.md

#include "cuda/copies.cuh"

namespace rotkv::cuda {

constexpr uint32_t k_most_cluster = 8;  // blocks that every device with clusters can hold

/// What the thread has stored is there for the cluster's others once they have waited.
__device__ inline void arrive_at_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
/// Until all threads of the cluster have arrived.
__device__ inline void wait_for_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/// What lies in the shared memory of the cluster's block `rank` where `mine` is in this block's.
__device__ inline uint32_t address_in(uint32_t rank, const void* mine) {
    uint32_t theirs = shared_address(mine);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(theirs) : "r"(rank));
#endif
    return theirs;
}
__device__ inline float2 load2_in(uint32_t rank, const float2* mine) {
    float2 x = {0, 0};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
                 : "=f"(x.x), "=f"(x.y)
                 : "r"(address_in(rank, mine)));
#endif
    return x;
}
__device__ inline float4 load4_in(uint32_t rank, const float4* mine) {
    float4 x = {0, 0, 0, 0};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address_in(rank, mine)));
#endif
    return x;
}

}  // namespace rotkv::cuda
