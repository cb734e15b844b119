#pragma once
// Two lists of hidden states, row by row, as predictions: exactly, or as a base file would have it.
// Docs: docs/07-measuring.md

#include "ref/measure/metrics.h"
#include "ref/model.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

/// Compares b with the base a, both [rows][E] on the host, by operation kld.
/// Memory: a few hundred rows at a time go to the backend.
std::vector<TokenPair> compare_hidden(Model& model, std::span<const float> a,
                                      std::span<const float> b, std::span<const int32_t> target);

/// Compares each of `others` with the base a after rounding a's log-probabilities to 16 bits and
/// back, so that the figures are those of a comparison with a base file.
/// Shapes: a and each of others [rows][E]; rows of whole windows of `per_window` rows.
/// Memory: 64 rows of logits.
std::vector<std::vector<TokenPair>> compare_with_rounded(
    Model& model, std::span<const float> a, const std::vector<std::span<const float>>& others,
    std::span<const int32_t> target, int64_t per_window);

}  // namespace rotkv::tools
