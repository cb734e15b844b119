#pragma once
// How far two stored rows are apart, counted in what their type can tell apart.
// Docs: docs/24-saved-caches.md

#include "ref/cache_type.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

struct StepsApart {
    int64_t elements = 0, equal = 0, one_step = 0;  ///< the same; at most 1.5 steps off
    double squares = 0, most = 0;                   ///< their sum, and the largest, in steps
    int64_t row = 0, channel = 0;                   ///< where they are furthest apart

    int64_t differ() const { return elements - equal; }
    double rms() const { return elements > 0 ? std::sqrt(squares / double(elements)) : 0; }

    /// One element more, so many steps apart.
    void take(double steps, int64_t its_row, int64_t its_channel) {
        ++elements, equal += steps == 0, one_step += steps <= 1.5, squares += steps * steps;
        if (steps > most) most = steps, row = its_row, channel = its_channel;
    }

    /// Those of other rows; says whether the furthest element is one of them.
    bool add(const StepsApart& more) {
        elements += more.elements, equal += more.equal, one_step += more.one_step;
        squares += more.squares;
        if (more.most <= most) return false;
        most = more.most, row = more.row, channel = more.channel;
        return true;
    }
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
