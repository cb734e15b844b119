#pragma once
// The inner loop of attention: one strip of a matrix product, held in registers. Scores (keys times
// queries) and sums of values (values times probabilities) are both this product; they differ in
// the strides of `a` only. Docs: docs/05-attention.md

#include "fast/simd.h"

#include <cstdint>

namespace rotkv::fast {

// A strip is k_strip rows of `a` by up to three vectors of `b`. With 8 rows it takes 24 registers
// for the sums, 3 for b and 1 for a, of 32; with 4 rows 12 + 3 + 1, of 16. Each step then feeds 24
// (12) multiply-adds from 11 (7) loads, so that the multipliers set the pace and not the L1 cache.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int64_t k_strip = 8;
#else
inline constexpr int64_t k_strip = 4;
#endif
inline constexpr int64_t k_max_vectors = 3;

/// y[i][j] = factor[j] y[i][j] + sum_k a[i * a_row + k * a_step] b[k][j]
/// Shapes: i < k_strip, j < vectors * k_lanes, k < count; y, b have rows of vectors * k_lanes
/// floats.
///         No factor: y is only written.
template <int64_t vectors>
inline void multiply_strip(float* y, const float* factor, const float* a, int64_t a_row,
                           int64_t a_step, const float* b, int64_t count) {
    constexpr int64_t width = vectors * k_lanes;
    Vec sum[k_strip][vectors];
#pragma GCC unroll 8
    for (int64_t i = 0; i < k_strip; ++i) {
#pragma GCC unroll 3
        for (int64_t j = 0; j < vectors; ++j) sum[i][j] = Vec(0.0f);
    }
    for (int64_t k = 0; k < count; ++k, a += a_step, b += width) {
        Vec b_row[vectors];
#pragma GCC unroll 3
        for (int64_t j = 0; j < vectors; ++j) b_row[j] = load(b + j * k_lanes);
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_strip; ++i) {
            const Vec one_a(a[i * a_row]);
#pragma GCC unroll 3
            for (int64_t j = 0; j < vectors; ++j) sum[i][j] = fma(one_a, b_row[j], sum[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int64_t i = 0; i < k_strip; ++i) {
#pragma GCC unroll 3
        for (int64_t j = 0; j < vectors; ++j) {
            float* to = y + i * width + j * k_lanes;
            if (factor != nullptr) sum[i][j] = fma(load(factor + j * k_lanes), load(to), sum[i][j]);
            store(to, sum[i][j]);
        }
    }
}

}  // namespace rotkv::fast
