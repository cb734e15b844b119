#pragma once
// f16 and bf16 as bit patterns: conversions in integer arithmetic, exact on every machine.
// Docs: docs/03-quantization.md

#include <bit>
#include <cstdint>

namespace rotkv {

/// The f16 nearest to x, ties to even; beyond 65504 + half a step infinity; NaN is always 0x7E00.
inline uint16_t f32_to_f16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return 0x7E00;                    // NaN
    if (magnitude >= 0x477FF000u) return uint16_t(sign | 0x7C00);  // rounds to infinity
    if (magnitude < 0x33000001u) return sign;                      // at most half the least f16
    // Keep 11 significant bits, fewer below 2^-14, where f16 counts in fixed steps of 2^-24.
    const int exponent = int(magnitude >> 23) - 127;
    const uint32_t significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    const int drop = exponent < -14 ? -1 - exponent : 13;
    uint32_t kept = significand >> drop;
    const uint32_t rest = significand & ((1u << drop) - 1), half = 1u << (drop - 1);
    if (rest > half || (rest == half && (kept & 1u))) ++kept;
    // A carry out of the significand raises the exponent field by one, which is what rounding
    // means.
    const uint32_t biased = exponent < -14 ? 0 : uint32_t(exponent + 14) << 10;
    return uint16_t(sign | (biased + kept));
}

/// The value of an f16 bit pattern; every one is exact in f32.
inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000u) << 16;
    const uint32_t exponent = h >> 10 & 0x1Fu, fraction = h & 0x3FFu;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24
        const float value = float(fraction) * 0x1p-24f;
        return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
    }
    const uint32_t wide = exponent == 31 ? 0xFFu : exponent + 112;
    return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

/// The bf16 nearest to x, ties to even; NaN is always 0x7FC0.
inline uint16_t f32_to_bf16(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0;
    return uint16_t((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/// The value of a bf16 bit pattern.
inline float bf16_to_f32(uint16_t h) { return std::bit_cast<float>(uint32_t(h) << 16); }

}  // namespace rotkv
