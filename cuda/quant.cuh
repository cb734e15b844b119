#pragma once
// Blocks of 32 in registers: eight neighbouring lanes own a block, lane l its elements 4 l + 0 .. 3
// (hadamard.cuh leaves them so). All lanes of a warp call these functions together; a lane that has
// no element takes part with zeros and does not write.
//
// Each function must equal the one of its name in ref, byte for byte: every product and sum rounds
// on its own (compiled with --fmad=false), quotients are IEEE's.
// Docs: docs/03-quantization.md

#include "cuda/device.cuh"
#include "ref/quant.h"

#include <cuda_fp16.h>

namespace rotkv::cuda {

constexpr unsigned k_block_lanes = 8;

__device__ inline uint16_t f32_to_f16(float x) {
    if (isnan(x)) return 0x7E00;
    return __half_as_ushort(__float2half_rn(x));
}
__device__ inline float f16_to_f32(uint16_t h) { return __half2float(__ushort_as_half(h)); }

__device__ inline uint16_t f32_to_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (isnan(x)) return 0x7FC0;
    return uint16_t((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
__device__ inline float bf16_to_f32(uint16_t h) { return __uint_as_float(uint32_t(h) << 16); }

// Four bytes at an address that is a multiple of 2, as all fields of all blocks are.
__device__ inline uint32_t load_bytes(const uint8_t* bytes) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(bytes);
    return halves[0] | uint32_t(halves[1]) << 16;
}
__device__ inline void store_bytes(void* bytes, uint32_t four) {
    uint16_t* halves = static_cast<uint16_t*>(bytes);
    halves[0] = uint16_t(four);
    halves[1] = uint16_t(four >> 16);
}
__device__ inline uint32_t pack(int a, int b, int c, int d) {  // their low bytes
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

/// A lane's place in its block of 32, and whether there is a block.
struct BlockLane {
    unsigned lane;  // 0 .. 7
    bool writes;
};

// Of the eight lanes, the first for which `is_it` holds.
__device__ inline unsigned first_lane(bool is_it) {
    const unsigned base = lane_of_warp() & ~(k_block_lanes - 1);
    return __ffs(__ballot_sync(k_all_lanes, is_it) >> base & 0xFFu) - 1;
}

__device__ inline float from_lane(float x, unsigned lane) {
    return __shfl_sync(k_all_lanes, x, int(lane), k_block_lanes);
}

__device__ inline uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

// Of the lane's four elements the first of largest magnitude. Compared as bits, which are ordered
// as magnitudes are, and where NaN and inf are larger than what is finite.
__device__ inline float peak_of_four(const float4& v) {
    float peak = 0.0f;
    if (magnitude(v.x) > magnitude(peak)) peak = v.x;
    if (magnitude(v.y) > magnitude(peak)) peak = v.y;
    if (magnitude(v.z) > magnitude(peak)) peak = v.z;
    if (magnitude(v.w) > magnitude(peak)) peak = v.w;
    return peak;
}

// The largest magnitude of the block of which the lane's share is `mine`, as bits.
__device__ inline uint32_t largest_of_block(uint32_t mine) {
#pragma unroll
    for (unsigned h = 1; h < k_block_lanes; h *= 2) {
        mine = max(mine, __shfl_xor_sync(k_all_lanes, mine, h));
    }
    return mine;
}

__device__ inline bool is_finite(uint32_t magnitude) { return magnitude < 0x7F800000u; }

// The largest magnitude of a block; that of its first element of largest magnitude with the sign;
// and the first least element (of -0 and +0 the first) with the width up to the greatest. Three
// functions, because each format needs one of them, and exchanges between lanes are never left out.
__device__ inline uint32_t block_magnitude(const float4& v) {
    return largest_of_block(
        max(max(magnitude(v.x), magnitude(v.y)), max(magnitude(v.z), magnitude(v.w))));
}

__device__ inline float block_peak(const float4& v) {
    const float peak = peak_of_four(v);
    return from_lane(peak, first_lane(magnitude(peak) == largest_of_block(magnitude(peak))));
}

struct BlockRange {
    float min, width;
    bool finite;
};

__device__ inline BlockRange block_range(const float4& v) {
    float low = v.x;
    if (v.y < low) low = v.y;
    if (v.z < low) low = v.z;
    if (v.w < low) low = v.w;
    float least = low, most = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
#pragma unroll
    for (unsigned h = 1; h < k_block_lanes; h *= 2) {
        least = fminf(least, partner(least, h));
        most = fmaxf(most, partner(most, h));
    }
    const bool finite = is_finite(block_magnitude(v));
    const float first = from_lane(low, first_lane(low == least));
    return {first, most - first, finite};
}

struct Step {
    uint16_t scale;
    float inverse;
};

__device__ inline Step block_step(float d) {
    const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    if (isinf(inverse)) return {0, 0.0f};
    return {f32_to_f16(d), inverse};
}

__device__ inline bool finite_f16(uint16_t bits) { return (bits & 0x7C00) != 0x7C00; }

// Codes of 4 lanes in low nibbles, those of the lanes 4 further in high ones: 4 bytes each.
__device__ inline void put_nibbles(uint8_t* qs, uint32_t codes, const BlockLane& at) {
    const uint32_t low = codes & 0x0F0F0F0Fu;
    const uint32_t high = __shfl_down_sync(k_all_lanes, low, 4, k_block_lanes);
    if (at.writes && at.lane < 4) store_bytes(qs + 4 * at.lane, low | high << 4);
}

__device__ inline void put_fifth_bits(uint8_t* qh, uint32_t codes, const BlockLane& at) {
    // Bits 4, 12, 20, 28 to bits 0 .. 3, then to the lane's place.
    const uint32_t four =
        (codes >> 4 & 1) | (codes >> 11 & 2) | (codes >> 18 & 4) | (codes >> 25 & 8);
    uint32_t all = four << (4 * at.lane);
#pragma unroll
    for (unsigned h = 1; h < k_block_lanes; h *= 2) all |= __shfl_xor_sync(k_all_lanes, all, h);
    if (at.writes && at.lane == 0) store_bytes(qh, all);
}

__device__ inline void quantize_block(BlockQ8_0* y, const float4& x, const BlockLane& at) {
    const uint32_t largest = block_magnitude(x);
    const Step step = block_step(__uint_as_float(largest) / 127.0f);
    const bool good = is_finite(largest) && finite_f16(step.scale);
    const auto code = [&](float value) {
        // To nearest, halves away from zero: the sum, cut towards zero, reaches no integer that
        // the exact sum does not reach.
        const float scaled = value * step.inverse;
        return good ? int(__fadd_rz(scaled, copysignf(0.5f, scaled))) : 0;
    };
    if (!at.writes) return;
    store_bytes(y->qs + 4 * at.lane, pack(code(x.x), code(x.y), code(x.z), code(x.w)));
    if (at.lane == 0) y->d = good ? step.scale : k_nan_scale;
}

// q4_0 and q5_0: levels -half .. half - 1, the element of largest magnitude at -half.
template <class Block>
__device__ void quantize_signed(Block* y, const float4& x, const BlockLane& at, int half) {
    const float peak = block_peak(x);
    const Step step = block_step(peak * (-1.0f / float(half)));  // half is a power of two
    const bool good = is_finite(magnitude(peak)) && finite_f16(step.scale);
    const float center = float(half) + 0.5f;
    const auto code = [&](float value) {
        return good ? min(2 * half - 1, int(value * step.inverse + center)) : 0;
    };
    const uint32_t codes = pack(code(x.x), code(x.y), code(x.z), code(x.w));
    put_nibbles(y->qs, codes, at);
    if constexpr (sizeof(Block) == sizeof(BlockQ5_0)) put_fifth_bits(y->qh, codes, at);
    if (at.writes && at.lane == 0) y->d = good ? step.scale : k_nan_scale;
}

// q4_1 and q5_1: levels 0 .. top above the least element.
template <class Block>
__device__ void quantize_above(Block* y, const float4& x, const BlockLane& at, int top) {
    const BlockRange range = block_range(x);
    const Step step = block_step(range.width / float(top));
    const uint16_t minimum = f32_to_f16(range.min);
    const bool good = range.finite && finite_f16(step.scale) && finite_f16(minimum);
    const auto code = [&](float value) {
        return good ? min(top, int((value - range.min) * step.inverse + 0.5f)) : 0;
    };
    const uint32_t codes = pack(code(x.x), code(x.y), code(x.z), code(x.w));
    put_nibbles(y->qs, codes, at);
    if constexpr (sizeof(Block) == sizeof(BlockQ5_1)) put_fifth_bits(y->qh, codes, at);
    if (!at.writes || at.lane != 0) return;
    y->d = good ? step.scale : k_nan_scale;
    y->m = good ? minimum : uint16_t(0);
}

// Four of the levels as bytes of a word.
constexpr uint32_t iq4_word(int first) {
    uint32_t word = 0;
    for (int i = 3; i >= 0; --i) word = word << 8 | uint8_t(k_iq4_levels[first + i]);
    return word;
}

constexpr uint32_t k_iq4_word_0 = iq4_word(0), k_iq4_word_4 = iq4_word(4);
constexpr uint32_t k_iq4_word_8 = iq4_word(8), k_iq4_word_12 = iq4_word(12);

// The level of a code known at run time, from registers.
__device__ inline float iq4_level(int code) {
    const uint32_t low = code < 4 ? k_iq4_word_0 : k_iq4_word_4;
    const uint32_t high = code < 12 ? k_iq4_word_8 : k_iq4_word_12;
    return float(int8_t((code < 8 ? low : high) >> (code % 4 * 8)));
}

// The code of the level nearest to x is the number of midpoints between levels that x has reached:
// midpoints are exact in f32, and so is ref's comparison of two distances near one.
__device__ inline int nearest_level(float x) {
    int code = 0;
#pragma unroll
    for (int c = 1; c < 16; ++c) {
        code += x >= 0.5f * (iq4_level(c - 1) + iq4_level(c)) ? 1 : 0;
    }
    return code;
}

__device__ inline void quantize_block(BlockIq4Nl* y, const float4& v, const BlockLane& at) {
    const float peak = block_peak(v);
    const bool tiny = fabsf(peak) < k_iq4_nl_tiny;
    const float inverse = tiny ? 0.0f : 1.0f / (peak / -127.0f);
    const float x[4] = {v.x, v.y, v.z, v.w};
    int codes[4];
    float terms_lx[4], terms_ll[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        codes[i] = tiny ? 8 : nearest_level(x[i] * inverse);
        const float level = iq4_level(codes[i]), weight = x[i] * x[i];
        terms_lx[i] = weight * level * x[i];
        terms_ll[i] = weight * level * level;
    }
    // The sums must run in index order: from lane to lane, each adding its four terms.
    float sum_lx = 0.0f, sum_ll = 0.0f;
#pragma unroll
    for (unsigned lane = 0; lane < k_block_lanes; ++lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum_lx += terms_lx[i];
            sum_ll += terms_ll[i];
        }
        sum_lx = from_lane(sum_lx, lane);
        sum_ll = from_lane(sum_ll, lane);
    }
    const uint16_t scale = tiny ? uint16_t(0) : f32_to_f16(sum_lx / sum_ll);
    const bool good = is_finite(magnitude(peak)) && finite_f16(scale);
    put_nibbles(y->qs, good ? pack(codes[0], codes[1], codes[2], codes[3]) : 0, at);
    if (at.writes && at.lane == 0) y->d = good ? scale : k_nan_scale;
}

__device__ inline void quantize_block(BlockQ5_1* y, const float4& x, const BlockLane& at) {
    quantize_above(y, x, at, 31);
}
__device__ inline void quantize_block(BlockQ5_0* y, const float4& x, const BlockLane& at) {
    quantize_signed(y, x, at, 16);
}
__device__ inline void quantize_block(BlockQ4_1* y, const float4& x, const BlockLane& at) {
    quantize_above(y, x, at, 15);
}
__device__ inline void quantize_block(BlockQ4_0* y, const float4& x, const BlockLane& at) {
    quantize_signed(y, x, at, 8);
}

// Plain halves, told apart by their type.
struct F16 {
    uint16_t bits;
    __device__ static uint32_t of(float x) { return f32_to_f16(x); }
};
struct Bf16 {
    uint16_t bits;
    __device__ static uint32_t of(float x) { return f32_to_bf16(x); }
};

/// Channels i .. i + 3 of a row of d channels into a cache type; i is a multiple of 4. All lanes of
/// the warp call it together, with pieces or without.
template <class Block>
__device__ void quantize4(Block* row, uint32_t i, uint32_t d, const float4& x, bool writes) {
    quantize_block(row + i / uint32_t(k_block), x, {i / 4 % k_block_lanes, writes && i < d});
}

__device__ inline void quantize4(float* row, uint32_t i, uint32_t d, const float4& x, bool writes) {
    if (writes) store4(row, i, d, reinterpret_cast<uintptr_t>(row) % 16 == 0, x);
}

template <class Half>
__device__ void quantize_halves(Half* row, uint32_t i, uint32_t d, const float4& x, bool writes) {
    const uint32_t h[4] = {Half::of(x.x), Half::of(x.y), Half::of(x.z), Half::of(x.w)};
    if (!writes) return;
    if (i + 4 <= d && reinterpret_cast<uintptr_t>(row) % 8 == 0) {
        *reinterpret_cast<uint2*>(row + i) = {h[0] | h[1] << 16, h[2] | h[3] << 16};
        return;
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
        if (i + j < d) row[i + j].bits = uint16_t(h[j]);
    }
}
__device__ inline void quantize4(F16* row, uint32_t i, uint32_t d, const float4& x, bool writes) {
    quantize_halves(row, i, d, x, writes);
}
__device__ inline void quantize4(Bf16* row, uint32_t i, uint32_t d, const float4& x, bool writes) {
    quantize_halves(row, i, d, x, writes);
}

/// Calls go(E()) with the element or block of a cache type. One question for all that a thread
/// stores, so that the compiler may interleave it.
template <class Go>
__device__ void with_cache_type(DType type, const Go& go) {
    switch (type) {
        case DType::f32:
            return go(float());
        case DType::f16:
            return go(F16());
        case DType::bf16:
            return go(Bf16());
        case DType::q8_0:
            return go(BlockQ8_0());
        case DType::q5_1:
            return go(BlockQ5_1());
        case DType::q5_0:
            return go(BlockQ5_0());
        case DType::q4_1:
            return go(BlockQ4_1());
        case DType::q4_0:
            return go(BlockQ4_0());
        default:
            return go(BlockIq4Nl());
    }
}

// Codes of elements j .. j + 3 of a block of 32, a byte each; j is a multiple of 4.
__device__ inline uint32_t nibbles(const uint8_t* qs, uint32_t j) {
    return load_bytes(qs + j % 16) >> (j < 16 ? 0 : 4) & 0x0F0F0F0Fu;
}
__device__ inline uint32_t fifth_bits(const uint8_t* qh, uint32_t j) {
    const uint32_t four = load_bytes(qh) >> j & 15u;
    return (four & 1) << 4 | (four & 2) << 11 | (four & 4) << 18 | (four & 8) << 25;
}

// f of each of four codes.
template <class F>
__device__ float4 each(uint32_t codes, const F& f) {
    return {f(int(codes & 255)), f(int(codes >> 8 & 255)), f(int(codes >> 16 & 255)),
            f(int(codes >> 24))};
}

// d * (code - zero)
__device__ inline float4 centered(uint32_t codes, float d, int zero) {
    return each(codes, [&](int code) { return d * float(code - zero); });
}
// d * code + m; products are exact
__device__ inline float4 above(uint32_t codes, float d, float m) {
    return each(codes, [&](int code) { return d * float(code) + m; });
}

__device__ inline float4 dequantize_block(const BlockQ8_0& x, uint32_t j) {
    const float d = f16_to_f32(x.d);
    const uint32_t codes = load_bytes(reinterpret_cast<const uint8_t*>(x.qs) + j);
    return each(codes, [&](int code) { return d * float(int8_t(code)); });
}
__device__ inline float4 dequantize_block(const BlockQ5_1& x, uint32_t j) {
    return above(nibbles(x.qs, j) | fifth_bits(x.qh, j), f16_to_f32(x.d), f16_to_f32(x.m));
}
__device__ inline float4 dequantize_block(const BlockQ5_0& x, uint32_t j) {
    return centered(nibbles(x.qs, j) | fifth_bits(x.qh, j), f16_to_f32(x.d), 16);
}
__device__ inline float4 dequantize_block(const BlockQ4_1& x, uint32_t j) {
    return above(nibbles(x.qs, j), f16_to_f32(x.d), f16_to_f32(x.m));
}
__device__ inline float4 dequantize_block(const BlockQ4_0& x, uint32_t j) {
    return centered(nibbles(x.qs, j), f16_to_f32(x.d), 8);
}
__device__ inline float4 dequantize_block(const BlockIq4Nl& x, uint32_t j) {
    const float d = f16_to_f32(x.d);
    return each(nibbles(x.qs, j), [&](int code) { return d * iq4_level(code); });
}

struct ScaleMin {
    int scale, min;
};

// Sixteen 6-bit numbers in twelve bytes, as in ref/quant_k.cpp.
__device__ inline ScaleMin scale_min(const uint8_t* scales, uint32_t s) {
    if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
    return {(scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4,
            (scales[s + 4] >> 4) | (scales[s] >> 6) << 4};
}

// Elements i .. i + 3 of a super-block of 256; i is a multiple of 4.
__device__ inline uint32_t two_bits(const uint8_t* qs, uint32_t i) {
    return load_bytes(qs + i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 0x03030303u;
}
__device__ inline uint32_t four_bits(const uint8_t* qs, uint32_t i) {
    return load_bytes(qs + i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4) & 0x0F0F0F0Fu;
}

template <class Block>
__device__ float4 scaled_above(const Block& x, uint32_t i, uint32_t codes) {
    const ScaleMin sub = scale_min(x.scales, i / 32);
    const float scale = f16_to_f32(x.d) * float(sub.scale);
    const float min = f16_to_f32(x.dmin) * float(sub.min);
    return each(codes, [&](int code) { return scale * float(code) - min; });
}

__device__ inline float4 dequantize_block(const BlockQ4_K& x, uint32_t i) {
    return scaled_above(x, i, four_bits(x.qs, i));
}
__device__ inline float4 dequantize_block(const BlockQ5_K& x, uint32_t i) {
    const uint32_t fifth = load_bytes(x.qh + i % 32) >> (i / 32) & 0x01010101u;
    return scaled_above(x, i, four_bits(x.qs, i) | fifth << 4);
}
__device__ inline float4 dequantize_block(const BlockQ6_K& x, uint32_t i) {
    const float scale = f16_to_f32(x.d) * float(x.scales[i / 16]);
    const uint32_t bytes = load_bytes(x.ql + i / 128 * 64 + i % 64);
    const uint32_t low = bytes >> (i / 64 % 2 * 4) & 0x0F0F0F0Fu;
    return centered(low | two_bits(x.qh, i) << 4, scale, 32);
}

template <class Block>
__device__ float4 dequantize_in_row(const std::byte* row, uint32_t i, uint32_t elements) {
    return dequantize_block(reinterpret_cast<const Block*>(row)[i / elements], i % elements);
}

__device__ inline float half_value(DType type, const uint16_t* x, uint32_t i, uint32_t d) {
    if (i >= d) return 0.0f;
    return type == DType::f16 ? f16_to_f32(x[i]) : bf16_to_f32(x[i]);
}

/// Channels i .. i + 3 of a row of d channels, in f32; i is a multiple of 4. 0 past the row's end.
__device__ inline float4 dequantize4(DType type, const std::byte* row, uint32_t i, uint32_t d) {
    if (i >= d) return {0, 0, 0, 0};
    switch (type) {
        case DType::q8_0:
            return dequantize_in_row<BlockQ8_0>(row, i, k_block);
        case DType::q5_1:
            return dequantize_in_row<BlockQ5_1>(row, i, k_block);
        case DType::q5_0:
            return dequantize_in_row<BlockQ5_0>(row, i, k_block);
        case DType::q4_1:
            return dequantize_in_row<BlockQ4_1>(row, i, k_block);
        case DType::q4_0:
            return dequantize_in_row<BlockQ4_0>(row, i, k_block);
        case DType::iq4_nl:
            return dequantize_in_row<BlockIq4Nl>(row, i, k_block);
        case DType::q4_k:
            return dequantize_in_row<BlockQ4_K>(row, i, k_super);
        case DType::q5_k:
            return dequantize_in_row<BlockQ5_K>(row, i, k_super);
        case DType::q6_k:
            return dequantize_in_row<BlockQ6_K>(row, i, k_super);
        case DType::f32: {
            const float* x = reinterpret_cast<const float*>(row);
            return load4(x, i, d, reinterpret_cast<uintptr_t>(x) % 16 == 0);
        }
        default: {
            const uint16_t* x = reinterpret_cast<const uint16_t*>(row);
            return {half_value(type, x, i, d), half_value(type, x, i + 1, d),
                    half_value(type, x, i + 2, d), half_value(type, x, i + 3, d)};
        }
    }
}

}  // namespace rotkv::cuda
