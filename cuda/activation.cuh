#pragma once
// What stands between the two products of a feed-forward block, as act_mul and the product of gate
// and up use it. Docs: docs/05-attention.md

#include "ref/backend.h"

namespace rotkv::cuda {

// x / (1 + exp(-s)) from h = exp(-|s| / 2): neither h nor its square can overflow, and for s < 0
// the two factors h keep x h^2 from vanishing before its time.
__device__ inline float times_sigmoid(float x, float s, float h) {
    const float part = 1.0f / (1.0f + h * h);
    return s < 0 ? (x * h) * (h * part) : x * part;
}

__device__ inline float silu(float x) { return times_sigmoid(x, x, expf(-0.5f * fabsf(x))); }

// x / 2 (1 + tanh(z)) = x / (1 + exp(-s)), s = 2 z = sqrt(8 / pi) (x + 0.044715 x^3). The result is
// as sensitive to s as s is large: s is f64, and what its float leaves out corrects h.
__device__ inline float gelu_tanh(float x) {
    constexpr double factor = 1.5957691216057308;  // sqrt(8 / pi)
    const double s = factor * (double(x) + 0.044715 * double(x) * double(x) * double(x));
    const double half = -0.5 * fabs(s);
    const float high = float(half), low = float(half - double(high));
    const float h = expf(high);
    return times_sigmoid(x, float(s), h + h * low);
}

/// act(x); agrees with ref within the table's rounding.
__device__ inline float activate(Activation activation, float x) {
    return activation == Activation::silu ? silu(x) : gelu_tanh(x);
}

}  // namespace rotkv::cuda
