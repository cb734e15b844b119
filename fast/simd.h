#pragma once
// What fast/ takes from xsimd, and the few things that xsimd lacks or spells differently in its
// releases 8 and 13: one vector type Vec of floats, as wide as the machine that is compiled for.
// Loops over integers and bytes are plain loops under `omp simd` instead.
// Docs: docs/08-backends.md

#include "ref/half.h"

// g++ 12 warns about its own AVX-512 header, wherever that is used. Not from here.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <xsimd/xsimd.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace rotkv::fast {

using Vec = xsimd::batch<float>;
inline constexpr int64_t k_lanes = int64_t(Vec::size);  ///< 16 AVX-512, 8 AVX, 4 SSE and NEON

inline Vec load(const float* x) { return Vec::load_unaligned(x); }
inline void store(float* y, const Vec& v) { v.store_unaligned(y); }

/// A store past the caches, for results that will not be read soon; y aligned to the vector. Before
/// another thread reads them: stream_fence().
inline void stream(float* y, const Vec& v) {
#if defined(__AVX512F__)
    _mm512_stream_ps(y, v);
#elif defined(__AVX__)
    _mm256_stream_ps(y, v);
#elif defined(__SSE__)
    _mm_stream_ps(y, v);
#else
    store(y, v);
#endif
}

inline void stream_fence() {
#if defined(__SSE__)
    _mm_sfence();
#endif
}

/// The first `count` lanes from memory, the others 0; a whole vector if count >= k_lanes.
inline Vec load_part(const float* x, int64_t count) {
    if (count >= k_lanes) return load(x);
    float lanes[k_lanes] = {};
    std::copy_n(x, count, lanes);
    return load(lanes);
}

/// The first `count` lanes to memory; a whole vector if count >= k_lanes.
inline void store_part(float* y, const Vec& v, int64_t count) {
    if (count >= k_lanes) return store(y, v);
    float lanes[k_lanes];
    store(lanes, v);
    std::copy_n(lanes, count, y);
}

/// a b + c, rounded once where the machine can. (xsimd 8 multiplies, then adds, with AVX-512.)
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#else
    return xsimd::fma(a, b, c);
#endif
}

inline Vec min(const Vec& a, const Vec& b) { return xsimd::min(a, b); }
inline Vec max(const Vec& a, const Vec& b) { return xsimd::max(a, b); }
inline Vec exp(const Vec& v) { return xsimd::exp(v); }
inline Vec tanh(const Vec& v) { return xsimd::tanh(v); }

inline float sum_lanes(const Vec& v) {
    float lanes[k_lanes];
    store(lanes, v);
    for (int64_t width = k_lanes / 2; width > 0; width /= 2) {
        for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
}

/// Lane i gets lane i ^ H: the partner of a butterfly of half-width H.
template <unsigned H>
inline Vec exchange(const Vec& v) {
#if defined(__aarch64__)
    if constexpr (H == 1) return vrev64q_f32(v);  // xsimd 8 goes through memory here
    return vextq_f32(v, v, 2);
#else
    struct Partner {
        static constexpr uint32_t get(unsigned i, unsigned) { return i ^ H; }
    };
#if XSIMD_VERSION_MAJOR >= 12
    return xsimd::swizzle(v, xsimd::make_batch_constant<uint32_t, Vec::arch_type, Partner>());
#else
    return xsimd::swizzle(v, xsimd::make_batch_constant<xsimd::batch<uint32_t>, Partner>());
#endif
#endif
}

/// All lanes joined by `op`, in every lane.
template <unsigned H = 1, class Op>
inline Vec fold_lanes(const Vec& v, Op op) {
    if constexpr (int64_t(H) < k_lanes) {
        return fold_lanes<2 * H>(op(v, exchange<H>(v)), op);
    } else {
        return v;
    }
}

/// -1 in the lanes whose number has bit H, the lower ends of a butterfly; 1 in the others.
template <unsigned H>
inline Vec minus_upper() {
    static constexpr struct Signs {
        float lanes[k_lanes];
        constexpr Signs() : lanes() {
            for (unsigned i = 0; i < unsigned(k_lanes); ++i) lanes[i] = (i & H) != 0 ? -1.0f : 1.0f;
        }
    } signs;
    return load(signs.lanes);
}

/// All f16 values and mxfp4's scales, by their bits (scales.cpp). Blocks have a scale each, which a
/// vector takes from memory into all of its lanes at no cost; made from bits in registers it would
/// take as long as a quarter of the block.
struct ScaleValues {
    float f16[1 << 16], mxfp4[1 << 8];
    ScaleValues();
};
extern const ScaleValues k_scale_values;  ///< filled before main begins

inline float f16_value(uint16_t x) { return k_scale_values.f16[x]; }
inline float mxfp4_scale(uint8_t e) { return k_scale_values.mxfp4[e]; }

/// The nearest f16 of a number; a NaN becomes some NaN.
inline uint16_t f16_bits(float x) {
#if defined(__F16C__)
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    return f32_to_f16(x);
#endif
}

/// y = x for n f16 values. Exact; a NaN stays a NaN.
inline void f16_to_f32_row(float* y, const uint16_t* x, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(half));
    }
#elif defined(__aarch64__)
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(y + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + i))));
    }
#endif
    for (; i < n; ++i) y[i] = f16_to_f32(x[i]);
}

/// y = the nearest f16 of n values, ties to even. The machine keeps a NaN's payload; stored NaNs
/// are 0x7E00, so lanes that hold one are replaced.
inline void f32_to_f16_row(uint16_t* y, const float* x, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_loadu_ps(x + i);
        const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
        const __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000));
        const __m128i half =
            _mm256_cvtps_ph(_mm256_blendv_ps(v, quiet, nan), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), half);
    }
#elif defined(__aarch64__)
    for (; i + 4 <= n; i += 4) {
        const float32x4_t v = vld1q_f32(x + i);
        const float32x4_t quiet = vreinterpretq_f32_u32(vdupq_n_u32(0x7FC00000));
        const float16x4_t half = vcvt_f16_f32(vbslq_f32(vceqq_f32(v, v), v, quiet));
        vst1_u16(y + i, vreinterpret_u16_f16(half));
    }
#endif
    for (; i < n; ++i) y[i] = f32_to_f16(x[i]);
}

/// y[j] = table[index[j]] for 16 indices below 16, in one instruction where there is one.
inline void pick16(int8_t* y, const int8_t* table, const uint8_t* index) {
#if defined(__SSSE3__)
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    const __m128i where = _mm_loadu_si128(reinterpret_cast<const __m128i*>(index));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(y), _mm_shuffle_epi8(entries, where));
#elif defined(__aarch64__)
    vst1q_s8(y, vqtbl1q_s8(vld1q_s8(table), vld1q_u8(index)));
#else
    for (int64_t j = 0; j < 16; ++j) y[j] = table[index[j]];
#endif
}

// What products with packed numbers need: integers beside Vec, lane for lane.

using Ints = xsimd::batch<int32_t>;

/// k_lanes bytes from memory, each in a lane.
inline Ints widen(const uint8_t* x) {
#if defined(__AVX512F__)
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#elif defined(__AVX2__)
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
#else
    int32_t lanes[k_lanes];
    std::copy_n(x, k_lanes, lanes);
    return Ints::load_unaligned(lanes);
#endif
}
inline Ints widen(const int8_t* x) {
#if defined(__AVX512F__)
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
#elif defined(__AVX2__)
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
#else
    int32_t lanes[k_lanes];
    std::copy_n(x, k_lanes, lanes);
    return Ints::load_unaligned(lanes);
#endif
}

/// Asks for the cache line of an address that may lie outside of everything. Inlined before the
/// compiler looks for functions without effects: it would take this for one, and drop the calls.
#if defined(__GNUC__)
[[gnu::always_inline]]
#endif
inline void
prefetch(const void* p) {
    __builtin_prefetch(p);
}

inline Vec to_float(const Ints& x) { return xsimd::to_float(x); }

/// k_lanes f16 or bf16 values. Exact; a NaN stays a NaN.
inline Vec load_f16(const uint16_t* x) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
#else
    float lanes[k_lanes];
    f16_to_f32_row(lanes, x, k_lanes);
    return load(lanes);
#endif
}
inline Vec load_bf16(const uint16_t* x) {
#if defined(__AVX512F__)
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
#elif defined(__AVX2__)
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
#else
    float lanes[k_lanes];
    for (int64_t i = 0; i < k_lanes; ++i) lanes[i] = bf16_to_f32(x[i]);
    return load(lanes);
#endif
}

/// The 32 codes of five bits, less `zero` (0 or 16), of a block whose byte j holds four bits of j
/// and of j + 16, and bit j of whose qh is the fifth of j.
template <int zero>
inline void join_fives(int8_t* y, const uint8_t* qs, const uint8_t* qh) {
    static_assert(zero == 0 || zero == 16);
#if defined(__AVX2__)
    const __m256i both =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(qs)));
    const __m256i halves = _mm256_srlv_epi64(both, _mm256_setr_epi64x(0, 0, 4, 4));
    const __m256i four = _mm256_and_si256(halves, _mm256_set1_epi8(15));
    uint32_t bits;
    std::memcpy(&bits, qh, sizeof bits);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const __m256i sixteen = _mm256_set1_epi8(16);
    const __m256i codes = zero == 0 ? _mm256_mask_add_epi8(four, bits, four, sixteen)
                                    : _mm256_mask_sub_epi8(four, ~bits, four, sixteen);
#else
    const __m256i part = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                            0x0303030303030303);          // byte j of it: j / 8
    const __m256i own = _mm256_set1_epi64x(int64_t(0x8040201008040201));  // 1 << j % 8
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(int32_t(bits)), part);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own), own);
    const __m256i joined = _mm256_or_si256(four, _mm256_and_si256(set, _mm256_set1_epi8(16)));
    const __m256i codes = _mm256_sub_epi8(joined, _mm256_set1_epi8(zero));
#endif
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y), codes);
#else
#pragma omp simd
    for (int64_t j = 0; j < 16; ++j) {
        y[j] = int8_t(((qs[j] & 15) | ((qh[j / 8] >> (j % 8)) & 1) << 4) - zero);
        y[j + 16] = int8_t((qs[j] >> 4 | ((qh[2 + j / 8] >> (j % 8)) & 1) << 4) - zero);
    }
#endif
}

#if defined(__AVX512F__)
inline constexpr bool k_picks_16 = true;  ///< a vector is a table of sixteen floats
#else
inline constexpr bool k_picks_16 = false;
#endif

/// Lane i gets table[index[i] & 15] of sixteen floats that one vector holds: only with k_picks_16.
inline Vec pick16(const Vec& table, const Ints& index) {
#if defined(__AVX512F__)
    return _mm512_permutexvar_ps(index, table);
#else
    return to_float(index) + table;  // never called
#endif
}

/// Lane i gets the sum of the lanes of rows[i], k_lanes of them. (xsimd 8 gets the order of its
/// sums wrong with AVX-512.)
inline Vec sum_each(const Vec* rows) {
#if defined(__AVX512F__)
    __m512 four[4];  // four[i]: lane j of each quarter holds a part of the sum of row 4 i + j
    for (int64_t i = 0; i < 4; ++i, rows += 4) {
        const auto pair = [](__m512 a, __m512 b) {
            return _mm512_castps_pd(
                _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
        };
        const __m512d ab = pair(rows[0], rows[1]), cd = pair(rows[2], rows[3]);
        four[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    }
    const auto quarters = [](__m512 a, __m512 b) {  // 0 + 1 and 2 + 3 of a, then of b
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    };
    return quarters(quarters(four[0], four[1]), quarters(four[2], four[3]));
#else
    return xsimd::haddp(rows);
#endif
}

}  // namespace rotkv::fast

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
