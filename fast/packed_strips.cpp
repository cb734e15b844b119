// Products with a weight for some tens of tokens: too many to expand a block of the weight anew for
// every four of them, too few to write an expanded panel to memory first. Four rows are expanded to
// f32 at a time, into the L1 cache, and meet all tokens there:
//
//   strip [vectors of k_lanes columns][k_rows]     one pass over the packed rows
//   sum [k_tokens][k_rows] vectors, in registers   + strip[i][r] x[t][i], for k_tokens tokens
//   y[t][first .. first + k_rows]                  the sum of each vector's lanes
#include "fast/packed_products.h"
#include "fast/row_blocks.h"
#include "fast/row_strips.h"
#include "fast/workspace.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

// Registers for k_rows k_tokens sums, a vector of each row and one of x.
constexpr int64_t k_rows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t k_tokens = 4;
#else
constexpr int64_t k_tokens = 2;
#endif
constexpr int64_t k_ahead = 2048;  // bytes

// Rows first .. first + rows - 1 of the weight, the missing ones of k_rows 0.
template <DType type>
void expand_strip(float* strip, const TensorView& weight, int64_t first, int64_t rows) {
    const int64_t n = weight.n[3], blocks = (n + k_block - 1) / k_block;
    for (int64_t r = 0; r < k_rows; ++r) {
        const auto take = [&](int64_t block, const Vec* v) {
            float* const to = strip + (block * k_block_vectors * k_rows + r) * k_lanes;
#pragma GCC unroll 8
            for (int64_t j = 0; j < k_block_vectors; ++j) store(to + j * k_rows * k_lanes, v[j]);
        };
        const Vec zeros[k_block_vectors] = {};
        if (r < rows) {
            for_each_block<type>(weight.row<const std::byte>(first + r), n, 0, blocks, k_ahead,
                                 take);
        } else {
            for (int64_t block = 0; block < blocks; ++block) take(block, zeros);
        }
    }
}

// y[t][r] for r < rows.
template <int64_t tokens>
[[gnu::noinline]] void multiply(float* const* y, int64_t rows, const float* strip,
                                const float* const* x, int64_t n) {
    Vec sum[k_tokens * k_rows];
    std::fill_n(sum, k_tokens * k_rows, Vec(0.0f));
    const auto add = [&](const float* w, auto x_vector) {
        Vec v[k_rows];
#pragma GCC unroll 4
        for (int64_t r = 0; r < k_rows; ++r) v[r] = load(w + r * k_lanes);
#pragma GCC unroll 4
        for (int64_t t = 0; t < tokens; ++t) {
            const Vec of_x = x_vector(x[t]);
#pragma GCC unroll 4
            for (int64_t r = 0; r < k_rows; ++r) {
                sum[t * k_rows + r] = fma(v[r], of_x, sum[t * k_rows + r]);
            }
        }
    };
    const int64_t whole = n / k_lanes * k_lanes;
    for (int64_t i = 0; i < whole; i += k_lanes) {
        add(strip + i * k_rows, [i](const float* row) { return load(row + i); });
    }
    if (whole < n) {
        add(strip + whole * k_rows,
            [&](const float* row) { return load_part(row + whole, n - whole); });
    }
    float products[k_tokens * k_rows];
#pragma GCC unroll 4
    for (int64_t i = 0; i < k_tokens * k_rows; i += k_lanes) {
        store(products + i, sum_each(sum + i));
    }
    for (int64_t t = 0; t < tokens; ++t) std::copy_n(products + t * k_rows, rows, y[t]);
}

// All tokens of the product with an expanded strip.
void multiply_strip(const RowsProduct& product, const float* strip, int64_t first, int64_t rows) {
    const int64_t n = product.weight.n[3], tokens = int64_t(product.x.size());
    for (int64_t t = 0; t < tokens; t += k_tokens) {
        const int64_t count = std::min(k_tokens, tokens - t);
        const float* const* const x = product.x.data() + t;
        float* y[k_tokens];
        for (int64_t i = 0; i < count; ++i) y[i] = product.y[size_t(t + i)] + first;
        // clang-format off
        switch (count) {
            case 1: multiply<1>(y, rows, strip, x, n); break;
            case 2: multiply<2>(y, rows, strip, x, n); break;
            case 3: multiply<std::min<int64_t>(3, k_tokens)>(y, rows, strip, x, n); break;
            default: multiply<k_tokens>(y, rows, strip, x, n);
        }
        // clang-format on
    }
}

}  // namespace

void multiply_expanded(const RowsProduct& product, int64_t first, int64_t end) {
    const int64_t blocks = (product.weight.n[3] + k_block - 1) / k_block;
    thread_local Workspace space;
    float* const strip = space.reserve(blocks * k_block * k_rows);
    for (int64_t o = first; o < end; o += k_rows) {
        const int64_t rows = std::min(k_rows, end - o);
        with_weight(product.weight.type,
                    [&]<DType type>() { expand_strip<type>(strip, product.weight, o, rows); });
        multiply_strip(product, strip, o, rows);
    }
}

void multiply_strips(std::span<const RowsProduct> products) {
    for_each_strip(products, k_rows, [&](size_t i, int64_t first, int64_t end) {
        multiply_expanded(products[i], first, end);
    });
}

}  // namespace rotkv::fast
