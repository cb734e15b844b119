#pragma once
// The next word of each of several texts, from their logits where those lie.
// Docs: docs/31-tasks.md

#include "cuda/kernels.h"

#include <cstdint>
#include <span>

namespace rotkv::cuda {

/// CudaBackend::choose_words(), on its stream; `chosen` [rows of logits] i32, in memory that the
/// device reaches.
void choose_words(const TensorView& logits, double temperature, std::span<const double> u,
                  std::byte* chosen, Stream stream);

}  // namespace rotkv::cuda
