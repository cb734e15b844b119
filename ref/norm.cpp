// Operations of the transformer on rows by themselves: rms_norm, layer_norm, scale, act_mul, add.
#include "ref/kernels.h"
#include "ref/rows.h"

#include <cmath>
#include <numbers>

namespace rotkv::ref {

// A norm's weight, of which there may be none.
static double weight_at(const TensorView& weight, int64_t i) {
    return weight.empty() ? 1.0 : double(weight.row<const float>(0)[i]);
}

// y_i = x_i / sqrt(mean(x^2) + epsilon) * weight_i
void rms_norm(const RmsNormArgs& args) {
    const int64_t d = args.src.n[3];
    for_each_row(args.src, [&](int64_t i0, int64_t i1, int64_t i2) {
        const float* x = args.src.row<const float>(i0, i1, i2);
        float* y = args.dst.row<float>(i0, i1, i2);
        double squares = 0;
        for (int64_t i = 0; i < d; ++i) squares += double(x[i]) * double(x[i]);
        const double scale = 1.0 / std::sqrt(squares / double(d) + double(args.epsilon));
        for (int64_t i = 0; i < d; ++i) {
            y[i] = float(double(x[i]) * scale * weight_at(args.weight, i));
        }
    });
}

// y_i = (x_i - m) / sqrt(mean((x - m)^2) + epsilon) * weight_i, m = mean(x)
void layer_norm(const LayerNormArgs& args) {
    const int64_t d = args.src.n[3];
    for_each_row(args.src, [&](int64_t i0, int64_t i1, int64_t i2) {
        const float* x = args.src.row<const float>(i0, i1, i2);
        float* y = args.dst.row<float>(i0, i1, i2);
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < d; ++i) sum += double(x[i]);
        const double mean = sum / double(d);
        for (int64_t i = 0; i < d; ++i) squares += (double(x[i]) - mean) * (double(x[i]) - mean);
        const double scale = 1.0 / std::sqrt(squares / double(d) + double(args.epsilon));
        for (int64_t i = 0; i < d; ++i) {
            y[i] = float((double(x[i]) - mean) * scale * weight_at(args.weight, i));
        }
    });
}

// y[t] = (scale factor[row[t]]) x[t], both products rounded
void scale(const ScaleArgs& args) {
    for_each_row(args.src, [&](int64_t i0, int64_t t, int64_t head) {
        const float* x = args.src.row<const float>(i0, t, head);
        float* y = args.dst.row<float>(i0, t, head);
        float factor = args.scale;
        if (!args.row.empty()) factor *= args.factor.row<const float>(0)[ints(args.row)[t]];
        for (int64_t i = 0; i < args.src.n[3]; ++i) y[i] = factor * x[i];
    });
}

// act(gate) * up in f64. Comparisons, not min and max, which would hide a NaN.
static double activated(Activation activation, double gate, double up) {
    if (activation == Activation::silu) return gate / (1.0 + std::exp(-gate)) * up;
    if (activation == Activation::sigmoid) return up / (1.0 + std::exp(-gate));
    if (activation == Activation::swiglu_oai) {
        const double g = gate > 7 ? 7 : gate, u = up > 7 ? 7 : up < -7 ? -7 : up;
        return g / (1.0 + std::exp(-1.702 * g)) * (u + 1);
    }
    const double inner = std::sqrt(2.0 / std::numbers::pi) * (gate + 0.044715 * gate * gate * gate);
    return gate / (1.0 + std::exp(-2.0 * inner)) * up;  // (1 + tanh z) / 2, without cancellation
}

// y = act(gate) * up
void act_mul(const ActMulArgs& args) {
    for_each_row(args.dst, [&](int64_t i0, int64_t i1, int64_t i2) {
        const float* gate = args.gate.row<const float>(i0, i1, i2);
        const float* up = args.up.row<const float>(i0, i1, i2);
        float* y = args.dst.row<float>(i0, i1, i2);
        for (int64_t i = 0; i < args.dst.n[3]; ++i) {
            y[i] = float(activated(args.activation, double(gate[i]), double(up[i])));
        }
    });
}

// y = a + b
void add(const AddArgs& args) {
    for_each_row(args.dst, [&](int64_t i0, int64_t i1, int64_t i2) {
        const float* a = args.a.row<const float>(i0, i1, i2);
        const float* b = args.b.row<const float>(i0, i1, i2);
        float* y = args.dst.row<float>(i0, i1, i2);
        for (int64_t i = 0; i < args.dst.n[3]; ++i) y[i] = a[i] + b[i];
    });
}

}  // namespace rotkv::ref
