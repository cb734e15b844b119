#pragma once
// Channels turned, as rope, kv_store behind it and kv_shift use it: a pair, or one of a pair; and
// rows of heads by their tokens' angles. Docs: docs/05-attention.md

#include "cuda/device.cuh"
#include "ref/backend.h"

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

/// Channel i of what rope_item makes of a row of x, by itself.
__device__ inline float turned(const float* x, const float* table, uint32_t i, uint32_t n_rot,
                               RopePairs pairs) {
    if (i >= n_rot) return x[i];
    const uint32_t half = n_rot / 2;
    const bool neighbours = pairs == RopePairs::norm;
    const bool is_first = neighbours ? i % 2 == 0 : i < half;
    const uint32_t pair = neighbours ? i / 2 : is_first ? i : i - half;
    const uint32_t a = neighbours ? 2 * pair : pair, b = neighbours ? a + 1 : a + half;
    const float c = table[2 * pair], s = table[2 * pair + 1];
    const float x0 = x[a], x1 = x[b];
    return is_first ? x0 * c - x1 * s : x0 * s + x1 * c;
}

/// Four of them; 0 beyond the row's end.
__device__ inline float4 turned4(const float* x, const float* table, uint32_t i, uint32_t d,
                                 uint32_t n_rot, RopePairs pairs) {
    const auto one = [&](uint32_t c) { return c < d ? turned(x, table, c, n_rot, pairs) : 0.0f; };
    return {one(i), one(i + 1), one(i + 2), one(i + 3)};
}

/// By what tokens' rows are turned.
struct Angles {
    const std::byte* table;
    int64_t stride;
    const int32_t* row;
    uint32_t n_rot;
    RopePairs pairs;

    explicit Angles(const RopeArgs& args)
        : table(args.table.data),
          stride(args.table.stride[1]),
          row(args.row.row<const int32_t>(0)),
          n_rot(2 * uint32_t(args.table.n[2])),
          pairs(args.pairs) {}

    /// The host's integers are in it, which no kernel writes.
    __device__ const float* of_token(uint32_t t) const {
        return reinterpret_cast<const float*>(table + row[t] * stride);
    }
};

/// Heads of tokens that are turned, an item (rope_item) to a thread.
struct TurnedRows {
    Rows dst, src;
    uint32_t rows, heads, items;  // items: of a row

    explicit TurnedRows(const RopeArgs& args)
        : dst(args.dst),
          src(args.src),
          rows(uint32_t(args.src.rows())),
          heads(uint32_t(args.src.n[2])),
          items(uint32_t(args.src.n[3] - args.table.n[2])) {}

    int64_t threads() const { return int64_t(rows) * items; }

    __device__ void turn(const Angles& angles, uint32_t thread) const {
        const uint32_t row = thread / items;
        if (row >= rows) return;
        rope_item(dst.row<float>(row), src.row<const float>(row), angles.of_token(row / heads),
                  thread - row * items, angles.n_rot, angles.pairs);
    }
};

}  // namespace rotkv::cuda
