#pragma once
// Floating-point numbers of 4 and 8 bits, as OCP's formats have them: e4m3 (no infinities, one
// NaN), e5m2 (IEEE's rules), e2m1 (neither), and e8m0, a power of two.
// Docs: docs/20-zoo.md

#include <cstdint>

namespace rotkv::zoo {

/// What a sign, exponent and mantissa of so many bits mean.
struct SmallFloat {
    int exponent_bits, mantissa_bits, bias;
    float largest;    ///< that is finite
    uint32_t nan;     ///< its code; 0: there is none, and none can be stored
    bool infinities;  ///< are there any? Else an infinity becomes NaN

    int bits() const { return 1 + exponent_bits + mantissa_bits; }
};

inline constexpr SmallFloat k_e4m3{4, 3, 7, 448, 0x7F, false};
inline constexpr SmallFloat k_e5m2{5, 2, 15, 57344, 0x7E, true};
inline constexpr SmallFloat k_e2m1{2, 1, 1, 6, 0, false};

/// The code nearest to x, ties to the even mantissa; magnitudes beyond the largest become it.
/// Source: OCP 8-bit floating point 1.0 and Microscaling 1.0, their saturating conversions.
uint32_t small_float_of(float x, const SmallFloat& type);

/// The value of a code; exact in f32.
float value_of(uint32_t code, const SmallFloat& type);

/// 2^(code - 127); code 255 is NaN.
float value_of_e8m0(uint8_t code);

}  // namespace rotkv::zoo
