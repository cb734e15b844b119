#pragma once
// Super-blocks of 256 weights as they come from memory into registers: packed.h for the six formats
// that only weights use. Their codes lie in bits here and there; a super-block is unpacked into
// the L1 cache first, whole bytes at a time:
//
//   packed bytes --(shifts and masks, 32 to 64 codes an instruction)--> 256 codes, a byte each
//                                                                       a, b of each sub-block
//   code --(widened in a register)--> value = a * code + b
//
// A format is a struct Super<type>: the bytes of a super-block (Block), how many codes share an a
// and a b (k_shared), and unpack(). a and b are exact, so that a value rounds once, as in
// dequantize_row. Docs: docs/03-quantization.md

#include "fast/packed.h"

namespace rotkv::fast {

inline constexpr int64_t k_super_blocks = k_super / k_block;  ///< 8 blocks of 32

/// A super-block on its way.
struct Unpacked {
    alignas(64) uint8_t codes[k_super];
    alignas(64) float a[k_super / 16], b[k_super / 16];  ///< [k_super / k_shared] of them
};

template <DType type>
struct Super;

inline constexpr int8_t k_even_levels[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline constexpr struct Iq4Codes {
    int8_t levels[16];
    constexpr Iq4Codes() : levels() {
        for (int i = 0; i < 16; ++i) levels[i] = int8_t(uint8_t(k_iq4_levels[i] + 127));
    }
} k_iq4_codes;

// Low nibbles and low pairs of bits of eight bytes.
inline constexpr uint64_t k_nibbles = 0x0F0F0F0F0F0F0F0F, k_pairs = 0x0303030303030303;

/// Which bits of a byte belong to a code, in two blocks of 32 bytes.
struct Bits {
    int count, first, second;  ///< how many; from which on in the first block, and in the second
};

#if defined(__AVX512BW__)
/// 32 bytes of a and 32 of b, turned so that `bits` begin at bit `to` of their byte. Words of four
/// bytes turn as a whole: the other bits are of no use.
template <Bits bits, int to>
inline __m512i turned(const uint8_t* a, const uint8_t* b) {
    const auto load32 = [](const uint8_t* x) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    };
    const __m512i bytes = _mm512_inserti64x4(_mm512_castsi256_si512(load32(a)), load32(b), 1);
    const __m512i by = _mm512_inserti64x4(_mm512_set1_epi32((bits.first - to) & 31),
                                          _mm256_set1_epi32((bits.second - to) & 31), 1);
    return _mm512_rorv_epi32(bytes, by);
}
#endif

/// y[64]: the codes of two blocks, the bits `low` of bytes a and b.
template <Bits low>
inline void take_bits(uint8_t* y, const uint8_t* a, const uint8_t* b) {
#if defined(__AVX512BW__)
    const __m512i mask = _mm512_set1_epi8((1 << low.count) - 1);
    _mm512_store_si512(y, _mm512_and_si512(turned<low, 0>(a, b), mask));
#else
#pragma omp simd
    for (int64_t j = 0; j < k_block; ++j) {
        y[j] = uint8_t(a[j] >> low.first & ((1 << low.count) - 1));
        y[j + k_block] = uint8_t(b[j] >> low.second & ((1 << low.count) - 1));
    }
#endif
}

/// The same, and above them the bits `high` of bytes c and d.
template <Bits low, Bits high>
inline void join_bits(uint8_t* y, const uint8_t* a, const uint8_t* b, const uint8_t* c,
                      const uint8_t* d) {
#if defined(__AVX512BW__)
    constexpr int below = (1 << low.count) - 1, all = (1 << (low.count + high.count)) - 1;
    const __m512i mask = _mm512_set1_epi8(below);
    const __m512i joined = _mm512_ternarylogic_epi32(  // mask ? low : high
        mask, (turned<low, 0>(a, b)), (turned<high, low.count>(c, d)), 0xCA);
    _mm512_store_si512(y, _mm512_and_si512(joined, _mm512_set1_epi8(all)));
#else
    take_bits<low>(y, a, b);
#pragma omp simd
    for (int64_t j = 0; j < k_block; ++j) {
        const int of_c = c[j] >> high.first & ((1 << high.count) - 1);
        const int of_d = d[j] >> high.second & ((1 << high.count) - 1);
        y[j] = uint8_t(y[j] | of_c << low.count);
        y[j + k_block] = uint8_t(y[j + k_block] | of_d << low.count);
    }
#endif
}

/// y[i] = by * (byte i of x - zero).
inline void scale_bytes(float* y, uint64_t x, float by, int zero) {
#if defined(__AVX2__)
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(x)));
    const __m256i from_zero = _mm256_sub_epi32(bytes, _mm256_set1_epi32(zero));
    _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(from_zero), _mm256_set1_ps(by)));
#else
    for (int64_t i = 0; i < 8; ++i) y[i] = by * float(int(x >> (8 * i) & 255) - zero);
#endif
}

/// Eight bytes as one word, byte i in bits 8 i and up.
inline uint64_t eight_bytes(const void* x) {
    uint64_t word;
    std::memcpy(&word, x, sizeof word);
    return word;
}
inline uint64_t four_bytes(const void* x) {
    uint32_t word;
    std::memcpy(&word, x, sizeof word);
    return word;
}

/// visit.operator()<s>() for s = 0, 2, 4, 6: blocks s and s + 1 of 32 codes.
template <class Visit>
inline void for_each_two(Visit visit) {
    visit.template operator()<0>();
    visit.template operator()<2>();
    visit.template operator()<4>();
    visit.template operator()<6>();
}

template <>
struct Super<DType::q2_k> {
    using Block = BlockQ2_K;
    static constexpr int64_t k_shared = 16;
    static void unpack(Unpacked& y, const Block& x) {
        for_each_two([&]<int s>() {
            const uint8_t* qs = x.qs + s / 4 * k_block;
            take_bits<Bits{2, s % 4 * 2, s % 4 * 2 + 2}>(y.codes + s * k_block, qs, qs);
        });
        const float d = f16_value(x.d), dmin = f16_value(x.dmin);
        for (int64_t i = 0; i < 16; i += 8) {
            const uint64_t both = eight_bytes(x.scales + i);
            scale_bytes(y.a + i, both & k_nibbles, d, 0);
            scale_bytes(y.b + i, both >> 4 & k_nibbles, -dmin, 0);
        }
    }
};

/// Sixteen scales sc of six bits in twelve bytes: of scale s, byte s % 8 holds the low nibble; for
/// the high two bits see ref/quant_k.cpp. a = d (sc - 32), b = -4 a.
template <>
struct Super<DType::q3_k> {
    using Block = BlockQ3_K;
    static constexpr int64_t k_shared = 16;
    static void unpack(Unpacked& y, const Block& x) {
        for_each_two([&]<int s>() {
            const uint8_t* qs = x.qs + s / 4 * k_block;
            join_bits<Bits{2, s % 4 * 2, s % 4 * 2 + 2}, Bits{1, s, s + 1}>(
                y.codes + s * k_block, qs, qs, x.hmask, x.hmask);
        });
        const uint64_t low = eight_bytes(x.scales), top = four_bytes(x.scales + 8);
        const uint64_t high = top | top >> 2 << 32;  // of scales 0 - 7; above them, of 8 - 15
        const float d = f16_value(x.d);
        for (int64_t i = 0; i < 2; ++i) {
            const uint64_t sc = (low >> (4 * i) & k_nibbles) | (high >> (4 * i) & k_pairs) << 4;
            scale_bytes(y.a + 8 * i, sc, d, 32);
            scale_bytes(y.b + 8 * i, sc, -4 * d, 32);
        }
    }
};

/// a = d * sc, b = -dmin * mn of q4_K and q5_K, whose sixteen 6-bit numbers lie in twelve bytes
/// (ref/quant_k.cpp says where): four at a time in the bytes of a word.
template <class Block>
inline void scales_and_minima(Unpacked& y, const Block& x) {
    const uint64_t six = 0x3F3F3F3F, four = 0x0F0F0F0F, top = 0x30303030;
    const uint64_t w0 = four_bytes(x.scales), w1 = four_bytes(x.scales + 4);
    const uint64_t w2 = four_bytes(x.scales + 8);
    const uint64_t sc = (w0 & six) | ((w2 & four) | (w0 >> 2 & top)) << 32;
    const uint64_t mn = (w1 & six) | ((w2 >> 4 & four) | (w1 >> 2 & top)) << 32;
    scale_bytes(y.a, sc, f16_value(x.d), 0);
    scale_bytes(y.b, mn, -f16_value(x.dmin), 0);
}

template <>
struct Super<DType::q4_k> {
    using Block = BlockQ4_K;
    static constexpr int64_t k_shared = 32;
    static constexpr const int8_t* k_levels = k_even_levels;
    static void unpack(Unpacked& y, const Block& x) {
        for_each_two([&]<int s>() {
            const uint8_t* qs = x.qs + s / 2 * k_block;
            take_bits<Bits{4, 0, 4}>(y.codes + s * k_block, qs, qs);
        });
        scales_and_minima(y, x);
    }
};

template <>
struct Super<DType::q5_k> {
    using Block = BlockQ5_K;
    static constexpr int64_t k_shared = 32;
    static void unpack(Unpacked& y, const Block& x) {
        for_each_two([&]<int s>() {
            const uint8_t* qs = x.qs + s / 2 * k_block;
            join_bits<Bits{4, 0, 4}, Bits{1, s, s + 1}>(y.codes + s * k_block, qs, qs, x.qh, x.qh);
        });
        scales_and_minima(y, x);
    }
};

template <>
struct Super<DType::q6_k> {
    using Block = BlockQ6_K;
    static constexpr int64_t k_shared = 16;
    static void unpack(Unpacked& y, const Block& x) {
        for_each_two([&]<int s>() {
            const uint8_t *ql = x.ql + s / 4 * 64, *qh = x.qh + s / 4 * k_block;
            join_bits<Bits{4, s % 4 * 2, s % 4 * 2}, Bits{2, s % 4 * 2, s % 4 * 2 + 2}>(
                y.codes + s * k_block, ql, ql + k_block, qh, qh);
        });
        const float d = f16_value(x.d);
        for (int64_t i = 0; i < 16; i += 8) {
            const uint64_t sc = eight_bytes(x.scales + i) ^ 0x8080808080808080;  // sc + 128
            scale_bytes(y.a + i, sc, d, 128);
            scale_bytes(y.b + i, sc, -32 * d, 128);
        }
    }
};

/// Where a code picks from a vector of sixteen values, it stays what it is; else its level, from
/// -127 on, becomes a code once 127 is added.
template <>
struct Super<DType::iq4_xs> {
    using Block = BlockIq4Xs;
    static constexpr int64_t k_shared = 32;
    static constexpr const int8_t* k_levels = k_iq4_levels;
    static void unpack(Unpacked& y, const Block& x) {
        for (int64_t s = 0; s < k_super_blocks; ++s) {
            uint8_t halves[k_block];
            split_nibbles(k_picks_16 ? y.codes + s * k_block : halves, x.qs + s * 16);
            if constexpr (!k_picks_16) {
                int8_t* const to = reinterpret_cast<int8_t*>(y.codes + s * k_block);
                pick16(to, k_iq4_codes.levels, halves);
                pick16(to + 16, k_iq4_codes.levels, halves + 16);
            }
        }
        // Nibbles and pairs of bits move apart, to a byte each.
        uint64_t low = four_bytes(x.scales_l), high = x.scales_h;
        low = (low | low << 16) & 0x0000FFFF0000FFFF;
        low = (low | low << 8) & 0x00FF00FF00FF00FF;
        high = (high | high << 24) & 0x000000FF000000FF;
        high = (high | high << 12) & 0x000F000F000F000F;
        const uint64_t sc = ((low | low << 4) & k_nibbles) | ((high | high << 6) & k_pairs) << 4;
        const float d = f16_value(x.d);
        scale_bytes(y.a, sc, d, 32);
        scale_bytes(y.b, sc, k_picks_16 ? 0 : -127 * d, 32);
    }
};

/// Values 32 i .. 32 i + 31 of a super-block that has been unpacked.
template <DType type>
inline void unpacked_values(Vec* v, const Unpacked& x, int64_t i) {
    using Format = Super<type>;
    if constexpr (k_picks_16 && requires { Format::k_levels; }) {  // two vectors, one a and b
        const Vec table = fma(to_float(widen(Format::k_levels)), Vec(x.a[i]), Vec(x.b[i]));
        v[0] = pick16(table, widen(x.codes + i * k_block));
        v[1] = pick16(table, widen(x.codes + i * k_block + 16));
    } else {
#pragma GCC unroll 8
        for (int64_t j = 0; j < k_block_vectors; ++j) {
            const int64_t e = i * k_block + j * k_lanes, n = e / Format::k_shared;
            v[j] = fma(to_float(widen(x.codes + e)), Vec(x.a[n]), Vec(x.b[n]));
        }
    }
}

}  // namespace rotkv::fast
