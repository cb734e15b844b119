#pragma once
// The k-quants in registers: packed.h for three formats that only weights use. A super-block of 256
// is eight blocks of 32 here; their scales (and minima) are its sub-blocks'.
// Docs: docs/03-quantization.md

#include "fast/packed.h"

namespace rotkv::fast {

inline constexpr int64_t k_super_blocks = k_super / k_block;  ///< 8 blocks of 32

template <class Super>
inline const std::byte* part_place(const void* row, int64_t i) {
    return static_cast<const std::byte*>(row) + i * int64_t(sizeof(Super)) / k_super_blocks;
}

/// Numbers of q4_K and q5_K: a = d * sc, b = -dmin * mn, both exact. For the places of the sixteen
/// 6-bit numbers see ref/quant_k.cpp.
template <class Super>
inline void scales_and_minima(BlockNumbers* y, const void* row, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        const Super& x = block_of<Super>(row, (first + i) / k_super_blocks);
        const int64_t s = (first + i) % k_super_blocks;
        const uint8_t* packed = x.scales;
        const int sc = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
        const int mn = s < 4 ? packed[s + 4] & 63 : (packed[s + 4] >> 4) | (packed[s] >> 6) << 4;
        y[i] = {f16_value(x.d) * float(sc), -f16_value(x.dmin) * float(mn)};
    }
}

/// k_lanes nibbles: the low halves of bytes, or the high ones.
inline Ints half_bytes(const uint8_t* qs, bool high) {
    return (widen(qs) >> (high ? 4 : 0)) & Ints(15);
}

template <>
struct Packed<DType::q4_k> {
    static constexpr auto numbers = scales_and_minima<BlockQ4_K>;
    static constexpr auto place = part_place<BlockQ4_K>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        const int64_t s = block % k_super_blocks;
        const uint8_t* qs = block_of<BlockQ4_K>(row, block / k_super_blocks).qs + s / 2 * k_block;
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) {
            v[i] = fma(to_float(half_bytes(qs + i * k_lanes, s % 2 != 0)), Vec(n.a), Vec(n.b));
        }
    }
};

template <>
struct Packed<DType::q5_k> {
    static constexpr auto numbers = scales_and_minima<BlockQ5_K>;
    static constexpr auto place = part_place<BlockQ5_K>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        const int64_t s = block % k_super_blocks;
        const BlockQ5_K& x = block_of<BlockQ5_K>(row, block / k_super_blocks);
        const uint8_t* qs = x.qs + s / 2 * k_block;
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) {
            const Ints fifth = (widen(x.qh + i * k_lanes) >> int(s)) & Ints(1);
            const Ints code = half_bytes(qs + i * k_lanes, s % 2 != 0) | fifth << 4;
            v[i] = fma(to_float(code), Vec(n.a), Vec(n.b));
        }
    }
};

/// Its sub-blocks have 16 elements: a is the scale of a block's first half, b of its second.
template <>
struct Packed<DType::q6_k> {
    static constexpr auto place = part_place<BlockQ6_K>;
    static void numbers(BlockNumbers* y, const void* row, int64_t first, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            const BlockQ6_K& x = block_of<BlockQ6_K>(row, (first + i) / k_super_blocks);
            const int8_t* scales = x.scales + (first + i) % k_super_blocks * 2;
            const float d = f16_value(x.d);
            y[i] = {d * float(scales[0]), d * float(scales[1])};
        }
    }
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        const int64_t s = block % k_super_blocks, quarter = s % 4;  // of a half of 128
        const BlockQ6_K& x = block_of<BlockQ6_K>(row, block / k_super_blocks);
        const uint8_t* ql = x.ql + s / 4 * 64 + quarter % 2 * k_block;
        const uint8_t* qh = x.qh + s / 4 * k_block;
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) {
            const int64_t e = i * k_lanes;
            const Ints high = (widen(qh + e) >> int(2 * quarter)) & Ints(3);
            const Ints code = half_bytes(ql + e, quarter >= 2) | high << 4;
            v[i] = to_float(code - Ints(32)) * Vec(e < 16 ? n.a : n.b);
        }
    }
};

}  // namespace rotkv::fast
