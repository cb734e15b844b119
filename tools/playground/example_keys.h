#pragma once
// Rows to begin with, made up and the same on every machine: sums of uniform numbers, no library's
// logarithms or cosines.
// Docs: docs/34-playground.md

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rotkv::playground {

/// What example_row knows, in the order in which it is offered.
std::span<const char* const> example_names();

/// A row [d]. "normal": unit variance; "one loud channel": one of 12 among these; "a few loud":
/// three; "real-like": channels of unlike sizes, loud ones in the slow pairs of a RoPE that turns
/// channels i and i + d / 2; "an offset": 3 on every channel, which H gathers in one.
/// Throws: Error(usage) for another name, Error(bad_argument) for less than 16 channels.
std::vector<float> example_row(const std::string& name, int64_t d, uint64_t seed);

/// Keys [n][d] of one head. The first is `row`; the others share its loud channels, as keys of a
/// head do: k_i = row (3 + g) / 4 + g / 2, g standard normal.
std::vector<float> keys_like(std::span<const float> row, int64_t n, uint64_t seed);

/// A query [d] of unit variance.
std::vector<float> example_query(int64_t d, uint64_t seed);

}  // namespace rotkv::playground
