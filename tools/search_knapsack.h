#pragma once
// The multiple-choice knapsack: of every place one choice, with the least damage that so many bytes
// allow.
// Docs: docs/26-search.md

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace rotkv::tools {

/// What a place may hold.
struct KnapsackChoice {
    int64_t bytes = 0;  ///< >= 0
    double damage = 0;  ///< a number; sums of them are what counts
};

/// The number of the choice of each place, with the least sum of damages among all with no more
/// than `budget` bytes; of equals the one with the fewest bytes. Nothing where none fits. Math:
/// least(i, b) = min over c of least(i - 1, b - bytes_c) + damage_c, exact. Source: dynamic
/// programming over the bytes, as in Kellerer, Pferschy, Pisinger, "Knapsack
///         Problems" (2004), 11.5.
/// Cost:   budget / g steps for every choice and a byte of memory for every place, g the greatest
///         common divisor of all choices' bytes.
/// Throws: Error(bad_argument) for a place without choices or with more than 255, for bytes below 0
///         and for damages that are not numbers.
std::optional<std::vector<std::size_t>> solve_knapsack(
    std::span<const std::vector<KnapsackChoice>> places, int64_t budget);

}  // namespace rotkv::tools
