#pragma once
// What a warp of decode attention knows about the cells that it has seen, for the query heads of
// one KV head: the softmax's running maximum and sum, and the sum of values (online softmax:
// Milakov, Gimelshein 2018). fragments.cuh says which lane holds what of C.
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"

namespace rotkv::cuda::decode {

// Of heads 2t and 2t + 1, as the columns of C are, to that of head g, as those of B are; and back.
__device__ inline float by_rows(const float (&x)[2]) {
    const int lane = int(lane_of_warp() / 8);
    const float even = __shfl_sync(k_all_lanes, x[0], lane),
                odd = __shfl_sync(k_all_lanes, x[1], lane);
    return lane_of_warp() / 4 % 2 == 0 ? even : odd;
}
template <class T>
__device__ T by_columns(T x, int i) {
    return __shfl_sync(k_all_lanes, x, int(lane_of_warp() % 4 * 8) + 4 * i);
}

// p = 2^(s - top + headroom): small ones stay normal in f16, times d too. Two terms are scaled.
template <int Terms>
constexpr float k_headroom = Terms == 1 ? 6 : 0;

template <int D_v, int Terms = 1>
struct State {
    float o[D_v / 16][4] = {};                           // C of 16 channels each
    float top[2] = {-FLT_MAX, -FLT_MAX}, total[2] = {};  // of heads 2t and 2t + 1

    // What all 32 channels of a block have in common (decode_terms.cuh): of head g, of the lane's
    // cells.
    static constexpr int k_offsets = Terms == 1 || D_v < 32 ? 1 : D_v / 32;
    float offset[k_offsets] = {};

    __device__ void raise(float a, float b) {
#pragma unroll
        for (unsigned h = 4; h < k_warp; h *= 2) {  // lanes of the same heads
            a = fmaxf(a, partner(a, h));
            b = fmaxf(b, partner(b, h));
        }
        const float most[2] = {fmaxf(a, top[0]), fmaxf(b, top[1])};
        float shrink[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            shrink[i] = power_of_two(top[i] - most[i]);
            top[i] = most[i];
            total[i] *= shrink[i];
#pragma unroll
            for (int step = 0; step < D_v / 16; ++step) {
                o[step][i] *= shrink[i];
                o[step][i + 2] *= shrink[i];
            }
        }
        if constexpr (Terms == 2) {
            const float of_head = by_rows(shrink);
#pragma unroll
            for (float& x : offset) x *= of_head;
        }
    }

    // 3 softmax: scores, as powers of two, become p.
    __device__ void take(float (&s)[4]) {
        const float a = fmaxf(s[0], s[2]), b = fmaxf(s[1], s[3]);
        if (__any_sync(k_all_lanes, a > top[0] || b > top[1])) raise(a, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s[i] = power_of_two(s[i] - (top[i % 2] - k_headroom<Terms>));
            total[i % 2] += s[i];
        }
    }
};

}  // namespace rotkv::cuda::decode
