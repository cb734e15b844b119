#pragma once
// Which known mistake would explain results that are wrong (ref/cases/mistake.h), and which case
// would catch which mistake. Docs: docs/10-testing-your-engine.md

#include "tools/parity/parity.h"

#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Holds wrong results of an engine against those of every known mistake.
class LikelyMistakes {
  public:
    /// The result of output `tensor` of a case that fails.
    void add(const Case& one, const Expected& expected, size_t tensor,
             std::span<const std::byte> found);

    /// "likely: the output is not rotated back (12 of the 14 results that fail are what that
    /// gives)" The mistake that explains the most results first, then the one that explains the
    /// most of those that are left; mistakes that explain the same ones share a line. A result is
    /// explained where it is nearer to the mistaken one than a tenth of its distance from the right
    /// one.
    std::vector<std::string> sentences() const;

  private:
    int64_t results_ = 0;
    std::vector<std::vector<int64_t>> explained_;  // [mistake]: numbers of results
};

/// The table of docs/10-testing-your-engine.md: for every known mistake how many of the cases of
/// the whole path catch it, in how many it stays within the bound, in how many it changes nothing;
/// and the first that catches it. Throws Error(usage) unless all of `names` are cases of the path.
std::string mistake_table(std::span<const std::string> names);

}  // namespace rotkv::tools
