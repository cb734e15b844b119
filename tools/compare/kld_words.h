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

/// "12 %", "0.5 %" of a share.
std::string percent(double share);

/// A mean KLD as a verdict: four steps, a factor of ten apart, and "rounding" where it is no more
/// than ten times `floor`. The steps are a rule of thumb (docs/14-generate.md shows texts).
std::string words_of_kld(double kld, double floor);

/// Two mean KLDs of the same tokens and the paired difference a - b: which is smaller and how
/// many times, or by how much of the larger; or what difference would have shown.
std::string words_of_pair(const std::string& a, const std::string& b, double kld_a, double kld_b,
                          const Mean& difference, int64_t windows);

/// A line for each variant, one for each pair.
void print_words(std::FILE* out, const LockStep& run);

}  // namespace rotkv::tools
