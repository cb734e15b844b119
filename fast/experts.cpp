// A mixture of experts: the choice, products with the chosen, their sum.
//
// Products are those of matmul. Tokens are sorted by expert first: an expert that few use gets
// matvec's loop, all of them together one; an expert that many use gets panels, and reads its
// weights once for all of them.
#include "ref/experts.h"

#include "fast/kernels.h"
#include "fast/matvec.h"
#include "fast/workspace.h"

#include <algorithm>
#include <span>
#include <vector>

namespace rotkv::fast {

// The choice is not worth a second implementation: X numbers a token, beside X E products.
void route(const RouteArgs& args) {
    constexpr int64_t of_expert = 16;  // its p takes as long as so many elements of other rows
    const int64_t tokens = args.logits.n[2], work = of_expert * args.logits.n[3] * tokens;
#pragma omp parallel for if (work >= k_parallel_from)
    for (int64_t t = 0; t < tokens; ++t) ref::route_token(args, t);
}

namespace {

// Rows of src and dst by expert: those of expert e are first[e] .. first[e + 1].
struct Uses {
    std::vector<int64_t> first;
    std::vector<const float*> x;
    std::vector<float*> y;

    explicit Uses(const ExpertMatmulArgs& args)
        : first(size_t(args.weight.n[1] + 1)),
          x(size_t(args.dst.rows())),
          y(size_t(args.dst.rows())) {
        const int64_t tokens = args.dst.n[1], uses = args.dst.n[2];
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t a = 0; a < uses; ++a) ++first[size_t(ints(args.id, t)[a] + 1)];
        }
        for (size_t e = 1; e < first.size(); ++e) first[e] += first[e - 1];
        std::vector<int64_t> next = first;
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t a = 0; a < uses; ++a) {
                const size_t at = size_t(next[size_t(ints(args.id, t)[a])]++);
                x[at] = args.src.row<const float>(t, a);
                y[at] = args.dst.row<float>(t, a);
            }
        }
    }
};

// The rows as a view [rows][n], if they lie at equal distances and none over another; else empty.
template <class E>
TensorView even_rows(std::span<E* const> rows, int64_t n) {
    const int64_t step = (rows[1] - rows[0]) * int64_t(sizeof(float));
    for (size_t r = 1; r < rows.size(); ++r) {
        if ((rows[r] - rows[r - 1]) * int64_t(sizeof(float)) != step) return {};
    }
    if (step < n * int64_t(sizeof(float))) return {};
    TensorView result = view(rows[0], DType::f32, {int64_t(rows.size()), n});
    result.stride[2] = step;
    return result;
}

// One expert and the many rows that use it, by matmul, which wants them at equal distances.
void multiply_many(const TensorView& weight, std::span<const float* const> x,
                   std::span<float* const> y, Precision precision) {
    thread_local Workspace x_space, y_space;
    const int64_t rows = int64_t(x.size()), out = weight.n[2], in = weight.n[3];
    TensorView src = even_rows(x, in), dst = even_rows(y, out);
    const bool apart = dst.empty();
    if (src.empty()) {
        float* const gathered = x_space.reserve(rows * in);
#pragma omp parallel for if (rows * in >= k_parallel_from)
        for (int64_t r = 0; r < rows; ++r) std::copy_n(x[size_t(r)], in, gathered + r * in);
        src = view(gathered, DType::f32, {rows, in});
    }
    if (apart) dst = view(y_space.reserve(rows * out), DType::f32, {rows, out});
    matmul({.dst = dst, .weight = weight, .src = src, .precision = precision});
#pragma omp parallel for if (rows * out >= k_parallel_from)
    for (int64_t r = 0; r < (apart ? rows : 0); ++r) {
        std::copy_n(dst.row<const float>(r), out, y[size_t(r)]);
    }
}

void add_bias(const ExpertMatmulArgs& args) {
    const int64_t uses = args.dst.n[2], out = args.dst.n[3], rows = args.dst.n[1] * uses;
#pragma omp parallel for if (rows * out >= k_parallel_from)
    for (int64_t r = 0; r < rows; ++r) {
        const float* bias = args.bias.row<const float>(ints(args.id, r / uses)[r % uses]);
        float* y = args.dst.row<float>(r / uses, r % uses);
#pragma omp simd
        for (int64_t o = 0; o < out; ++o) y[o] += bias[o];
    }
}

}  // namespace

// y[t, a, o] = sum_i w[id[t, a], o, i] x[t, a, i] + bias[id[t, a], o]
void expert_matmul(const ExpertMatmulArgs& args) {
    if (args.dst.empty()) return;
    const Uses uses(args);
    std::vector<SmallProduct> small;
    for (int64_t e = 0; e < args.weight.n[1]; ++e) {
        const size_t first = size_t(uses.first[size_t(e)]);
        const size_t count = size_t(uses.first[size_t(e) + 1]) - first;
        const std::span x = std::span(uses.x).subspan(first, count);
        const std::span y = std::span(uses.y).subspan(first, count);
        TensorView weight = args.weight;
        weight.data += e * weight.stride[1];
        weight.n[1] = 1;
        if (int64_t(count) > k_few_tokens) {
            multiply_many(weight, x, y, args.precision);
        } else if (count > 0) {
            small.push_back({weight, x, y});
        }
    }
    if (!small.empty()) matvec(small);
    if (!args.bias.empty()) add_bias(args);
}

// y[t, i] = sum_a weight[t, a] x[t, a, i]
// Products of two f32 are exact in f64, so that the order of a alone decides the result's bits.
void expert_sum(const ExpertSumArgs& args) {
    constexpr int64_t part = 256;  // of a row, in registers and the L1 cache
    const int64_t tokens = args.dst.n[2], n = args.dst.n[3], uses = args.src.n[2];
    const int64_t parts = (n + part - 1) / part;
#pragma omp parallel for if (tokens * n * uses >= k_parallel_from)
    for (int64_t p = 0; p < tokens * parts; ++p) {
        const int64_t t = p / parts, first = p % parts * part, count = std::min(part, n - first);
        double sums[part] = {};
        for (int64_t a = 0; a < uses; ++a) {
            const double weight = double(args.weight.row<const float>(t)[a]);
            const float* x = args.src.row<const float>(t, a) + first;
#pragma omp simd
            for (int64_t i = 0; i < count; ++i) sums[i] += weight * double(x[i]);
        }
        float* y = args.dst.row<float>(t) + first;
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) y[i] = float(sums[i]);
    }
}

}  // namespace rotkv::fast
