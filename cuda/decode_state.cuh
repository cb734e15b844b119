#pragma once
// What a warp of decode attention knows about the cells that it has seen, for the query heads of
// one KV head: the softmax's running maximum and sum, and the sum of values (online softmax:
// Milakov, Gimelshein 2018). fragments.cuh says which lane holds what of C.
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"

namespace rotkv::cuda::decode {

constexpr float k_headroom = 6;  // p = 2^(s - top + 6): small ones stay normal in f16, times d too

template <int D_v>
struct State {
    float o[D_v / 16][4] = {};                           // C of 16 channels each
    float top[2] = {-FLT_MAX, -FLT_MAX}, total[2] = {};  // of heads 2t and 2t + 1

    __device__ void raise(float a, float b) {
#pragma unroll
        for (unsigned h = 4; h < k_warp; h *= 2) {  // lanes of the same heads
            a = fmaxf(a, partner(a, h));
            b = fmaxf(b, partner(b, h));
        }
        const float most[2] = {fmaxf(a, top[0]), fmaxf(b, top[1])};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float shrink = power_of_two(top[i] - most[i]);
            top[i] = most[i];
            total[i] *= shrink;
#pragma unroll
            for (int step = 0; step < D_v / 16; ++step) {
                o[step][i] *= shrink;
                o[step][i + 2] *= shrink;
            }
        }
    }

    // 3 softmax: scores, as powers of two, become p.
    __device__ void take(float (&s)[4]) {
        const float a = fmaxf(s[0], s[2]), b = fmaxf(s[1], s[3]);
        if (__any_sync(k_all_lanes, a > top[0] || b > top[1])) raise(a, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s[i] = power_of_two(s[i] - (top[i % 2] - k_headroom));
            total[i % 2] += s[i];
        }
    }
};

}  // namespace rotkv::cuda::decode
