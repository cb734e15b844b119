#pragma once
// The Hadamard transform in registers, as hadamard, kv_store, kv_shift and attention use it.
//
// A PIECE is P = max(N, 32) neighbouring channels of one row: one block of the rotation, or all
// blocks in 32 channels. A group of L = min(P / 4, 32) neighbouring lanes owns it:
//
//     lane l of the group holds channels 4 (l + L j) + 0 .. 3 of the piece, for j < R = P / 4 L
//
//     N      ... 32    64   128   256   512  1024
//     L           8    16    32    32    32    32
//     R           1     1     1     2     4     8
//
// so that a butterfly of half-width h joins two of the lane's four channels (h = 1, 2), two lanes
// (h = 4 .. 64) or two of its R registers (h = 128 ..), and 32 channels, a block of the quantized
// formats, are always eight neighbouring lanes at one j.
//
// Such is the lane's UNIT of W = 4 channels, 16 bytes of f32. Of rows of halves, which only the
// operation hadamard has, 16 bytes are W = 8 channels (Eight); hadamard.cu says how many lanes
// share a piece of those.
// Docs: docs/02-hadamard.md

#include "cuda/device.cuh"
#include "ref/rotation.h"

#include <algorithm>
#include <bit>

namespace rotkv::cuda {

constexpr uint32_t k_least_piece = 32;

/// Eight channels of one lane.
struct Eight {
    float4 low, high;
};

/// W: channels of a unit.
template <class Unit>
constexpr uint32_t k_width = sizeof(Unit) / sizeof(float);

/// How rows of d channels are cut into pieces.
struct Pieces {
    uint32_t d, n;       // channels of a row, of a rotation block; n = 1: H is the identity
    uint32_t width;      // P
    uint32_t lanes;      // L, a power of two:
    uint32_t lane_bits;  // its logarithm
    uint32_t registers;  // R
    Divisor per_row;     // pieces; the last one may reach past the row's end
    float scale;         // 1 / sqrt(N)
    bool on, signs;
    uint64_t seed;
    int64_t first;

    /// at_least: for rows that share their lanes with rows of a larger block. most_lanes: fewer
    /// lanes with more registers each exchange less, and have more to do between two waits.
    Pieces(const Rotation& rotation, int64_t channels, uint32_t at_least = k_least_piece,
           uint32_t most_lanes = k_warp)
        : d(uint32_t(channels)),
          n(rotation.on() ? uint32_t(rotation.block) : 1),
          width(std::max(n, at_least)),
          lanes(std::min(width / 4, most_lanes)),
          lane_bits(uint32_t(std::countr_zero(lanes))),
          registers(width / (4 * lanes)),
          per_row((channels + width - 1) / width),
          scale(rotation_scale(n)),
          on(rotation.on()),
          signs(rotation.kind == Rotation::Kind::signs),
          seed(rotation.seed),
          first(rotation.first) {}

    /// The channel of the row at which the piece begins.
    __device__ uint32_t begin_of(uint32_t piece, uint32_t row) const {
        return (piece - row * per_row.d) * width;
    }
};

/// Is the sign of channel i of the head -1? Bit 63 of the i-th output of SplitMix64.
__device__ inline bool is_minus(uint64_t seed, int64_t i) {
    uint64_t z = seed + (uint64_t(i) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = z ^ (z >> 31);
    return (z >> 63) != 0;
}

__device__ inline float flipped(float x, uint64_t seed, int64_t i) {
    return is_minus(seed, i) ? -x : x;
}

__device__ inline float4 flipped(const float4& v, uint64_t seed, int64_t i) {
    return {flipped(v.x, seed, i), flipped(v.y, seed, i + 1), flipped(v.z, seed, i + 2),
            flipped(v.w, seed, i + 3)};
}

// Signs first, four at a time: all 32 of a lane at once would take registers from its channels, and
// with them warps from the rows that are not flipped.
__device__ inline Eight flipped(const Eight& v, uint64_t seed, int64_t i) {
    uint32_t minus = 0;
#pragma unroll 4
    for (int c = 0; c < 8; ++c) minus |= uint32_t(is_minus(seed, i + c)) << c;
    const auto flip = [&](float x, int c) { return (minus >> c & 1) != 0 ? -x : x; };
    return {{flip(v.low.x, 0), flip(v.low.y, 1), flip(v.low.z, 2), flip(v.low.w, 3)},
            {flip(v.high.x, 4), flip(v.high.y, 5), flip(v.high.z, 6), flip(v.high.w, 7)}};
}

// U pieces at a time: what one waits for, the others fill. begin[u] is the lane's first channel.
template <int U, int R, class Unit>
__device__ void flip_signs(Unit (&v)[U][R], const Pieces& cut, const uint32_t (&begin)[U]) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
        for (int j = 0; j < R; ++j) {
            const uint32_t channel = begin[u] + k_width<Unit> * cut.lanes * j;
            v[u][j] = flipped(v[u][j], cut.seed, cut.first + channel);
        }
    }
}

// (a, b) becomes (a + b, a - b).
__device__ inline void butterfly(float& a, float& b) {
    const float sum = a + b, difference = a - b;
    a = sum;
    b = difference;
}

__device__ inline void butterfly(float4& a, float4& b) {
    butterfly(a.x, b.x);
    butterfly(a.y, b.y);
    butterfly(a.z, b.z);
    butterfly(a.w, b.w);
}

__device__ inline void butterfly(Eight& a, Eight& b) {
    butterfly(a.low, b.low);
    butterfly(a.high, b.high);
}

// Half-widths 1 and 2, and 4 of eights: within a unit.
__device__ inline void butterflies_inside(float4& v, uint32_t n) {
    if (n < 2) return;
    butterfly(v.x, v.y);
    butterfly(v.z, v.w);
    if (n < 4) return;
    butterfly(v.x, v.z);
    butterfly(v.y, v.w);
}

__device__ inline void butterflies_inside(Eight& v, uint32_t n) {
    butterflies_inside(v.low, n);
    butterflies_inside(v.high, n);
    if (n > 4) butterfly(v.low, v.high);
}

// Half-width W h: between lanes. The upper one of a pair gets a - b as a + (-1) b: the product is
// exact, so that the fused operation rounds once, as the difference does.
__device__ inline float4 butterfly_between(const float4& v, unsigned h, float sign) {
    return {fmaf(v.x, sign, partner(v.x, h)), fmaf(v.y, sign, partner(v.y, h)),
            fmaf(v.z, sign, partner(v.z, h)), fmaf(v.w, sign, partner(v.w, h))};
}

__device__ inline Eight butterfly_between(const Eight& v, unsigned h, float sign) {
    return {butterfly_between(v.low, h, sign), butterfly_between(v.high, h, sign)};
}

/// ref's stages in ref's order.
template <int U, int R, class Unit>
__device__ void butterflies(Unit (&v)[U][R], uint32_t n, uint32_t lanes) {
    constexpr uint32_t W = k_width<Unit>;
#pragma unroll
    for (int i = 0; i < U * R; ++i) butterflies_inside(v[i / R][i % R], n);
#pragma unroll
    for (unsigned h = 1; h < k_warp; h *= 2) {
        if (n <= W * h) return;
        if (h == lanes) break;
        const float sign = (lane_of_warp() & h) == 0 ? 1.0f : -1.0f;
#pragma unroll
        for (int i = 0; i < U * R; ++i) {
            v[i / R][i % R] = butterfly_between(v[i / R][i % R], h, sign);
        }
    }
#pragma unroll
    for (unsigned h = 1; h < unsigned(R); h *= 2) {  // half-width W L h: between registers
        if (n <= W * lanes * h) return;
#pragma unroll
        for (int i = 0; i < U * R; ++i) {
            const unsigned j = unsigned(i % R);
            if ((j & h) == 0) butterfly(v[i / R][j], v[i / R][j + h]);
        }
    }
}

__device__ inline float4 scaled(const float4& v, float scale) {
    return {v.x * scale, v.y * scale, v.z * scale, v.w * scale};
}

__device__ inline Eight scaled(const Eight& v, float scale) {
    return {scaled(v.low, scale), scaled(v.high, scale)};
}

/// y = H S x, back y = S H x, on U pieces. All lanes of the warp call it together.
/// known_lanes: of a piece of more than one register, where the code is made for that number.
template <uint32_t known_lanes = 0, int U, int R, class Unit>
__device__ void rotate(Unit (&v)[U][R], const Pieces& cut, const uint32_t (&begin)[U], bool back) {
    if (!cut.on) return;
    if (cut.signs && !back) flip_signs(v, cut, begin);
#pragma unroll
    for (int i = 0; i < U * R; ++i) v[i / R][i % R] = scaled(v[i / R][i % R], cut.scale);
    butterflies(v, cut.n, known_lanes > 0 ? known_lanes : cut.lanes);
    if (cut.signs && back) flip_signs(v, cut, begin);
}

}  // namespace rotkv::cuda
