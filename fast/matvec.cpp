// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers (packed.h), where the tokens' activations meet
// them. Activations stay f32.
//
// A thread takes two rows of the weight at a time and up to four tokens: an expanded block serves
// four products, and no product waits for another one's additions.
#include "fast/matvec.h"

#include "fast/kernels.h"
#include "fast/packed_k.h"
#include "fast/workspace.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace rotkv::fast {
namespace {

constexpr int64_t k_rows = 2, k_tokens = 4;  // at a time

// How far in front of the block in use, in bytes, the next ones are called from memory: rows follow
// each other there. It takes about a tenth off the time of a token.
constexpr int64_t k_ahead = 2048;

// Some rows of the weight and some tokens. The product of row r and token t goes to y[t][r].
struct Operands {
    const std::byte* w[k_rows];
    const float* x[k_tokens];
    float* y[k_tokens];
    int64_t n;  // elements of a row
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

// sum_i w[r]_i x[t]_i for all r and t. Vectors of a block alternate between two sums.
template <DType type, int64_t rows, int64_t tokens>
void multiply(const Operands& on) {
    const int64_t blocks = on.n / k_block;
    Vec sum[rows][tokens][2];
    for (auto& row : sum) {
        for (auto& both : row) both[0] = both[1] = Vec(0.0f);
    }
    for (int64_t first = 0; first < blocks; first += k_chunk) {
        const int64_t count = std::min(k_chunk, blocks - first);
        BlockNumbers numbers[rows][k_chunk];
        for (int64_t r = 0; r < rows; ++r) {
            Packed<type>::numbers(numbers[r], on.w[r], first, count);
        }
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = (first + i) * k_block;
#pragma GCC unroll 4
            for (int64_t r = 0; r < rows; ++r) {
                Vec w[k_block_vectors];
                prefetch(Packed<type>::place(on.w[r], first + i) + k_ahead);
                Packed<type>::values(w, on.w[r], first + i, numbers[r][i]);
#pragma GCC unroll 8
                for (int64_t j = 0; j < k_block_vectors; ++j) {
#pragma GCC unroll 4
                    for (int64_t t = 0; t < tokens; ++t) {
                        Vec& to = sum[r][t][j % 2];
                        to = fma(w[j], load(on.x[t] + at + j * k_lanes), to);
                    }
                }
            }
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t t = 0; t < tokens; ++t) {
            on.y[t][r] =
                sum_lanes(sum[r][t][0] + sum[r][t][1]) + dot_rest<type>(on.w[r], on.x[t], on.n);
        }
    }
}

// All tokens for some rows of the weight, which stay in the L1 cache meanwhile.
template <DType type, int64_t rows>
void multiply_tokens(Operands on, const RowsProduct& product, int64_t first_row) {
    const int64_t tokens = int64_t(product.x.size());
    for (int64_t t = 0; t < tokens; t += k_tokens) {
        const int64_t count = std::min(k_tokens, tokens - t);
        for (int64_t i = 0; i < count; ++i) {
            on.x[i] = product.x[size_t(t + i)];
            on.y[i] = product.y[size_t(t + i)] + first_row;
        }
        // clang-format off
        switch (count) {
            case 1: multiply<type, rows, 1>(on); break;
            case 2: multiply<type, rows, 2>(on); break;
            case 3: multiply<type, rows, 3>(on); break;
            default: multiply<type, rows, k_tokens>(on);
        }
        // clang-format on
    }
}

template <DType type>
void multiply_packed(std::span<const RowsProduct> products) {
    const int64_t out = products[0].weight.n[2], in = products[0].weight.n[3];
    const int64_t work = int64_t(products.size()) * out * in;
#pragma omp parallel if (work >= k_parallel_from)
    for (const RowsProduct& product : products) {
        const auto row = [&](int64_t o) { return product.weight.row<const std::byte>(o); };
#pragma omp for nowait
        for (int64_t o = 0; o < out; o += k_rows) {
            if (o + 1 < out) {
                multiply_tokens<type, k_rows>({{row(o), row(o + 1)}, {}, {}, in}, product, o);
            } else {
                multiply_tokens<type, 1>({{row(o)}, {}, {}, in}, product, o);
            }
        }
    }
}

// Types without a Packed: each row is expanded into the L1 cache.
void multiply_expanded(std::span<const RowsProduct> products) {
    const int64_t out = products[0].weight.n[2], in = products[0].weight.n[3];
    const int64_t work = int64_t(products.size()) * out * in;
#pragma omp parallel if (work >= k_parallel_from)
    {
        thread_local Workspace space;
        float* const expanded = space.reserve(in);
        const std::byte* const bytes = reinterpret_cast<const std::byte*>(expanded);
        for (const RowsProduct& product : products) {
            const TensorView& weight = product.weight;
#pragma omp for nowait
            for (int64_t o = 0; o < out; ++o) {
                dequantize_row(weight.type, expanded, weight.row<const std::byte>(o), in);
                multiply_tokens<DType::f32, 1>({{bytes}, {}, {}, in}, product, o);
            }
        }
    }
}

}  // namespace

void matvec(const MatmulArgs& args) {
    std::vector<const float*> x;
    std::vector<float*> y;
    for (int64_t t = 0; t < args.src.n[2]; ++t) {
        x.push_back(args.src.row<const float>(t));
        y.push_back(args.dst.row<float>(t));
    }
    const RowsProduct product{args.weight, x, y};
    matvec({&product, 1});
}

void matvec(std::span<const RowsProduct> products) {
    // clang-format off
    switch (products[0].weight.type) {
        case DType::f32: multiply_packed<DType::f32>(products); return;
        case DType::f16: multiply_packed<DType::f16>(products); return;
        case DType::bf16: multiply_packed<DType::bf16>(products); return;
        case DType::q8_0: multiply_packed<DType::q8_0>(products); return;
        case DType::q5_1: multiply_packed<DType::q5_1>(products); return;
        case DType::q5_0: multiply_packed<DType::q5_0>(products); return;
        case DType::q4_1: multiply_packed<DType::q4_1>(products); return;
        case DType::q4_0: multiply_packed<DType::q4_0>(products); return;
        case DType::iq4_nl: multiply_packed<DType::iq4_nl>(products); return;
        case DType::mxfp4: multiply_packed<DType::mxfp4>(products); return;
        case DType::q4_k: multiply_packed<DType::q4_k>(products); return;
        case DType::q5_k: multiply_packed<DType::q5_k>(products); return;
        case DType::q6_k: multiply_packed<DType::q6_k>(products); return;
        case DType::q2_k: case DType::q3_k: case DType::iq4_xs:
            multiply_expanded(products); return;
        case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // check() has refused these
}

}  // namespace rotkv::fast
