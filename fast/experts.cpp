// A mixture of experts: the choice, products with the chosen, their sum.
//
// Products are those of matmul, with tokens sorted by expert. Experts that few tokens chose share
// one loop of matvec; the others go by panels, and each weight is read once for all its tokens.
#include "ref/experts.h"

#include "fast/kernels.h"
#include "fast/packed_products.h"
#include "fast/panel.h"
#include "fast/workspace.h"

#include <algorithm>
#include <span>
#include <vector>

namespace rotkv::fast {

// Shared with ref, so that the table proves only the loop over tokens here: X numbers a token are
// not worth a second implementation beside X E products.
void route(const RouteArgs& args) {
    constexpr int64_t of_expert = 16;  // cost of its p, in elements as for_each_row() counts them
    const int64_t tokens = args.logits.n[2], cost = of_expert * args.logits.n[3] * tokens;
#pragma omp parallel for if (cost >= k_parallel_from)
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

void gather(float* to, std::span<const float* const> rows, int64_t n) {
    for (const float* row : rows) to = std::copy_n(row, n, to);
}

// Columns first .. first + n of the rows, from [rows][n].
void scatter(std::span<float* const> rows, int64_t first, const float* from, int64_t n) {
    for (float* row : rows) {
        std::copy_n(from, n, row + first);
        from += n;
    }
}

// Experts that many rows use, a panel of a matrix at a time: a thread expands it, and gathers the
// rows, into its own caches, so that threads meet only at the end.
void multiply_panels(std::span<const RowsProduct> products) {
    constexpr int64_t largest = 1 << 18;  // floats of a panel: what an L2 cache holds
    const int64_t in = products[0].weight.n[3], out = products[0].weight.n[2];
    const int64_t rows = std::min(out, std::max<int64_t>(16, largest / std::max<int64_t>(1, in)));
    const int64_t panels = (out + rows - 1) / rows, tasks = int64_t(products.size()) * panels;
#pragma omp parallel
    {
        thread_local Workspace panel_space, x_space, y_space;
        float* const panel = panel_space.reserve(rows * in);
        const RowsProduct* gathered = nullptr;
        float* x = nullptr;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            const RowsProduct& product = products[size_t(task / panels)];
            const int64_t first = task % panels * rows, count = std::min(rows, out - first);
            const int64_t uses = int64_t(product.x.size());
            for (int64_t r = 0; r < count; ++r) {
                const std::byte* packed = product.weight.row<const std::byte>(first + r);
                dequantize_row(product.weight.type, panel + r * in, packed, in);
            }
            if (gathered != &product) {
                x = x_space.reserve(uses * in);
                gather(x, product.x, in);
                gathered = &product;
            }
            float* const y = y_space.reserve(uses * count);
            multiply_panel(y, count, view(x, DType::f32, {uses, in}), 0, uses,
                           {panel, in, first, count, in});
            scatter(product.y, first, y, count);
        }
    }
}

// The same by matmul, one after the other, where factors are rounded.
void multiply_rounded(const RowsProduct& product, Precision precision) {
    thread_local Workspace x_space, y_space;
    const int64_t uses = int64_t(product.x.size());
    const int64_t in = product.weight.n[3], out = product.weight.n[2];
    float *const x = x_space.reserve(uses * in), *const y = y_space.reserve(uses * out);
    gather(x, product.x, in);
    matmul({.dst = view(y, DType::f32, {uses, out}),
            .weight = product.weight,
            .src = view(x, DType::f32, {uses, in}),
            .precision = precision});
    scatter(product.y, 0, y, out);
}

}  // namespace

void add_expert_bias(const ExpertMatmulArgs& args) {
    const int64_t uses = args.dst.n[2], out = args.dst.n[3], rows = args.dst.n[1] * uses;
    for_each_row(args.dst.n[1], rows, out, [&](int64_t r) {
        const float* bias = args.bias.row<const float>(ints(args.id, r / uses)[r % uses]);
        float* y = args.dst.row<float>(r / uses, r % uses);
#pragma omp simd
        for (int64_t o = 0; o < out; ++o) y[o] += bias[o];
    });
}

// y[t, a, o] = sum_i w[id[t, a], o, i] x[t, a, i] + bias[id[t, a], o]
void expert_matmul(const ExpertMatmulArgs& args) {
    if (args.dst.empty()) return;
    const Uses uses(args);
    std::vector<RowsProduct> small, large;  // few rows of an expert, and many
    for (int64_t e = 0; e < args.weight.n[1]; ++e) {
        const size_t first = size_t(uses.first[size_t(e)]);
        const size_t count = size_t(uses.first[size_t(e) + 1]) - first;
        if (count == 0) continue;
        TensorView weight = args.weight;
        weight.data += e * weight.stride[1];
        weight.n[1] = 1;
        const bool is_packed =
            int64_t(count) <= k_few_tokens ||
            (args.precision == Precision::f32 && team_multiplies(int64_t(count)));
        (is_packed ? small : large)
            .push_back({weight, std::span(uses.x).subspan(first, count),
                        std::span(uses.y).subspan(first, count)});
    }
    const bool rounded = args.precision != Precision::f32;
    if (!large.empty() && !rounded) multiply_panels(large);
    for (const RowsProduct& product : large) {
        if (rounded) multiply_rounded(product, args.precision);
    }
    if (!small.empty()) multiply_packed(small);
    if (!args.bias.empty()) add_expert_bias(args);
}

// y[t, i] = sum_a weight[t, a] x[t, a, i]
// Products of two f32 are exact in f64, so that the order of a alone decides the result's bits.
void expert_sum(const ExpertSumArgs& args) {
    constexpr int64_t part = 256;  // of a row, in registers and the L1 cache
    const int64_t tokens = args.dst.n[2], n = args.dst.n[3], uses = args.src.n[2];
    const int64_t parts = (n + part - 1) / part;
#pragma omp parallel for if (tokens > k_few_tokens && tokens * n * uses >= k_parallel_from)
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
