// f16 and bf16: every bit pattern, and every border between two of them, against the definition of
// the formats in double.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "tests/catch.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

using namespace rotkv;

namespace {

constexpr float k_inf = std::numeric_limits<float>::infinity();

struct Format {
    int fraction_bits, least;  ///< a subnormal number is fraction * 2^least
    int infinity, nan;         ///< their bits; infinity also counts on as the next power of two
    uint16_t (*to)(float);
    float (*from)(uint16_t);
};
const Format k_f16{10, -24, 0x7C00, 0x7E00, f32_to_f16, f16_to_f32};
const Format k_bf16{7, -133, 0x7F80, 0x7FC0, f32_to_bf16, bf16_to_f32};

/// The magnitude that `bits` stand for.
double value(const Format& format, int bits) {
    const int one = 1 << format.fraction_bits;
    const int exponent = bits / one, fraction = bits % one;
    return exponent == 0 ? std::ldexp(fraction, format.least)
                         : std::ldexp(one + fraction, format.least + exponent - 1);
}

/// Finite patterns of one sign that do not read as their value, do not survive the way back, or
/// have a border to the next pattern that rounds to the wrong side; the border goes to the even
/// one.
int64_t wrong_patterns(const Format& format, bool negative) {
    const float sign = negative ? -1.0f : 1.0f;
    const int sign_bit = negative ? 0x8000 : 0;
    int64_t wrong = 0;
    for (int bits = 0; bits < format.infinity; ++bits) {
        const float exact = float(value(format, bits));
        const float border = float((value(format, bits) + value(format, bits + 1)) / 2);  // exact
        const float read = format.from(uint16_t(sign_bit | bits));
        const int even = bits % 2 == 0 ? bits : bits + 1;
        const bool good =
            read == sign * exact && std::signbit(read) == negative &&
            format.to(read) == (sign_bit | bits) &&
            format.to(sign * std::nextafter(border, 0.0f)) == (sign_bit | bits) &&
            format.to(sign * border) == (sign_bit | even) &&
            format.to(sign * std::nextafter(border, k_inf)) == (sign_bit | (bits + 1));
        if (!good) ++wrong;
    }
    return wrong;
}

}  // namespace

TEST_CASE("half: every f16 and bf16 reads right and every f32 between two rounds right", "[half]") {
    for (const Format& format : {k_f16, k_bf16}) {
        CHECK(wrong_patterns(format, false) == 0);
        CHECK(wrong_patterns(format, true) == 0);
    }
}

TEST_CASE("half: infinity stays, and every NaN is stored as the same one", "[half]") {
    for (const Format& format : {k_f16, k_bf16}) {
        int64_t wrong = 0;
        for (int sign : {0, 0x8000}) {
            const float infinity = sign == 0 ? k_inf : -k_inf;
            CHECK(format.from(uint16_t(sign | format.infinity)) == infinity);
            CHECK(format.to(infinity) == (sign | format.infinity));
            for (int bits = format.infinity + 1; bits < 0x8000; ++bits) {
                const float read = format.from(uint16_t(sign | bits));
                if (!std::isnan(read) || format.to(read) != format.nan) ++wrong;
            }
        }
        CHECK(wrong == 0);
        // A NaN whose set bits are all among those that the short format drops.
        CHECK(format.to(std::bit_cast<float>(0x7F800001u)) == format.nan);
        CHECK(format.to(std::bit_cast<float>(0xFF800001u)) == format.nan);
    }
}
