// A rotation by a matrix. A task is some tokens of one head, whose matrix stays in the cache.
#include "fast/kernels.h"
#include "fast/workspace.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

constexpr int64_t k_tokens = 8;  // of a task

// y_i = sum_j M_ij x_j; `m` are the rows of M, `step` floats apart.
void forward(float* y, const float* x, const float* m, int64_t step, int64_t d) {
    for (int64_t i = 0; i < d; ++i) {
        const float* row = m + i * step;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; ++j) sum += row[j] * x[j];
        y[i] = sum;
    }
}

// y_j = sum_i M_ij x_i
void back(float* y, const float* x, const float* m, int64_t step, int64_t d) {
    std::fill_n(y, d, 0.0f);
    for (int64_t i = 0; i < d; ++i) {
        const float* row = m + i * step;
#pragma omp simd
        for (int64_t j = 0; j < d; ++j) y[j] += row[j] * x[i];
    }
}

}  // namespace

void turn(const TurnArgs& args) {
    const int64_t tokens = args.src.n[1], heads = args.src.n[2], d = args.src.n[3];
    const int64_t group = heads / args.matrix.n[1];  // heads that share a matrix
    const int64_t step = args.matrix.stride[2] / int64_t(sizeof(float));
    const int64_t parts = (tokens + k_tokens - 1) / k_tokens;
    for_each_row(tokens, parts * heads, std::min(tokens, k_tokens) * d * d, [&](int64_t r) {
        const int64_t head = r % heads, first = r / heads * k_tokens;
        const float* m = args.matrix.row<const float>(head / group, 0);
        thread_local Workspace space;
        float* const y = space.reserve(d);  // dst may be src
        for (int64_t t = first; t < std::min(first + k_tokens, tokens); ++t) {
            const float* x = args.src.row<const float>(t, head);
            args.inverse ? back(y, x, m, step, d) : forward(y, x, m, step, d);
            std::copy_n(y, d, args.dst.row<float>(t, head));
        }
    });
}

}  // namespace rotkv::fast
