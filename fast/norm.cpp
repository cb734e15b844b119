// Operations of the transformer on rows by themselves: rms_norm, layer_norm, scale, act_mul, add.
// Sums of a row are one thread's.
#include "fast/kernels.h"
#include "fast/simd.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rotkv::fast {

namespace {

// Of [tokens][E] or [tokens][heads][D]; of one token its heads, which are as few.
int64_t tokens_of(const TensorView& tensor) { return tensor.n[1] > 1 ? tensor.n[1] : tensor.n[2]; }

}  // namespace

// y_i = x_i / sqrt(mean(x^2) + epsilon) * weight_i
// The sum runs in f64, so that only the roundings of the two products and of the factor remain.
void rms_norm(const RmsNormArgs& args) {
    const int64_t rows = args.src.rows(), d = args.src.n[3];
    const std::vector<float> ones(args.weight.empty() ? size_t(d) : 0, 1.0f);
    const float* weight = args.weight.empty() ? ones.data() : args.weight.row<const float>(0);
    for_each_row(tokens_of(args.src), rows, d, [&](int64_t r) {
        const float* x = row_number<const float>(args.src, r);
        float* y = row_number<float>(args.dst, r);
        double squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < d; ++i) squares += double(x[i]) * double(x[i]);
        const double scale = 1.0 / std::sqrt(squares / double(d) + double(args.epsilon));
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) y[i] = x[i] * float(scale) * weight[i];
    });
}

// y_i = (x_i - m) / sqrt(mean((x - m)^2) + epsilon) * weight_i, m = mean(x)
// The differences are taken in f64: beside a large mean they are what f32 would lose.
void layer_norm(const LayerNormArgs& args) {
    const int64_t rows = args.src.rows(), d = args.src.n[3];
    const float* weight = args.weight.row<const float>(0);
    for_each_row(tokens_of(args.src), rows, d, [&](int64_t r) {
        const float* x = row_number<const float>(args.src, r);
        float* y = row_number<float>(args.dst, r);
        double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < d; ++i) sum += double(x[i]);
        const double mean = sum / double(d);
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < d; ++i) squares += (double(x[i]) - mean) * (double(x[i]) - mean);
        const double scale = 1.0 / std::sqrt(squares / double(d) + double(args.epsilon));
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) y[i] = float((double(x[i]) - mean) * scale) * weight[i];
    });
}

// y[t] = (scale factor[row[t]]) x[t]
void scale(const ScaleArgs& args) {
    const int64_t heads = args.src.n[2], rows = args.src.n[1] * heads, d = args.src.n[3];
    for_each_row(args.src.n[1], rows, d, [&](int64_t r) {
        const int64_t t = r / heads, head = r % heads;
        const float* x = args.src.row<const float>(t, head);
        float* y = args.dst.row<float>(t, head);
        float factor = args.scale;
        if (!args.row.empty()) factor *= args.factor.row<const float>(0)[ints(args.row)[t]];
#pragma omp simd
        for (int64_t i = 0; i < d; ++i) y[i] = factor * x[i];
    });
}

namespace {

// visit(r, first, n) for pieces of rows, where elements know nothing of each other: one token's row
// may be long.
template <class Visit>
void for_each_piece(const TensorView& tensor, const Visit& visit) {
    constexpr int64_t length = 4096;
    const int64_t n = tensor.n[3], pieces = (n + length - 1) / length;
    const int64_t rows = tensor.rows() * pieces;
    for_each_row(tokens_of(tensor), rows, std::min(n, length), [&](int64_t i) {
        const int64_t r = i / pieces, first = i % pieces * length;
        visit(r, first, std::min(length, n - first));
    });
}

// x / (1 + exp(-s)) from h = exp(-|s| / 2): with s < 0 it is x h h / (1 + h h), where nothing
// overflows, and nothing vanishes before the result does.
Vec times_sigmoid(const Vec& x, const Vec& s, const Vec& h) {
    const Vec top = xsimd::select(s < Vec(0.0f), x * h * h, x);
    return top / (Vec(1.0f) + h * h);
}

Vec half_exp(const Vec& s) { return exp(Vec(-0.5f) * xsimd::abs(s)); }

void silu_mul(float* y, const float* gate, const float* up, int64_t n) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        const Vec x = load_part(gate + i, n - i), u = load_part(up + i, n - i);
        store_part(y + i, times_sigmoid(x, x, half_exp(x)) * u, n - i);
    }
}

void sigmoid_mul(float* y, const float* gate, const float* up, int64_t n) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        const Vec x = load_part(gate + i, n - i), u = load_part(up + i, n - i);
        store_part(y + i, times_sigmoid(u, x, half_exp(x)), n - i);
    }
}

// s as a sum of two floats: x / (1 + exp(-s)) is as sensitive to s as s is large.
struct Split {
    float sum, rest;

    explicit Split(double s) : sum(float(s)), rest(float(s - double(sum))) {}
};

constexpr int64_t k_part = 256;  // of a row, whose sums and rests wait in the L1 cache

// x / (1 + exp(-s)) * factor. The rest corrects h: exp(-|s + rest| / 2) = h (1 -+ rest / 2 + ...).
// Beyond 1000 h is 0 whatever the rest is: no number, where the sum is infinite.
void finish(float* y, const float* x, const float* factor, const float* sums, const float* rests,
            int64_t n) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        const int64_t left = n - i;
        const Vec s = load_part(sums + i, left), rest = load_part(rests + i, left);
        const Vec growth = xsimd::select(s < Vec(0.0f), rest, -rest);
        const Vec correction = Vec(1.0f) + Vec(0.5f) * growth, near = half_exp(s);
        const Vec h = xsimd::select(xsimd::abs(s) > Vec(1000.0f), near, near * correction);
        store_part(y + i, times_sigmoid(load_part(x + i, left), s, h) * load_part(factor + i, left),
                   left);
    }
}

// x / 2 (1 + tanh(z)) = x / (1 + exp(-s)), s = 2 z = sqrt(8 / pi) (x + 0.044715 x^3).
void gelu_tanh_mul(float* y, const float* gate, const float* up, int64_t n) {
    constexpr double factor = 2.0 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi;
    float sums[k_part], rests[k_part];
    for (int64_t first = 0; first < n; first += k_part) {
        const int64_t count = std::min(k_part, n - first);
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            const double x = double(gate[first + i]);
            const Split s(factor * (x + 0.044715 * x * x * x));
            sums[i] = s.sum;
            rests[i] = s.rest;
        }
        finish(y + first, gate + first, up + first, sums, rests, count);
    }
}

// g / (1 + exp(-1.702 g)) (1 + u), both cut by comparisons, which keep a NaN. In vectors written
// out: of cuts one after the other the compiler makes branches.
void swiglu_oai_mul(float* y, const float* gate, const float* up, int64_t n) {
    const Vec most(7.0f);
    float sums[k_part], rests[k_part], tops[k_part], factors[k_part];
    for (int64_t first = 0; first < n; first += k_part) {
        const int64_t count = std::min(k_part, n - first);
        for (int64_t i = 0; i < count; i += k_lanes) {
            const Vec g = load_part(gate + first + i, count - i);
            const Vec u = load_part(up + first + i, count - i);
            const Vec above = xsimd::select(u < -most, -most, u);
            store_part(tops + i, xsimd::select(g > most, most, g), count - i);
            store_part(factors + i, xsimd::select(above > most, most, above) + Vec(1.0f),
                       count - i);
        }
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
            const Split s(1.702 * double(tops[i]));
            sums[i] = s.sum;
            rests[i] = s.rest;
        }
        finish(y + first, tops, factors, sums, rests, count);
    }
}

using ActMulRow = void (*)(float* y, const float* gate, const float* up, int64_t n);
ActMulRow row_of(Activation activation) {
    switch (activation) {
        case Activation::silu:
            return silu_mul;
        case Activation::gelu_tanh:
            return gelu_tanh_mul;
        case Activation::sigmoid:
            return sigmoid_mul;
        case Activation::swiglu_oai:
            break;
    }
    return swiglu_oai_mul;
}

}  // namespace

void act_mul_row(Activation activation, float* y, const float* gate, const float* up, int64_t n) {
    row_of(activation)(y, gate, up, n);
}

// y = act(gate) * up
void act_mul(const ActMulArgs& args) {
    const ActMulRow row = row_of(args.activation);
    for_each_piece(args.dst, [&](int64_t r, int64_t first, int64_t n) {
        row(row_number<float>(args.dst, r) + first, row_number<const float>(args.gate, r) + first,
            row_number<const float>(args.up, r) + first, n);
    });
}

// y = a + b
void add(const AddArgs& args) {
    for_each_piece(args.dst, [&](int64_t r, int64_t first, int64_t n) {
        float* y = row_number<float>(args.dst, r) + first;
        const float* a = row_number<const float>(args.a, r) + first;
        const float* b = row_number<const float>(args.b, r) + first;
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
    });
}

}  // namespace rotkv::fast
