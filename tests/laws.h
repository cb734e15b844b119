#pragma once
// What the laws share: the backends they bind, lengths of rows, and how far rounding carries.
// Docs: docs/09-proof.md

#include "ref/kernels.h"
#include "tests/parity.h"

namespace rotkv::test {

inline constexpr double k_unit = 0x1p-24;  ///< u: half the distance from 1 to the next f32

/// The reference and every other backend that is built.
inline std::vector<std::unique_ptr<Backend>> all_backends() {
    std::vector<std::unique_ptr<Backend>> result = candidates();
    result.insert(result.begin(), make_ref_backend());
    return result;
}

/// The length of a row of d.
template <class Value>
double norm(const Value* x, size_t d) {
    double squares = 0;
    for (size_t i = 0; i < d; ++i) squares += double(x[i]) * double(x[i]);
    return std::sqrt(squares);
}

inline double largest_norm(const std::vector<float>& x, int64_t d) {
    double largest = 0;
    for (size_t i = 0; i < x.size(); i += size_t(d))
        largest = std::max(largest, norm(&x[i], size_t(d)));
    return largest;
}

/// The largest |a - b| of a row of d; a NaN is as far as it gets.
template <class A, class B>
double farthest(const std::vector<A>& a, const std::vector<B>& b, int64_t d) {
    REQUIRE(a.size() == b.size());
    double largest = 0;
    std::vector<double> apart(static_cast<size_t>(d));
    for (size_t i = 0; i < a.size(); i += apart.size()) {
        for (size_t j = 0; j < apart.size(); ++j) apart[j] = double(a[i + j]) - double(b[i + j]);
        const double row = norm(apart.data(), apart.size());
        if (std::isnan(row)) return INFINITY;
        largest = std::max(largest, row);
    }
    return largest;
}

/// |fl(Hx) - Hx| <= this |x|: the scale's own three roundings (sqrt, inverse, product), one for
/// each stage of the butterflies, and one to spare for the products of these.
inline double hadamard_rounding(int64_t block) { return (std::log2(double(block)) + 4) * k_unit; }

}  // namespace rotkv::test
