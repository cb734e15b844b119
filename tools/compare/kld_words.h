#pragma once
// What rotkv-kld found, in sentences: what each cache costs, which of two costs less, and what so
// many windows cannot tell.
// Docs: docs/07-measuring.md

#include "tools/compare/kld_run.h"
#include "tools/compare/paired.h"

#include <cstdint>
#include <cstdio>
#include <string>

namespace rotkv::tools {

/// "12 %", "0.5 %", "0.02 %" of a share.
std::string percent(double share);

/// How an error is printed: as `shown`, or "-" of a mean that is a number and whose error is none,
/// which one window gives.
std::string unless_one_window(const Mean& mean, const std::string& shown);
inline constexpr const char* k_one_window = "no error from one window";

/// A mean KLD with six decimals, but none that is not 0 as 0; "0.012000 +- 0.001000" with its
/// error.
std::string decimals(double x);
std::string plus_minus(const Mean& mean);

/// A mean KLD as a verdict: four steps, a factor of ten apart, and "rounding" where it is no more
/// than ten times `floor`, the KLD of the base from itself. The steps are a rule of thumb
/// (docs/14-generate.md shows texts).
std::string words_of_kld(double kld, double floor);

/// A variant in a sentence.
struct NamedKld {
    std::string name;
    double kld = 0;  ///< its mean
};

/// Two mean KLDs of the same tokens and their paired `difference` a - b, error by windows. Where
/// p < k_doubt: which is smaller and how many times, or by how much of the larger. Elsewhere
/// smallest_difference() as a share of the larger: every second text of as many windows would show
/// a true difference of that size, fewer a smaller one.
std::string words_of_pair(const NamedKld& a, const NamedKld& b, double floor,
                          const Mean& difference, int64_t windows);

/// A line for each variant, one for each pair.
void print_words(std::FILE* out, const LockStep& run);

}  // namespace rotkv::tools
