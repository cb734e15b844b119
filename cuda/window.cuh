#pragma once
// Which cells a window lets a query see.
// Docs: docs/05-attention.md

#include <cstdint>

namespace rotkv::cuda {

/// AttentionArgs::first_visible, from 0 on; a window of 0 tokens is none.
__device__ inline int32_t first_visible(int64_t window, bool chunked, int32_t q_position) {
    if (window == 0) return 0;
    const int64_t first = chunked ? q_position / window * window : int64_t(q_position) - window + 1;
    return int32_t(max(first, int64_t(0)));
}

}  // namespace rotkv::cuda
