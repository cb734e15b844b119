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
    std::string likeness;           ///< of a result that is wrong: likeness() of all of it

    /// "7 of 448 elements, cos 0.984, norm x 1", and `words`; where all is well, these alone.
    std::string summary() const;
    /// Up to twelve lines: the summary, then the first differences; of a tensor of several
    /// `extents` each with its place, [t][h][d], beside its number in the packed tensor.
    std::string report(std::span<const int64_t> extents = {}) const;
};

/// The numbers of a packed tensor, of blocks what they mean; of indices none.
std::vector<double> numbers_of(DType type, std::span<const std::byte> bytes);

/// "cos 0.984, norm x 1": how found lies to expected as a vector, over elements that are finite in
/// both. A factor shows in the norm, a rotation in the cos. Empty where there is nothing to compare
/// and for integers.
std::string likeness(DType type, std::span<const std::byte> expected,
                     std::span<const std::byte> found);

/// Equal bytes. Block types are compared block by block and reported as the values they mean.
Verdict compare_exact(DType type, std::span<const std::byte> expected,
                      std::span<const std::byte> found);

/// Which numbers that are not finite agree: those of one kind, NaN with NaN and each infinity with
/// itself; or any with any, where the order of sums decides between inf - inf and inf.
enum class NotFinite { same_kind, any };

/// |found - expected| <= bound, element by element; an infinite bound on a finite number asks for
/// nothing. type is f32 or f64.
Verdict compare_rounding(DType type, std::span<const std::byte> expected,
                         std::span<const std::byte> found, std::span<const double> bound,
                         NotFinite not_finite = NotFinite::same_kind);

/// sum (found - expected)^2 <= bound * sum expected^2 over what is finite in expected, and found is
/// finite there and nowhere else. f32.
Verdict compare_nmse(std::span<const std::byte> expected, std::span<const std::byte> found,
                     double bound, NotFinite not_finite = NotFinite::same_kind);

/// Bytes that another engine stored in a cache type, against ours and the values behind them.
/// A code may be one step off where the value lies within 1e-5 of the type's largest code of a
/// tie; a scale or minimum may be one f16 off (of iq4_nl: of the one its own codes give). Plain
/// types may round any value within `error` of ours. Of blocks that ggml leaves undefined, those
/// that are not finite are not judged at all, and of those whose step is so small that 1 / step is
/// not finite, or less than iq4_nl knows, only the scale and the minimum.
/// Shapes: unrounded, error [rows][d] f32; expected, found as many rows of `type`.
/// Throws: Error(unsupported) for blocks that no cache stores.
Verdict compare_steps(DType type, int64_t d, std::span<const std::byte> expected,
                      std::span<const std::byte> found, std::span<const float> unrounded,
                      std::span<const float> error);

/// How far from ours the numbers may lie that compare_steps lets another engine store, where it had
/// values to store that are within `error` of ours, and rounds scales and minimums to the nearest
/// f16: where a value lies on a tie, the distance between its codes; where a scale or a minimum
/// does, one f16 of it. Infinite in blocks that are not judged.
/// Math: with e the largest error of a block, positions on the scale of its codes move by 3 e / d,
///       its scale by e / steps (minimum: 2 e / steps), its minimum by e. Where the two ends of a
///       block with a peak are within e of each other, either may be the peak (which compare_steps
///       would not let pass): two steps, of a fitted scale anything.
/// Shapes: unrounded, error, result [rows][d]; ours as many rows of `type`.
std::vector<float> reach_of_steps(DType type, int64_t d, std::span<const std::byte> ours,
                                  std::span<const float> unrounded, std::span<const float> error);

/// How many f32 lie between a and b; INT64_MAX if one of them is a NaN.
int64_t ulps_between(float a, float b);
int64_t ulps_between(double a, double b);

}  // namespace rotkv
