#pragma once
// How far two stored rows are apart, counted in what their type can tell apart.
// Docs: docs/24-saved-caches.md

#include "ref/cache_type.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

struct StepsApart {
    int64_t elements = 0, equal = 0, one_step = 0;  ///< the same; at most 1.5 steps off
    double rms = 0, most = 0;                       ///< steps
    int64_t row = 0, channel = 0;                   ///< where they are furthest apart

    int64_t differ() const { return elements - equal; }
};

/// Rows [rows][d] of a type that kernels have, as f32.
std::vector<float> values_of(DType type, std::span<const std::byte> rows, int64_t d);

/// Two times the same rows [rows][d], element by element. A step: the scale of the block in `ours`
/// (iq4_nl: 16 of them, the mean distance of its levels); f16, bf16, f32: the distance of
/// neighbours at that magnitude. Infinite where one element is a number and the other is none, or
/// where a scale is 0.
StepsApart steps_apart(DType type, std::span<const std::byte> theirs,
                       std::span<const std::byte> ours, int64_t d);

}  // namespace rotkv::tools
