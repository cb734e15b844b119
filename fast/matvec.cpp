// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers (packed.h), where the tokens' activations meet
// them. Activations stay f32.
//
// A thread takes a few rows of the weight at a time and up to four tokens: an expanded block serves
// all of them, activations are loaded once for all rows, and no product waits for another one's
// additions.
#include "fast/matvec.h"

#include "fast/kernels.h"
#include "fast/row_blocks.h"
#include "fast/row_strips.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

constexpr int64_t k_rows = 4, k_tokens = 4;  // at a time: at most k_products of them
constexpr int64_t k_products = k_lanes == 16 ? 16 : 8;

// Sums at a time: several for a product, so that an addition does not wait for the one before, but
// no more than registers hold.
constexpr int64_t k_sums = k_lanes == 16 ? 16 : 8;

// How far in front of the block in use, in bytes, the next ones are called from memory: at least so
// far. Rows that are multiplied together follow each other there, so that the next ones of short
// rows are those behind them all; long rows come far enough by themselves.
constexpr int64_t k_ahead = 2048, k_long_rows = 16384;

int64_t ahead_of(int64_t bytes_together) {
    if (bytes_together > k_long_rows) return k_ahead;
    const int64_t together = std::max<int64_t>(1, bytes_together);
    return (k_ahead + together - 1) / together * together;
}

// Some rows of the weight and some tokens. The product of row r and token t goes to y[t][r].
struct Operands {
    const std::byte* w[k_rows];
    const float* x[k_tokens];
    float* y[k_tokens];
    int64_t n;         // elements of a row
    int64_t row_step;  // bytes from one row to the next
};

// What a row has past its last block of 32; only plain types have it.
template <DType type>
float dot_rest(const std::byte* w, const float* x, int64_t n) {
    const int64_t whole = n / k_block * k_block, rest = n - whole;
    if (rest == 0) return 0.0f;
    float values[k_block] = {};
    dequantize_row(type, values, w + block_offset(type, whole), rest);
    float sum = 0.0f;
    for (int64_t i = 0; i < rest; ++i) sum += values[i] * x[whole + i];
    return sum;
}

// sum_i w[r]_i x[t]_i for all t, and r from `row` on. By itself, so that it has all registers.
template <DType type, int64_t rows, int64_t tokens>
[[gnu::noinline]] void multiply(const Operands& on, int64_t row) {
    const int64_t blocks = on.n / k_block, ahead = ahead_of(rows * on.row_step);
    constexpr int64_t chains = std::clamp<int64_t>(k_sums / (rows * tokens), 1, k_block_vectors);
    // Rows whose block is expanded before x is loaded, once for all of them: where registers are
    // many.
    constexpr int64_t together = tokens == 1 || k_lanes < 16 ? 1 : rows;
    Vec sum[rows][tokens][chains];
    std::fill_n(&sum[0][0][0], rows * tokens * chains, Vec(0.0f));
    Blocks<type> w[rows];
    for (int64_t first = 0; first < blocks; first += k_super_blocks) {
        for (int64_t r = 0; r < rows; ++r) w[r].open(on.w[row + r], first, ahead);
        const int64_t count = std::min(k_super_blocks, blocks - first);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = (first + i) * k_block;
#pragma GCC unroll 4
            for (int64_t r = 0; r < rows; r += together) {
                Vec v[together][k_block_vectors];
                for (int64_t s = 0; s < together; ++s) w[r + s].values(v[s], i);
#pragma GCC unroll 8
                for (int64_t j = 0; j < k_block_vectors; ++j) {
#pragma GCC unroll 4
                    for (int64_t t = 0; t < tokens; ++t) {
                        const Vec x = load(on.x[t] + at + j * k_lanes);
#pragma GCC unroll 4
                        for (int64_t s = 0; s < together; ++s) {
                            Vec& to = sum[r + s][t][j % chains];
                            to = fma(v[s][j], x, to);
                        }
                    }
                }
            }
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t c = 1; c < chains; ++c) sum[r][t][0] += sum[r][t][c];
            on.y[t][row + r] =
                sum_lanes(sum[r][t][0]) + dot_rest<type>(on.w[row + r], on.x[t], on.n);
        }
    }
}

constexpr bool type_is_plain(DType type) {
    return type == DType::f32 || type == DType::f16 || type == DType::bf16;
}

// Some rows of the weight.
template <DType type, int64_t tokens>
void multiply_rows(const Operands& on, int64_t rows) {
    // For one token plain numbers come as fast as memory gives them, from few rows at a time.
    constexpr int64_t most = type_is_plain(type) && tokens == 1 ? k_rows / 2 : k_rows;
    constexpr int64_t step = std::min(most, k_products / tokens);
    int64_t r = 0;
    for (; r + step <= rows; r += step) multiply<type, step, tokens>(on, r);
    for (; r < rows; ++r) multiply<type, 1, tokens>(on, r);
}

// All tokens for rows o .. o + rows - 1 of the weight, which stay in the L1 cache meanwhile.
template <DType type>
void multiply_tokens(const RowsProduct& product, int64_t o, int64_t rows) {
    Operands on{{}, {}, {}, product.weight.n[3], product.weight.stride[2]};
    for (int64_t r = 0; r < rows; ++r) on.w[r] = product.weight.row<const std::byte>(o + r);
    const int64_t tokens = int64_t(product.x.size());
    for (int64_t t = 0; t < tokens; t += k_tokens) {
        const int64_t count = std::min(k_tokens, tokens - t);
        for (int64_t i = 0; i < count; ++i) {
            on.x[i] = product.x[size_t(t + i)];
            on.y[i] = product.y[size_t(t + i)] + o;
        }
        // clang-format off
        switch (count) {
            case 1: multiply_rows<type, 1>(on, rows); break;
            case 2: multiply_rows<type, 2>(on, rows); break;
            case 3: multiply_rows<type, 3>(on, rows); break;
            default: multiply_rows<type, k_tokens>(on, rows);
        }
        // clang-format on
    }
}

// Rows first .. end - 1 of the weight.
using MultiplyStrip = void (*)(const RowsProduct& product, int64_t first, int64_t end);

template <DType type>
void multiply_strip(const RowsProduct& product, int64_t first, int64_t end) {
    for (int64_t o = first; o < end; o += k_rows) {
        multiply_tokens<type>(product, o, std::min(k_rows, end - o));
    }
}

MultiplyStrip strip_of(DType type) {
    return with_weight(type, []<DType type>() -> MultiplyStrip { return multiply_strip<type>; });
}

}  // namespace

void matvec(const MatmulArgs& args) {
    of_rows(args, [](std::span<const RowsProduct> products) { matvec(products); });
}

void matvec(std::span<const RowsProduct> products) {
    for_each_strip(products, k_rows, [&](size_t i, int64_t first, int64_t end) {
        strip_of(products[i].weight.type)(products[i], first, end);
    });
}

void matvec_gated(std::span<const RowsProduct> gates_and_ups, Activation activation) {
    const size_t half = gates_and_ups.size() / 2;
    const std::span<const RowsProduct> gates = gates_and_ups.first(half);
    for_each_strip(gates, k_rows, [&](size_t i, int64_t first, int64_t end) {
        const RowsProduct &gate = gates[i], &up = gates_and_ups[half + i];
        strip_of(gate.weight.type)(gate, first, end);
        strip_of(up.weight.type)(up, first, end);
        for (size_t t = 0; t < gate.y.size(); ++t) {
            float* const y = gate.y[t] + first;
            act_mul_row(activation, y, y, up.y[t] + first, end - first);
        }
    });
}

}  // namespace rotkv::fast
