#pragma once
// Products of up to four query heads with packed rows of a cache, which are read once and expanded
// in registers (packed.h). Docs: docs/05-attention.md

#include "fast/packed.h"

#include <algorithm>

namespace rotkv::fast {

inline constexpr int64_t k_row_heads = 4;

/// Some rows of one KV head.
struct PackedRows {
    const std::byte* first;  ///< the row of cell 0
    int64_t stride;          ///< from cell to cell
    const int32_t* cells;
    int64_t count;

    /// Bytes to a row that is needed soon, and called from memory now: 1.4 times as fast as
    /// without.
    int64_t ahead() const { return 64 * stride; }
    const std::byte* row(int64_t i) const { return first + cells[i] * stride; }
};

/// partial[h] gets vectors whose lanes sum to q[h] . row; q [heads][d].
template <class Format, int64_t heads>
inline void multiply_row(Vec* partial, int64_t step, const float* q, const std::byte* row,
                         int64_t ahead, int64_t d) {
    Vec sum[heads];
    for (Vec& one : sum) one = Vec(0.0f);
    for (int64_t b = 0; b < d / k_block; ++b) {
        prefetch(Format::place(row, b) + ahead);
        Vec k[k_block_vectors];
        Format::values(k, row, b, Format::number(row, b));
#pragma GCC unroll 8
        for (int64_t j = 0; j < k_block_vectors; ++j) {
            const float* at = q + b * k_block + j * k_lanes;
#pragma GCC unroll 4
            for (int64_t h = 0; h < heads; ++h) sum[h] = fma(k[j], load(at + h * d), sum[h]);
        }
    }
    for (int64_t h = 0; h < heads; ++h) partial[h * step] = sum[h];
}

/// scores[h * step + i] = q[h] . row i. The lanes of k_lanes products are summed together.
/// scores: room for the count rounded up to k_lanes.
template <class Format, int64_t heads>
inline void score_rows(float* scores, int64_t step, const float* q, const PackedRows& rows,
                       int64_t d) {
    for (int64_t first = 0; first < rows.count; first += k_lanes) {
        Vec partial[heads][k_lanes];
        const int64_t count = std::min(k_lanes, rows.count - first);
        for (int64_t i = 0; i < count; ++i) {
            multiply_row<Format, heads>(&partial[0][i], k_lanes, q, rows.row(first + i),
                                        rows.ahead(), d);
        }
        for (int64_t h = 0; h < heads; ++h) {
            std::fill(partial[h] + count, partial[h] + k_lanes, Vec(0.0f));
            store(scores + h * step + first, sum_each(partial[h]));
        }
    }
}

/// sum[h] = factor[h] sum[h] + sum_i p[h * step + i] row i; sum [heads][d].
template <class Format, int64_t heads>
inline void add_rows(float* sum, const float* factor, const float* p, int64_t step,
                     const PackedRows& rows, int64_t d) {
    for (int64_t b = 0; b < d / k_block; ++b) {
        Vec acc[heads][k_block_vectors];
        float* const to = sum + b * k_block;
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t j = 0; j < k_block_vectors; ++j) {
                acc[h][j] = Vec(factor[h]) * load(to + h * d + j * k_lanes);
            }
        }
        for (int64_t i = 0; i < rows.count; ++i) {
            Vec v[k_block_vectors];
            prefetch(Format::place(rows.row(i), b) + rows.ahead());
            Format::values(v, rows.row(i), b, Format::number(rows.row(i), b));
#pragma GCC unroll 4
            for (int64_t h = 0; h < heads; ++h) {
                const Vec weight(p[h * step + i]);
#pragma GCC unroll 8
                for (int64_t j = 0; j < k_block_vectors; ++j) {
                    acc[h][j] = fma(v[j], weight, acc[h][j]);
                }
            }
        }
        for (int64_t h = 0; h < heads; ++h) {
            for (int64_t j = 0; j < k_block_vectors; ++j) {
                store(to + h * d + j * k_lanes, acc[h][j]);
            }
        }
    }
}

}  // namespace rotkv::fast
