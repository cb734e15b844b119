#pragma once
// Tokens as tiles meet them, and their results. Docs: docs/performance.md

#include "fast/tiles.h"

#include <algorithm>
#include <span>

#if ROTKV_AMX

namespace rotkv::fast {

// Up to k_most_groups groups of tokens.
struct Tokens {
    // [groups][blocks] of k_x_block: [terms][pairs of columns][k_tile][2], then the tokens' sums,
    // f32
    const uint16_t* x;
    int64_t of_group;
    std::span<float* const> y;

    int64_t groups() const { return (int64_t(y.size()) + k_tile - 1) / k_tile; }
    std::span<float* const> y_of(int64_t group) const {
        const size_t t = size_t(group * k_tile);
        return y.subspan(t, std::min(size_t(k_tile), y.size() - t));
    }
};

// What a strip's results are: all right, or to be computed otherwise; where some is no number, it
// and those beside it, too.
struct Results {
    bool right = true, finite = true;
};

// A tile of sums to y of rows `row` .. row + rows - 1. Are all of them numbers?
inline bool put(std::span<float* const> y, const float* sums, int64_t row, int64_t rows) {
    __m512i columns[k_tile];
    Vec zeros(0.0f);  // if they are
    for (int64_t i = 0; i < k_tile; ++i) {
        columns[i] = _mm512_load_si512(sums + i * k_tile);
        zeros = fma(Vec(0.0f), Vec(_mm512_castsi512_ps(columns[i])), zeros);
    }
    transpose_16(columns);
    for (size_t t = 0; t < y.size(); ++t) {
        store_part(y[t] + row, _mm512_castsi512_ps(columns[t]), rows);
    }
    return _mm512_cmp_ps_mask(zeros, zeros, _CMP_UNORD_Q) == 0;
}

}  // namespace rotkv::fast

#endif
