#pragma once
// Codes of packed weights as they meet tiles of bf16 (tiles.h): a code less a whole number is one
// bf16, exactly, where a weight takes three. Docs: docs/performance.md
//
//   w = a (c - z) + b        c: the code, or what it stands for, a whole number below 256
//
// a and b are one number a block. z is the whole number for which the block's values are nearest to
// a (c - z): 8 of q4_0; round(-minimum / a) where there is a minimum, so that |b| <= |w| for every
// code of the block, and |a (c - z)| <= 2 |w|.

#include "fast/row_blocks.h"
#include "fast/tiles.h"

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
inline constexpr CodeTable k_mxfp4_table = level_table(k_mxfp4_levels);
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
struct Coded<DType::q8_0> : CodesOf<BlockQ8_0, k_fives> {};  // no table: bytes with a sign
template <>
struct Coded<DType::q4_0> : CodesOf<BlockQ4_0, k_fours> {};
template <>
struct Coded<DType::q5_0> : CodesOf<BlockQ5_0, k_fives> {};
template <>
struct Coded<DType::iq4_nl> : CodesOf<BlockIq4Nl, k_iq4_table> {};
template <>
struct Coded<DType::iq4_xs> : CodesOf<BlockIq4Xs, k_iq4_table> {};
template <>
struct Coded<DType::mxfp4> : CodesOf<BlockMxfp4, k_mxfp4_table> {};
template <>
struct Coded<DType::q4_1> : CodesOf<BlockQ4_1, k_from_15, 15> {};
template <>
struct Coded<DType::q5_1> : CodesOf<BlockQ5_1, k_from_31, 31> {};
template <>
struct Coded<DType::q4_k> : CodesOf<BlockQ4_K, k_from_15, 15> {};
template <>
struct Coded<DType::q5_k> : CodesOf<BlockQ5_K, k_from_31, 31> {};

template <DType type>
inline constexpr bool k_has_codes = requires { Coded<type>::k_last; };

/// Code j in the lower half of lane j and code j + 16 in the upper one.
inline __m512i paired_nibbles(const uint8_t* qs) {
    const __m512i bytes = widen(qs);
    return _mm512_ternarylogic_epi32(bytes, _mm512_slli_epi32(bytes, 12),
                                     _mm512_set1_epi32(0x000F000F), 0xA8);  // (a | b) & c
}
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
inline __m512i values_of(__m512i codes, int32_t offset) {
    const CodeTable& table = Coded<type>::k_values;
    constexpr int last = Coded<type>::k_last;
    if constexpr (last > 0) codes = _mm512_add_epi32(codes, _mm512_set1_epi32(offset));
    const __m512i first = _mm512_load_si512(table.of);
    if constexpr (last > 15) {
        return _mm512_permutex2var_epi16(first, codes, _mm512_load_si512(table.of + k_block));
    } else {
        return _mm512_permutexvar_epi16(codes, first);
    }
}

/// a and b of four blocks.
struct FourNumbers {
    __m128 a, b;
};

/// Some rows' blocks of 32, from one on: k_rows x k_blocks of them are four.
template <DType type>
struct CodedBlocks {
    static constexpr int64_t k_rows = 2, k_blocks = 2;
    using Block = typename Coded<type>::Block;
    const Block* rows[k_rows];

    void open(int64_t r, const std::byte* row, int64_t block) {
        rows[r] = reinterpret_cast<const Block*>(row) + block;
    }
    void prefetch_ahead(int64_t r, int64_t bytes) const {
        prefetch(reinterpret_cast<const std::byte*>(rows[r]) + bytes);
    }
    const Block& at(int64_t i) const { return rows[i / k_blocks][i % k_blocks]; }
    FourNumbers numbers() const {
        if constexpr (type == DType::mxfp4) {
            const auto scale = [&](int64_t i) { return mxfp4_scale(at(i).e); };
            return {_mm_setr_ps(scale(0), scale(1), scale(2), scale(3)), _mm_setzero_ps()};
        } else {
            const auto word = [&](int64_t i) { return int32_t(four_bytes(&at(i))); };
            const __m128i words = _mm_setr_epi32(word(0), word(1), word(2), word(3));
            const __m128i halves = _mm_shuffle_epi8(
                words, _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
            return {_mm_cvtph_ps(halves), _mm_cvtph_ps(_mm_unpackhi_epi64(halves, halves))};
        }
    }
    __m512i values(int64_t i, int32_t offset) const {
        const Block& x = at(i);
        if constexpr (type == DType::q8_0) {
            return paired_signed(x.qs);
        } else if constexpr (requires { x.qh; }) {
            return values_of<type>(paired_fives(x.qs, x.qh), offset);
        } else {
            return values_of<type>(paired_nibbles(x.qs), offset);
        }
    }
};
template <DType type>
requires(requires { Super<type>::k_shared; }) struct CodedBlocks<type> {
    static constexpr int64_t k_rows = 1, k_blocks = 4;  // half a super-block
    using Block = typename Coded<type>::Block;
    Unpacked unpacked;
    const Block* place;
    int64_t half = 0;

    void open(int64_t, const std::byte* row, int64_t block) {
        half = block % k_super_blocks;
        if (half > 0) return;  // what was opened before
        place = reinterpret_cast<const Block*>(row) + block / k_super_blocks;
        Super<type>::unpack(unpacked, *place);
    }
    void prefetch_ahead(int64_t, int64_t bytes) const {
        const std::byte* const from = reinterpret_cast<const std::byte*>(place) + bytes;
        for (size_t i = 0; i < sizeof(Block) && half == 0; i += 64) prefetch(from + i);
    }
    FourNumbers numbers() const {
        return {_mm_load_ps(unpacked.a + half), _mm_load_ps(unpacked.b + half)};
    }
    __m512i values(int64_t i, int32_t offset) const {
        const uint8_t* const codes = unpacked.codes + (half + i) * k_block;
        return values_of<type>(paired_bytes(codes), offset);
    }
};

}  // namespace rotkv::fast

#endif
