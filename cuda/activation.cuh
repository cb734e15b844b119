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

// x / (1 + exp(-s)). It is as sensitive to s as s is large: s is f64, and what its float leaves out
// corrects h. Beyond 1000 it is 0 or x whatever s is.
__device__ inline float times_sigmoid(float x, double s) {
    const double half = -0.5 * fabs(s), near = half < -500 ? -500 : half;
    const float high = float(near), low = float(near - double(high));
    const float h = expf(high);
    return times_sigmoid(x, float(s), h + h * low);
}

// x / 2 (1 + tanh(z)) = x / (1 + exp(-s)), s = 2 z = sqrt(8 / pi) (x + 0.044715 x^3).
__device__ inline float gelu_tanh(float x) {
    constexpr double factor = 1.5957691216057308;  // sqrt(8 / pi)
    return times_sigmoid(x, factor * (double(x) + 0.044715 * double(x) * double(x) * double(x)));
}

// Comparisons, not fminf and fmaxf, which would hide a NaN.
__device__ inline float swiglu_oai(float gate, float up) {
    const float g = gate > 7 ? 7 : gate, u = up > 7 ? 7 : up < -7 ? -7 : up;
    return times_sigmoid(g, 1.702 * double(g)) * (u + 1);
}

/// act(gate) * up; agrees with ref within the table's rounding.
__device__ inline float gated(Activation activation, float gate, float up) {
    switch (activation) {
        case Activation::silu:
            return silu(gate) * up;
        case Activation::gelu_tanh:
            return gelu_tanh(gate) * up;
        case Activation::sigmoid:
            return times_sigmoid(up, gate, expf(-0.5f * fabsf(gate)));
        case Activation::swiglu_oai:
            break;
    }
    return swiglu_oai(gate, up);
}

}  // namespace rotkv::cuda
