#pragma once
// The next words of several texts, from logits in a backend's memory.
// Docs: docs/31-tasks.md

#include "ref/backend.h"

#include <cstdint>
#include <span>

namespace rotkv::tools {

/// choose_word() of tools/sampling.h for each row: by a CUDA device that has them (there sums are
/// rounded in another order), else on the host, by the backend's threads.
/// Shapes: logits [n][V] f32, n at most k_max_logit_rows; chosen [n], -1 where a logit is not
///         finite; u [n], or none at temperature 0.
/// Throws: what the backend throws.
void choose_words(Backend& backend, const TensorView& logits, double temperature,
                  std::span<const double> u, std::span<int32_t> chosen);

}  // namespace rotkv::tools
