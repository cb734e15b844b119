#include "ref/zoo/small_floats.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rotkv::zoo {

uint32_t small_float_of(float x, const SmallFloat& type) {
    const uint32_t sign = uint32_t(std::signbit(x)) << (type.bits() - 1);
    if (std::isnan(x)) return type.nan | sign;
    if (std::isinf(x)) {
        const uint32_t infinity = ((1u << type.exponent_bits) - 1) << type.mantissa_bits;
        return (type.infinities ? infinity : type.nan) | sign;
    }
    const double magnitude = std::fabs(double(x));
    // The exponent of the binade, not below that of the least normal number, whose steps
    // subnormal numbers share.
    const int least = 1 - type.bias;
    const int exponent = std::max(least, magnitude > 0 ? std::ilogb(magnitude) : least);
    const double step = std::ldexp(1.0, exponent - type.mantissa_bits);
    const double rounded = std::nearbyint(magnitude / step) * step;  // ties to even
    if (rounded == 0) return sign;
    const double kept = std::min(rounded, double(type.largest));
    const int of_kept = std::max(least, std::ilogb(kept));
    const uint32_t steps = uint32_t(std::ldexp(kept, type.mantissa_bits - of_kept));
    // A normal number's hidden bit counts one more exponent.
    return sign | ((uint32_t(of_kept - least) << type.mantissa_bits) + steps);
}

float value_of(uint32_t code, const SmallFloat& type) {
    const bool negative = code >> (type.bits() - 1) & 1;
    const uint32_t magnitude = code & ((1u << (type.bits() - 1)) - 1);
    const uint32_t exponent = magnitude >> type.mantissa_bits;
    const uint32_t mantissa = magnitude & ((1u << type.mantissa_bits) - 1);
    double value = 0;
    if (type.infinities && exponent == (1u << type.exponent_bits) - 1) {
        value = mantissa == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
    } else if (type.nan != 0 && !type.infinities && magnitude == type.nan) {
        value = std::numeric_limits<double>::quiet_NaN();
    } else {
        const uint32_t hidden = exponent > 0 ? 1u << type.mantissa_bits : 0;
        const int scale = std::max(int(exponent), 1) - type.bias - type.mantissa_bits;
        value = std::ldexp(double(mantissa + hidden), scale);
    }
    return float(negative ? -value : value);
}

float value_of_e8m0(uint8_t code) {
    return code == 0xFF ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, code - 127);
}

}  // namespace rotkv::zoo
