#pragma once
// Sums and maxima over all threads of a block, for every thread, in an order that is fixed.
// Blocks have k_threads threads, all of which take part.
// Docs: docs/08-backends.md

#include "cuda/device.cuh"

namespace rotkv::cuda {

/// The sums over all threads of the block. f64: squares of f32 cannot overflow.
template <int n>
__device__ void block_sums(double (&x)[n]) {
    __shared__ double of_warp[k_threads / k_warp][n];
    __syncthreads();  // an earlier call has been read
#pragma unroll
    for (int i = 0; i < n; ++i) {
        for (unsigned h = k_warp / 2; h > 0; h /= 2) {
            x[i] += __shfl_xor_sync(k_all_lanes, x[i], h);
        }
        if (lane_of_warp() == 0) of_warp[threadIdx.x / k_warp][i] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < n; ++i) {
        x[i] = 0;
        for (const auto& warp : of_warp) x[i] += warp[i];
    }
}

/// A number and where it stands.
struct Largest {
    float x;
    int32_t at;

    /// The larger one; of equals, the first. A NaN is never larger.
    __device__ void meet(const Largest& other) {
        if (other.x > x || (other.x == x && other.at < at)) *this = other;
    }
};

/// The largest over all threads of the block.
__device__ inline Largest block_largest(Largest mine) {
    __shared__ Largest of_warp[k_threads / k_warp];
    __syncthreads();  // an earlier call has been read
    for (unsigned h = k_warp / 2; h > 0; h /= 2) {
        mine.meet({partner(mine.x, h), __shfl_xor_sync(k_all_lanes, mine.at, h)});
    }
    if (lane_of_warp() == 0) of_warp[threadIdx.x / k_warp] = mine;
    __syncthreads();
    mine = of_warp[0];
    for (const Largest& warp : of_warp) mine.meet(warp);
    return mine;
}

}  // namespace rotkv::cuda
