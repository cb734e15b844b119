#pragma once
// How an expert's logit becomes its p: in f64, by sums, products, quotients and roots alone, each
// of which IEEE 754 rounds in one way. Libraries differ in the last bits of exp and log, and a
// choice among experts is a step: a last bit would decide it.
// Docs: docs/18-models.md

#include "ref/ops.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace rotkv::ref {

/// exp(x) for x <= 0, to about 2^-52 of itself; 0 below -700. NaN for NaN.
/// Math: x = k ln 2 + r with |r| <= ln(2) / 2, and exp(r) by Taylor's series up to r^13 / 13!.
inline double exp_of_negative(double x) {
    constexpr double per_ln2 = 0x1.71547652b82fep+0;
    constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr std::array<double, 14> inverse_factorial = [] {
        std::array<double, 14> c{1};
        for (size_t n = 1; n < c.size(); ++n) c[n] = c[n - 1] / double(n);
        return c;
    }();
    if (x < -700) return 0;
    if (std::isnan(x)) return x;
    const double k = std::floor(x * per_ln2 + 0.5);
    const double r = (x - k * ln2_high) - k * ln2_low;  // k ln2_high is exact
    double y = inverse_factorial[13];
    for (size_t n = 13; n-- > 0;) y = y * r + inverse_factorial[n];
    return y * std::bit_cast<double>((int64_t(k) + 1023) << 52);  // 2^k, exact
}

/// log(1 + e) for 0 <= e <= 1, to about 2^-52 of itself. NaN for NaN.
/// Math: 2 atanh(s) = 2 s (1 + s^2 / 3 + s^4 / 5 + ...), s = e / (2 + e) <= 1/3.
inline double log_of_one_plus(double e) {
    static constexpr std::array<double, 18> inverse_odd = [] {
        std::array<double, 18> c{};
        for (size_t n = 0; n < c.size(); ++n) c[n] = 1 / double(2 * n + 1);
        return c;
    }();
    const double s = e / (2 + e), square = s * s;
    double y = inverse_odd[17];
    for (size_t n = 17; n-- > 0;) y = y * square + inverse_odd[n];
    return 2 * s * y;
}

/// p where an expert's own logit is all that it takes: sigmoid and sqrt_softplus.
inline double gated(Gating gating, double z) {
    const double e = exp_of_negative(-std::fabs(z));
    if (gating == Gating::sigmoid) return z < 0 ? e / (1 + e) : 1 / (1 + e);
    return std::sqrt((z > 0 ? z : 0) + log_of_one_plus(e));
}

/// Sums over all experts are as many sums side by side, expert x in sum x mod 32, which are then
/// folded by halves: what the lanes of a GPU do.
inline constexpr int64_t k_sums = 32;

/// One token of route.
void route_token(const RouteArgs& args, int64_t t);

}  // namespace rotkv::ref
