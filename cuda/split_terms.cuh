#pragma once
// An f32 number as a sum of three bf16, for products of f32 precision on tensor cores:
//
//     2^24 x = high + mid + low      w likewise
//     2^48 w x = high high + (high mid + mid high) + (high low + mid mid + low high) + left out
//
// Each term is what the ones before leave, to nearest: |mid| <= 2^-8 |x|, |low| <= 2^-16 |x|, and
// three times 8 bits and two signs hold all 24 of x. What is left out is at most
// (2^-24 + 2^-24 + 2^-32) |w x|, 2 u and a trace.
//
// Why bf16, and three: two TF32 or f16 are 22 bits, and leave out 8 u when bits are against them. A
// product of two f16 runs twice as fast as one of TF32, but f16 has no exponents: each row would
// have to be scaled by its largest element before, and of its small ones bits would still be lost.
// Six products of bf16 take as long as three of TF32, and the terms less room (6 bytes for 8).
//
// Why 2^24: the lowest bit that any f32 has, 2^-149, becomes 2^-125, so that no term is subnormal.
// At the other end numbers from 2^103 on, and sums from 2^80 on, become infinities or NaN. What is
// not finite in the end is computed once more, plainly (split_product.cuh).
//
// Columns of a weight's row lie in another order, in each 16 of them: a lane that has four
// neighbouring columns of x has two pairs of those that an instruction counts as its.
//
//     column  0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
//     place   0  1  8  9  2  3 10 11  4  5 12 13  6  7 14 15
//
// Docs: docs/08-backends.md

#include "cuda/device.cuh"

namespace rotkv::cuda::split {

constexpr int k_terms = 3;
constexpr float k_scale = 0x1p24f, k_scale_back = 0x1p-48f;  // of a factor; of a product

/// Two bf16 to nearest even, x in the low half.
__device__ inline uint32_t bf16_pair(float x, float y) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
    return pair;
}

__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

/// The terms of x and y, pairs. Not finite where 2^24 x or 2^24 y is not, nearly.
__device__ inline void split_pair(float x, float y, uint32_t& high, uint32_t& mid, uint32_t& low) {
    x *= k_scale;
    y *= k_scale;
    high = bf16_pair(x, y);
    x -= low_of(high);
    y -= high_of(high);
    mid = bf16_pair(x, y);
    low = bf16_pair(x - low_of(mid), y - high_of(mid));
}

/// Where the first two of columns 4 n .. 4 n + 3 lie; the others lie eight places further.
__device__ inline uint32_t place_of_four(uint32_t n) { return n / 4 * 16 + n % 4 * 2; }

// A weight that has no terms: its high one is this NaN, the two others are its bits.
constexpr uint32_t k_no_terms = 0x7FFF;

/// As split_pair, for weights: all can be put together again.
__device__ inline void split_weights(float x, float y, uint32_t (&pairs)[k_terms]) {
    split_pair(x, y, pairs[0], pairs[1], pairs[2]);
    const uint32_t x_bits = __float_as_uint(x), y_bits = __float_as_uint(y);
    if (!(fabsf(x * k_scale) <= 0x1p127f)) {
        pairs[0] = (pairs[0] & 0xFFFF0000u) | k_no_terms;
        pairs[1] = (pairs[1] & 0xFFFF0000u) | x_bits >> 16;
        pairs[2] = (pairs[2] & 0xFFFF0000u) | (x_bits & 0xFFFFu);
    }
    if (!(fabsf(y * k_scale) <= 0x1p127f)) {
        pairs[0] = (pairs[0] & 0xFFFFu) | k_no_terms << 16;
        pairs[1] = (pairs[1] & 0xFFFFu) | (y_bits & 0xFFFF0000u);
        pairs[2] = (pairs[2] & 0xFFFFu) | y_bits << 16;
    }
}

__device__ inline double joined_weight(uint16_t high, uint16_t mid, uint16_t low) {
    if (high == k_no_terms) return __uint_as_float(uint32_t(mid) << 16 | low);
    const auto term = [](uint16_t bits) { return double(__uint_as_float(uint32_t(bits) << 16)); };
    return (term(high) + term(mid) + term(low)) * (1 / double(k_scale));
}

}  // namespace rotkv::cuda::split
