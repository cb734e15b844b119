#pragma once
// Hidden states, row by row, as predictions compared with those that a base file would hold.
// Docs: docs/07-measuring.md

#include "ref/measure/metrics.h"
#include "ref/model.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

/// Compares each of `others` with the base a after rounding a's log-probabilities to 16 bits and
/// back, so that the figures are those of a comparison with a base file.
/// Shapes: a and each of others [rows][E]; rows of whole windows of `per_window` rows.
/// Memory: 64 rows of logits.
std::vector<std::vector<TokenPair>> compare_with_rounded(
    Model& model, std::span<const float> a, const std::vector<std::span<const float>>& others,
    std::span<const int32_t> target, int64_t per_window);

}  // namespace rotkv::tools
