// A mixture of experts: the choice, products with the chosen, their sum.
//
// Products are those of matmul. Tokens are sorted by expert first: an expert that few use gets
// matvec's loop, all of them together one; an expert that many use gets panels, and reads its
// weights once for all of them.
#include "ref/experts.h"

#include "fast/kernels.h"
#include "fast/matvec.h"
#include "fast/workspace.h"

#include <oneapi/dnnl/dnnl.h>

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

// An expert that many rows use: rows first .. first + count of the gathered ones.
struct LargeProduct {
    TensorView weight;
    int64_t first, count;
};

// y [rows][out] = x [rows][in], each by its expert, a panel of a matrix at a time. A thread expands
// its panel into its own cache, so that threads meet only at the end.
void multiply_panels(std::span<const LargeProduct> products, const float* x, float* y) {
    constexpr int64_t largest = 1 << 18;  // floats of a panel: what an L2 cache holds
    const int64_t in = products[0].weight.n[3], out = products[0].weight.n[2];
    const int64_t rows = std::min(out, std::max<int64_t>(16, largest / std::max<int64_t>(1, in)));
    const int64_t panels = (out + rows - 1) / rows, tasks = int64_t(products.size()) * panels;
#pragma omp parallel
    {
        thread_local Workspace space;
        float* const panel = space.reserve(rows * in);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            const LargeProduct& product = products[size_t(task / panels)];
            const int64_t first = task % panels * rows, count = std::min(rows, out - first);
            for (int64_t r = 0; r < count; ++r) {
                const std::byte* packed = product.weight.row<const std::byte>(first + r);
                dequantize_row(product.weight.type, panel + r * in, packed, in);
            }
            // Row-major: y = 1 * x * panel^T + 0 * y. The status would only tell of wrong
            // arguments.
            dnnl_sgemm('N', 'T', product.count, count, in, 1.0f, x + product.first * in, in, panel,
                       in, 0.0f, y + product.first * out + first, out);
        }
    }
}

// All experts that many rows use. Rows are gathered first and the results scattered last: products
// want them at equal distances.
void multiply_many(std::span<const LargeProduct> products, const Uses& uses, Precision precision) {
    thread_local Workspace x_space, y_space;
    const int64_t in = products[0].weight.n[3], out = products[0].weight.n[2];
    const int64_t rows = int64_t(uses.x.size());
    float* const x = x_space.reserve(rows * in);
    float* const y = y_space.reserve(rows * out);
#pragma omp parallel for if (rows * in >= k_parallel_from)
    for (int64_t r = 0; r < rows; ++r) std::copy_n(uses.x[size_t(r)], in, x + r * in);

    if (precision == Precision::f32) multiply_panels(products, x, y);
    for (const LargeProduct& product : products) {
        if (precision == Precision::f32) break;
        const TensorView src = view(x + product.first * in, DType::f32, {product.count, in});
        const TensorView dst = view(y + product.first * out, DType::f32, {product.count, out});
        matmul({.dst = dst, .weight = product.weight, .src = src, .precision = precision});
    }

    for (const LargeProduct& product : products) {
        const int64_t end = product.first + product.count;
#pragma omp parallel for if (product.count * out >= k_parallel_from)
        for (int64_t r = product.first; r < end; ++r) {
            std::copy_n(y + r * out, out, uses.y[size_t(r)]);
        }
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
    std::vector<LargeProduct> large;
    for (int64_t e = 0; e < args.weight.n[1]; ++e) {
        const int64_t first = uses.first[size_t(e)], count = uses.first[size_t(e) + 1] - first;
        if (count == 0) continue;
        TensorView weight = args.weight;
        weight.data += e * weight.stride[1];
        weight.n[1] = 1;
        if (count > k_few_tokens) {
            large.push_back({weight, first, count});
        } else {
            small.push_back({weight, std::span(uses.x).subspan(size_t(first), size_t(count)),
                             std::span(uses.y).subspan(size_t(first), size_t(count))});
        }
    }
    if (!large.empty()) multiply_many(large, uses, args.precision);
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
