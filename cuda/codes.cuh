#pragma once
// Bits of stored elements: halves, four codes in a word, the uneven levels of iq4_nl.
// Docs: docs/03-quantization.md

#include "cuda/device.cuh"
#include "ref/quant.h"

#include <cuda_fp16.h>

namespace rotkv::cuda {

// As ref/half.h: to nearest even, and a NaN that is stored is always the same one.
__device__ inline uint16_t f32_to_f16(float x) {
    if (isnan(x)) return 0x7E00;
    return __half_as_ushort(__float2half_rn(x));
}
__device__ inline float f16_to_f32(uint16_t h) { return __half2float(__ushort_as_half(h)); }
__device__ inline bool finite_f16(uint16_t bits) { return (bits & 0x7C00) != 0x7C00; }

__device__ inline uint16_t f32_to_bf16(float x) {
    if (isnan(x)) return 0x7FC0;
    const uint32_t bits = __float_as_uint(x);
    return uint16_t((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
__device__ inline float bf16_to_f32(uint16_t h) { return __uint_as_float(uint32_t(h) << 16); }

/// Two numbers as halves in a register, x in the low one.
__device__ inline uint32_t halves_of(float x, float y) {
    const __half2 halves = __floats2half2_rn(x, y);
    return reinterpret_cast<const uint32_t&>(halves);
}
/// The same of two bf16, each the upper half of an f32.
__device__ inline uint32_t halves_of_bf16(uint32_t pair) {
    return halves_of(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
}

// Elements of two bytes, told apart by their type.
struct F16 {
    uint16_t bits;
    __device__ static uint32_t of(float x) { return f32_to_f16(x); }
};
struct Bf16 {
    uint16_t bits;
    __device__ static uint32_t of(float x) { return f32_to_bf16(x); }
};

/// Channels i .. i + 3 of a row of d, unless the row is null.
template <class Half>
__device__ void store_halves(Half* row, uint32_t i, uint32_t d, const float4& x) {
    const uint32_t h[4] = {Half::of(x.x), Half::of(x.y), Half::of(x.z), Half::of(x.w)};
    if (row == nullptr) return;
    if (i + 4 <= d && reinterpret_cast<uintptr_t>(row) % 8 == 0) {
        *reinterpret_cast<uint2*>(row + i) = {h[0] | h[1] << 16, h[2] | h[3] << 16};
        return;
    }
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
        if (i + j < d) row[i + j].bits = uint16_t(h[j]);
    }
}

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

// The low bytes of four codes.
__device__ inline uint32_t pack(int a, int b, int c, int d) {
    return __byte_perm(__byte_perm(a, b, 0x0040), __byte_perm(c, d, 0x0040), 0x5410);
}

// Four of the levels of iq4_nl as bytes of a word.
constexpr uint32_t iq4_word(int first) {
    uint32_t word = 0;
    for (int i = 3; i >= 0; --i) word = word << 8 | uint8_t(k_iq4_levels[first + i]);
    return word;
}
constexpr uint32_t k_iq4_word_0 = iq4_word(0), k_iq4_word_4 = iq4_word(4);
constexpr uint32_t k_iq4_word_8 = iq4_word(8), k_iq4_word_12 = iq4_word(12);

// The levels + 128 of four codes, which are nibbles of the low half of `four`. A byte permutation
// looks up eight levels by three bits of each code, another one chooses by its fourth.
__device__ inline uint32_t iq4_levels(uint32_t four) {
    constexpr uint32_t k_sign = 0x80808080u;
    const uint32_t three = four & 0x7777u;
    const uint32_t low = __byte_perm(k_iq4_word_0 ^ k_sign, k_iq4_word_4 ^ k_sign, three);
    const uint32_t high = __byte_perm(k_iq4_word_8 ^ k_sign, k_iq4_word_12 ^ k_sign, three);
    return __byte_perm(low, high, 0x3210u | (four & 0x8888u) >> 1);
}

// The level of a code known at run time, from registers.
__device__ inline float iq4_level(int code) {
    const uint32_t low = code < 4 ? k_iq4_word_0 : k_iq4_word_4;
    const uint32_t high = code < 12 ? k_iq4_word_8 : k_iq4_word_12;
    return float(int8_t((code < 8 ? low : high) >> (code % 4 * 8)));
}

}  // namespace rotkv::cuda
