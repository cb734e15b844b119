#pragma once
// One pair of channels turned, as rope and kv_shift use it. Docs: docs/05-attention.md

#include "cuda/device.cuh"
#include "ref/types.h"

namespace rotkv::cuda {

/// Item `i` of a row: pair i for i < n_rot / 2, then one channel each that is only copied. table
/// is the row's {cos, sin}; y may be x. As ref: every product and sum rounds.
__device__ inline void rope_item(float* y, const float* x, const float* table, uint32_t i,
                                 uint32_t n_rot, RopePairs pairs) {
    const uint32_t half = n_rot / 2;
    if (i >= half) {
        y[i + half] = x[i + half];
        return;
    }
    const uint32_t a = pairs == RopePairs::norm ? 2 * i : i;
    const uint32_t b = pairs == RopePairs::norm ? 2 * i + 1 : i + half;
    const float c = table[2 * i], s = table[2 * i + 1];
    const float x0 = x[a], x1 = x[b];
    y[a] = x0 * c - x1 * s;
    y[b] = x0 * s + x1 * c;
}

}  // namespace rotkv::cuda
