#pragma once
// Four ways in which a result can agree with the reference's, and the report where it does not.
// Docs: docs/10-testing-your-engine.md

#include "ref/types.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

enum class Agreement {
    exact,     ///< equal bytes; a NaN computed in f32 or f64 equals any NaN
    rounding,  ///< each element within its own bound, in units of u = 2^-24 of what was summed
    nmse,      ///< sum (a - b)^2 / sum b^2 within one bound
    steps      ///< codes and scales of another engine: off by one where a tie explains it
};
const char* agreement_name(Agreement agreement);

/// One element that does not agree.
struct Difference {
    int64_t index;  ///< in the packed tensor
    double expected, found;
    int64_t ulps;    ///< numbers of the type between the two, INT64_MAX for NaN
    double allowed;  ///< the bound on |found - expected|, 0 where bytes must be equal
};

/// The judgement on one tensor.
struct Verdict {
    bool ok = true;
    int64_t elements = 0, wrong = 0;
    double worst = 0;               ///< largest |error| / bound: how much of the bound is used
    std::vector<Difference> first;  ///< the first ten that are wrong
    std::string words;              ///< what else there is to say, in one line

    /// Up to eleven lines: one sentence, then the first differences.
    std::string report() const;
};

/// Equal bytes. Block types are compared block by block and reported as the values they mean.
Verdict compare_exact(DType type, std::span<const std::byte> expected,
                      std::span<const std::byte> found);

/// |found - expected| <= bound, element by element; NaN agrees with NaN, infinities with
/// themselves. type is f32 or f64.
Verdict compare_rounding(DType type, std::span<const std::byte> expected,
                         std::span<const std::byte> found, std::span<const double> bound);

/// sum (found - expected)^2 <= bound * sum expected^2; infinities agree with themselves. f32.
Verdict compare_nmse(std::span<const std::byte> expected, std::span<const std::byte> found,
                     double bound);

/// Bytes that another engine stored in a cache type, against ours and the values behind them.
/// A code may be one step off where the value lies within 1e-5 of the type's largest code of a
/// tie; a scale or minimum may be one f16 off (of iq4_nl: of the one its own codes give). Plain
/// types may round any value within `error` of ours.
/// Shapes: unrounded, error [rows][d] f32; expected, found as many rows of `type`.
/// Throws: Error(unsupported) for blocks that no cache stores.
Verdict compare_steps(DType type, int64_t d, std::span<const std::byte> expected,
                      std::span<const std::byte> found, std::span<const float> unrounded,
                      std::span<const float> error);

/// How many f32 lie between a and b; INT64_MAX if one of them is a NaN.
int64_t ulps_between(float a, float b);
int64_t ulps_between(double a, double b);

}  // namespace rotkv
