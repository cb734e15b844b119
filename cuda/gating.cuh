#pragma once
// How an expert's logit becomes its p. Each function must equal the one of its name in
// ref/experts.h bit for bit: products and sums round as written (nvcc --fmad=false), quotients and
// roots as IEEE has it. Docs: docs/05-attention.md

#include "ref/backend.h"

#include <cuda_runtime.h>

namespace rotkv::cuda {

// exp(x) for x <= 0: x = k ln 2 + r, and Taylor's series of exp(r).
__device__ inline double exp_of_negative(double x) {
    constexpr double per_ln2 = 0x1.71547652b82fep+0;
    constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    if (x < -700) return 0;
    if (isnan(x)) return x;
    const double k = floor(x * per_ln2 + 0.5);
    const double r = (x - k * ln2_high) - k * ln2_low;
    constexpr struct Inverse {  // of factorials
        double c[14];
        constexpr Inverse() : c() {
            c[0] = 1;
            for (int n = 1; n < 14; ++n) c[n] = c[n - 1] / double(n);
        }
    } inverse;
    double y = inverse.c[13];
#pragma unroll
    for (int n = 12; n >= 0; --n) y = y * r + inverse.c[n];
    return y * __longlong_as_double((static_cast<long long>(k) + 1023) << 52);
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(s), s = e / (2 + e).
__device__ inline double log_of_one_plus(double e) {
    const double s = e / (2 + e), square = s * s;
    double y = 1 / 35.0;
#pragma unroll
    for (int n = 16; n >= 0; --n) y = y * square + 1 / double(2 * n + 1);
    return 2 * s * y;
}

// p of sigmoid and sqrt_softplus.
__device__ inline double gated(Gating gating, double z) {
    const double e = exp_of_negative(-fabs(z));
    if (gating == Gating::sigmoid) return z < 0 ? e / (1 + e) : 1 / (1 + e);
    return sqrt((z > 0 ? z : 0) + log_of_one_plus(e));
}

}  // namespace rotkv::cuda
