#pragma once
// The scores' product of prefill in f32 precision, with a tile of 64 cells that f16 holds exactly.
// q~ is two f16 terms (decode_terms.cuh), and so is p (prefill_terms_values.cuh): the low ones 2^11
// times themselves and in accumulators of their own. What tensor cores add up they cut off, so that
// an accumulator of high terms takes 32 channels, or 32 cells, and is emptied into sums in f32,
// which are rounded.
// Docs: docs/05-attention.md

#include "cuda/prefill_terms_wgmma.cuh"

namespace rotkv::cuda::prefill {

// ---- s[row][cell] = q~ K ----

__device__ inline void add_sums(float (&x)[4], const float (&y)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] += y[j];
}

// Both terms of 16 channels, with all cells.
template <int D>
__device__ void score_step(TermScores& sum, TermScores& small, uint32_t q, uint32_t k, int d) {
    const uint32_t lane = lane_of_warp(), cell = lane % 8 + lane / 16 * 8;
    const uint32_t row = threadIdx.x / k_warp * 16 + lane % 16;
    const uint32_t at = q + place_of(k_term_rows, row, d / 8 + lane / 16);
    Fragment high, low;
    load_matrices(high, at);
    load_matrices(low, at + k_term_rows * D * 2);
    const uint32_t cells = k + place_of(k_term_cells, cell, d / 8 + lane / 8 % 2);
#pragma unroll
    for (int c = 0; c < int(k_term_cells); c += 16) {
        Fragment b;
        load_matrices(b, cells + c * 128);
        multiply_add(small[c / 8], low, b[0], b[1]);
        multiply_add(small[c / 8 + 1], low, b[2], b[3]);
        multiply_add(sum[c / 8], high, b[0], b[1]);
        multiply_add(sum[c / 8 + 1], high, b[2], b[3]);
    }
}

// 32 channels: sum = high terms, small += low terms, or = those of the first channels.
template <int D>
__device__ void score_channels(TermScores& sum, TermScores& small, uint32_t q, uint32_t k, int d,
                               bool first) {
    clear(sum);
    if (first) clear(small);
    score_step<D>(sum, small, q, k, d);
    score_step<D>(sum, small, q, k, d + 16);
}

/// Over halves.
template <int D>
__device__ void score_halves(TermScores& s, uint32_t q, uint32_t k) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    score_halves_on_wgmma<D>(s, q, k_term_rows * D * 2, k);
#else
    TermScores sum, small;  // small: of all channels, cut off by 2^-11 of what sum is
    clear(s);
#pragma unroll
    for (int d = 0; d < D; d += 32) {
        score_channels<D>(sum, small, q, k, d, d == 0);
#pragma unroll
        for (int n = 0; n < 8; ++n) add_sums(s[n], sum[n]);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) decode::add_scaled(s[n], 1.0f / decode::k_low, small[n]);
#endif
}

/// Over blocks. sums_of_q: of the lane's first row, [row][block], and of what is 8 rows on; null
/// where blocks have no minimum.
template <int D>
__device__ void score_codes(TermScores& s, uint32_t q, uint32_t k, const Scales& scales,
                            const float* sums_of_q) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    score_codes_on_wgmma<D>(s, q, k_term_rows * D * 2, k, scales, sums_of_q);
#else
    TermScores sum, small;
    clear(s);
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
        score_channels<D>(sum, small, q, k, 32 * b, true);
        add_block_scores<D>(s, sum, small, scales, b, sums_of_q);
    }
#endif
}

}  // namespace rotkv::cuda::prefill
