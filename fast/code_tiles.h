#pragma once
// Codes of packed weights as they meet tiles of bf16 (tiles.h): a code less a whole number is one
// bf16, exactly, where a weight takes three. Docs: docs/performance.md
//
//   w = a (c - z) + b        c: the code, or what it stands for, a whole number below 256
//
// a and b are one number a block. z is the whole number for which the block's values are nearest to
// a (c - z): 8 of q4_0; round(-minimum / a) where there is a minimum, so that |b| <= |w| for every
// code of the block, and |a (c - z)| <= 2 |w|. The quotient may be off by 2^-14 of itself, which is
// below 32: then z may lie 0.502 from it where another whole number lies 0.498, and it is 1.01 |w|
// and 2.01 |w|.

#include "fast/packed.h"
#include "fast/row_blocks.h"
#include "fast/tiles.h"

#include <array>
#include <bit>

#if ROTKV_AMX

namespace rotkv::fast {

/// bf16 of what codes stand for. Codes of four bits have a fifth beside them that does not count,
/// so that their table is there twice.
struct alignas(64) CodeTable {
    uint16_t of[2 * k_block];
};

constexpr uint16_t whole_bf16(int value) {  // |value| <= 256
    return uint16_t(std::bit_cast<uint32_t>(float(value)) >> 16);
}
constexpr CodeTable level_table(const int8_t* levels) {
    CodeTable table{};
    for (int i = 0; i < int(2 * k_block); ++i) table.of[i] = whole_bf16(levels[i % 16]);
    return table;
}
/// Entry i is i - first.
constexpr CodeTable whole_table(int first) {
    CodeTable table{};
    for (int i = 0; i < int(2 * k_block); ++i) table.of[i] = whole_bf16(i - first);
    return table;
}
inline constexpr CodeTable k_iq4_table = level_table(k_iq4_levels);
inline constexpr CodeTable k_fours = whole_table(8), k_fives = whole_table(16);
inline constexpr CodeTable k_from_15 = whole_table(15), k_from_31 = whole_table(31);

/// Which types have codes of whole blocks of 32, and their tables. Where there is a minimum, z is
/// one of 0 .. k_last, and the entry of a code is k_last - z further on; else k_last is 0.
template <DType type>
struct Coded;
template <class PackedBlock, const CodeTable& values, int last = 0>
struct CodesOf {
    using Block = PackedBlock;
    static constexpr const CodeTable& k_values = values;
    static constexpr int k_last = last;
};
template <>
struct Coded<DType::q8_0> : CodesOf<BlockQ8_0, k_fives> {};  // bytes with a sign need no table
template <>
struct Coded<DType::q4_0> : CodesOf<BlockQ4_0, k_fours> {};
template <>
struct Coded<DType::q5_0> : CodesOf<BlockQ5_0, k_fives> {};
template <>
struct Coded<DType::iq4_nl> : CodesOf<BlockIq4Nl, k_iq4_table> {};
template <>
struct Coded<DType::q4_1> : CodesOf<BlockQ4_1, k_from_15, 15> {};
template <>
struct Coded<DType::q5_1> : CodesOf<BlockQ5_1, k_from_31, 31> {};

template <DType type>
inline constexpr bool k_has_codes = requires {
    Coded<type>::k_last;
};

/// Codes j and j + 16 of a block are a pair, one lane of 32 bits; lane p of a tile's row is pair
/// order[p], of the weight and of x alike.
using PairOrder = std::array<int8_t, k_tile>;
inline constexpr PairOrder k_in_order = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
/// Nibbles, as one instruction takes them out of sixteen bytes that are there four times.
inline constexpr PairOrder k_of_nibbles = {0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15};

/// Are the codes of a block nibbles and nothing else?
template <DType type>
constexpr bool has_nibbles() {
    if constexpr (k_has_codes<type>) {
        using Block = typename Coded<type>::Block;
        return sizeof(Block::qs) == k_block / 2 && !requires(Block x) { x.qh; };
    }
    return false;
}

inline const PairOrder& pair_order(DType type) {
    const bool nibbles = with_weight(type, []<DType of>() { return has_nibbles<of>(); });
    return nibbles ? k_of_nibbles : k_in_order;
}

/// Code j in the lower half of a lane and code j + 16 in the upper one, k_of_nibbles.
inline __m512i paired_nibbles(const uint8_t* qs) {
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(qs)));
    // Lanes 4 i .. 4 i + 3 are two words, bytes 0 .. 7 and 8 .. 15 of the block. Of each come the
    // four nibbles from bit 16 i on.
    const __m512i at = _mm512_set_epi64(0x3C3C383834343030, 0x3C3C383834343030, 0x2C2C282824242020,
                                        0x2C2C282824242020, 0x1C1C181814141010, 0x1C1C181814141010,
                                        0x0C0C080804040000, 0x0C0C080804040000);
    return _mm512_and_si512(_mm512_multishift_epi64_epi8(at, bytes), _mm512_set1_epi32(0x000F000F));
}
/// The same, in order.
inline __m512i paired_bytes(const uint8_t* codes) {
    const __m512i first = widen(codes), second = widen(codes + 16);
    return _mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}
inline __m512i paired_fives(const uint8_t* qs, const uint8_t* qh) {
    uint8_t codes[k_block];
    join_fives<0>(reinterpret_cast<int8_t*>(codes), qs, qh);
    return paired_bytes(codes);
}
/// The same two codes as bf16, of bytes with a sign.
inline __m512i paired_signed(const int8_t* codes) {
    const __m512i first = _mm512_castps_si512(to_float(widen(codes)));
    const __m512i second = _mm512_castps_si512(to_float(widen(codes + 16)));
    return _mm512_or_si512(_mm512_srli_epi32(first, 16), second);
}

/// What codes stand for, less z: offset is k_last - z, twice in a lane.
template <DType type>
inline __m512i values_of(__m512i codes, const int32_t* offset) {
    const CodeTable& table = Coded<type>::k_values;
    constexpr int last = Coded<type>::k_last;
    if constexpr (last > 0) codes = _mm512_add_epi32(codes, _mm512_set1_epi32(*offset));
    const __m512i first = _mm512_load_si512(table.of);
    if constexpr (last > 15) {
        return _mm512_permutex2var_epi16(first, codes, _mm512_load_si512(table.of + k_block));
    } else {
        return _mm512_permutexvar_epi16(codes, first);
    }
}

/// Blocks of 32 that begin with their scale in f16, and where there is a minimum with that behind.
template <DType type>
struct CodedBlocks {
    using Block = typename Coded<type>::Block;

    /// a and b of sixteen blocks, `places` bytes behind `base`; b is 0 where there is no minimum.
    static void numbers(__m512& a, __m512& b, const std::byte* base, __m512i places) {
        const __m512i words = _mm512_i32gather_epi32(places, base, 1);
        a = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words));
        b = _mm512_setzero_ps();
        if constexpr (Coded<type>::k_last > 0) {
            b = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words, 16)));
        }
    }
    static __m512i values(const std::byte* place, const int32_t* offset) {
        const Block& x = *reinterpret_cast<const Block*>(place);
        if constexpr (type == DType::q8_0) {
            return paired_signed(x.qs);
        } else if constexpr (has_nibbles<type>()) {
            return values_of<type>(paired_nibbles(x.qs), offset);
        } else {
            return values_of<type>(paired_fives(x.qs, x.qh), offset);
        }
    }
};

}  // namespace rotkv::fast

#endif
