#pragma once
// The softmax of prefill as it runs (online softmax: Milakov, Gimelshein 2018), in the registers in
// which tensor cores leave scores: a lane holds of two rows, r and r + 8 of its warp's 16, two
// neighbouring cells of each eight. Scores are in bits: p = 2^(s - most).
// Docs: docs/05-attention.md

#include "cuda/prefill_rows.cuh"

namespace rotkv::cuda::prefill {

// Of both rows of a lane: C of the products of probabilities and values, the largest score and the
// lane's part of the sum of probabilities.
template <int D>
struct Sums {
    float o[D / 8][4];
    float most[2], total[2];
};

// Before any cell, for rows `row` and row + 8: the sink, if it is counted here, is a score that has
// no value. Where cells are split, it is counted when the parts are put together.
template <int D>
__device__ void begin(const Job& job, const Place& at, uint32_t row, bool with_sink,
                      Sums<D>& sums) {
    with_sink = with_sink && job.sinks != nullptr && !job.parts.are_used();
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sums.o[i / 4][i % 4] = 0.0f;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        sums.most[j] = with_sink ? job.sinks[at.head(job, row + 8 * j)] * k_log2_e : -INFINITY;
        sums.total[j] = sums.most[j] > -INFINITY && lane_of_warp() % 4 == 0 ? 1.0f : 0.0f;
    }
}

// An infinite score says that f16 does not hold a key: it would become a probability of 0, or a
// capped score, as if it were one. A NaN is a mark that nothing erases (attention_plain.cuh).
template <int N>
__device__ void mark_infinite(float (&s)[N][4]) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
        float& x = s[i / 4][i % 4];
        x = fmaf(x, 0.0f, x);
    }
}

// c tanh(s / c) = c - 2 c / (1 + e^(2 s / c)); the queries' scale has made 2 s / c, in bits, of s.
template <int N>
__device__ void cap_scores(float (&s)[N][4], float cap) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
        float& x = s[i / 4][i % 4];
        x = fmaf(-2.0f * cap, __fdividef(1.0f, 1.0f + power_of_two(x)), cap);
    }
}

// -inf for the cells that a row does not see; of cells 8 n + 2 (lane % 4) and the next one,
// position(n) knows the positions.
template <int N, class Position>
__device__ void mask_scores(float (&s)[N][4], const Limits& upper, const Limits& lower,
                            const Position& position) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
        const int2 two = position(n);
        if (!upper.sees(two.x)) s[n][0] = -INFINITY;
        if (!upper.sees(two.y)) s[n][1] = -INFINITY;
        if (!lower.sees(two.x)) s[n][2] = -INFINITY;
        if (!lower.sees(two.y)) s[n][3] = -INFINITY;
    }
}

// The same of all cells, for whole rows.
template <int N>
__device__ void hide_rows(float (&s)[N][4], bool upper, bool lower) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
        if (upper) s[n][0] = s[n][1] = -INFINITY;
        if (lower) s[n][2] = s[n][3] = -INFINITY;
    }
}

__device__ inline float max_of_four_lanes(float x) {  // those that share a row
    x = fmaxf(x, partner(x, 1));
    return fmaxf(x, partner(x, 2));
}
__device__ inline float sum_of_four_lanes(float x) {
    x += partner(x, 1);
    return x + partner(x, 2);
}

// 3 softmax of one tile: scores become probabilities. Returns what earlier sums shrink by.
template <int N, int D>
__device__ float2 softmax_tile(float (&s)[N][4], Sums<D>& sums) {
    float shrink[2], base[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        float most = sums.most[j];
#pragma unroll
        for (int n = 0; n < N; ++n) most = fmaxf(most, fmaxf(s[n][2 * j], s[n][2 * j + 1]));
        most = max_of_four_lanes(most);
        base[j] = most == -INFINITY ? 0.0f : most;  // no -inf + inf
        shrink[j] = power_of_two(sums.most[j] - base[j]);
        sums.most[j] = most;
        sums.total[j] *= shrink[j];
    }
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
        float& x = s[i / 4][i % 4];
        x = power_of_two(x - base[i / 2 % 2]);
        sums.total[i / 2 % 2] += x;
    }
    return {shrink[0], shrink[1]};
}

// The sums of the values, where a maximum has grown. This becomes rare: the warp asks first.
template <int D>
__device__ void shrink_sums(Sums<D>& sums, const float2& shrink) {
    if (!__any_sync(k_all_lanes, shrink.x != 1.0f || shrink.y != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) sums.o[i / 4][i % 4] *= i / 2 % 2 == 0 ? shrink.x : shrink.y;
}

// Probabilities of 16 cells as A of a product.
__device__ inline void to_halves(Fragment& a, const float (*p)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = halves_of(p[i / 2][i % 2 * 2], p[i / 2][i % 2 * 2 + 1]);
}

}  // namespace rotkv::cuda::prefill
