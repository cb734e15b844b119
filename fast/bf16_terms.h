#pragma once
// f32 as a sum of three bf16, and sixteen rows of 32 bits turned into columns: what a product needs
// whose factors are tiles of bf16 (packed_tiles.cpp). Docs: docs/performance.md

#include "fast/simd.h"

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__AVX512VBMI__)
#define ROTKV_AMX 1
#else
#define ROTKV_AMX 0
#endif

#if ROTKV_AMX

namespace rotkv::fast {

inline constexpr int64_t k_terms = 3;

/// The 32 values of two vectors, in pairs (a_0, b_0), (a_1, b_1) ...: term i of all is a vector of
/// 32 bf16, and their sum is the value, exactly: 8 bits each, cut off, of 24. (Of a value below
/// 2^-110 bits are lost; infinities become NaN.)
struct Terms {
    __m512i of[k_terms];
};

inline Terms split_terms(__m512 a, __m512 b) {
    const __m512i high_half = _mm512_set1_epi32(int32_t(0xFFFF0000u));
    const auto cut = [&](__m512 v) {
        return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), high_half));
    };
    Terms terms;
    for (int64_t i = 0; i < k_terms; ++i) {
        terms.of[i] = _mm512_mask_blend_epi16(
            0xAAAAAAAA, _mm512_srli_epi32(_mm512_castps_si512(a), 16), _mm512_castps_si512(b));
        a = _mm512_sub_ps(a, cut(a));
        b = _mm512_sub_ps(b, cut(b));
    }
    return terms;
}

/// Lane i of row j becomes lane j of row i.
inline void transpose_16(__m512i* rows) {
    __m512i pairs[16], fours[16];
    for (int64_t i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int64_t i = 0; i < 16; i += 4) {
        for (int64_t j = 0; j < 2; ++j) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    }
    // fours[4 q + c], quarter p: lane 4 p + c of rows 4 q .. 4 q + 3
    for (int64_t c = 0; c < 4; ++c) {
        const __m512i even01 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88);
        const __m512i odd01 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xDD);
        const __m512i even23 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
        const __m512i odd23 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xDD);
        rows[c] = _mm512_shuffle_i32x4(even01, even23, 0x88);
        rows[8 + c] = _mm512_shuffle_i32x4(even01, even23, 0xDD);
        rows[4 + c] = _mm512_shuffle_i32x4(odd01, odd23, 0x88);
        rows[12 + c] = _mm512_shuffle_i32x4(odd01, odd23, 0xDD);
    }
}

}  // namespace rotkv::fast

#endif
