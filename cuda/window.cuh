#pragma once
// Which positions a query sees: window and bounds together leave one run of neighbouring positions.
// Docs: docs/05-attention.md

#include "ref/ops.h"

#include <cstdint>

namespace rotkv::cuda {

/// The positions from first to last; none where first > last. Empty cells, at -1, are never seen.
struct Seen {
    int32_t first, last;

    __device__ bool holds(int32_t position) const { return position >= first && position <= last; }
};

/// AttentionArgs::takes_part, of all cells at once.
struct Sight {
    int64_t window;
    bool chunked;
    CellBounds bounds;

    explicit __host__ __device__ Sight(const AttentionArgs& a)
        : window(a.window), chunked(a.chunked), bounds(a.bounds) {}

    __device__ Seen of(int32_t q_position) const {
        const int64_t q = q_position;
        const int64_t of_window = window == 0 ? 0 : chunked ? q / window * window : q - window + 1;
        const int64_t from = max(bounds.position.from, q - (bounds.distance.to - 1));
        const int64_t first = max(max(of_window, from), int64_t(0));
        const int64_t last = min(min(q, bounds.position.to - 1), q - bounds.distance.from);
        if (q < 0 || first > last) return {INT32_MAX, -1};
        return {int32_t(first), int32_t(last)};
    }
};

}  // namespace rotkv::cuda
