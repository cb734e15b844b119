// How a row is cut into digits: digits.h.
#include "fast/digits.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace rotkv::fast {
namespace {

uint32_t magnitude_bits(float x) { return std::bit_cast<uint32_t>(x) & 0x7FFFFFFF; }

// An e so that four digits hold all of a block in steps of 2^(e - 30): its largest is below
// (2 - 2^-6) 2^e. Of infinities and NaNs 128 and more.
int exponent_for(const float* x) {
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < k_block; ++i) largest = std::max(largest, magnitude_bits(x[i]));
    return int((largest + (1 << 17)) >> 23) - 127;
}

}  // namespace

bool DigitRow::assign(const float* x, int64_t n, int32_t zero) {
    constexpr int most = 90;  // exponents: a step of theirs, and what it is worth, are plain f32
    blocks_.clear();
    for (int64_t first = 0; first < n; first += k_block) {
        const float* const from = x + first;
        float rest[k_block];
        std::copy_n(from, k_block, rest);
        for (bool more = true; more;) {
            const int e = exponent_for(rest);
            if (e == -127 && std::all_of(rest, rest + k_block, [](float v) { return v == 0; }))
                break;
            if (e < -most || e > most) return false;
            add(rest, first / k_block, std::ldexp(1.0f, e - 30), zero);
            more = false;
            for (int64_t i = 0; i < k_block; ++i) {
                more |= std::fabs(rest[i]) > 0x1p-22f * std::fabs(from[i]);
            }
        }
    }
    return true;
}

// Four digits of `rest`, which keeps what they do not hold. Nothing rounds but to whole numbers:
// `step` is a power of two.
void DigitRow::add(float* rest, int64_t block, float step, int32_t zero) {
    DigitBlock& to = blocks_.emplace_back();
    to.block = block;
    uint32_t bytes[k_block];  // the digits, lowest first
    const float inverse = 1 / step;
#pragma omp simd
    for (int64_t i = 0; i < k_block; ++i) {
        const float whole = std::nearbyint(rest[i] * inverse);
        rest[i] -= whole * step;
        // Bytes of the number plus 128 in each place are the digits, plus 128.
        bytes[i] = (uint32_t(int32_t(whole)) + 0x80808080u) ^ 0x80808080u;
    }
    constexpr uint8_t ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    Ints sums(0);
    for (int64_t s = 0; s < k_block_vectors; ++s) {
        for (int64_t j = 0; j < k_digits; ++j) {
            int8_t* const digits = to.digits[s][j];
#pragma omp simd
            for (int64_t i = 0; i < k_lanes; ++i) {
                digits[i] = int8_t(bytes[s * k_lanes + i] >> (8 * j));
            }
        }
        sums = add_products<Codes::low_nibbles>(sums, ones, to.digits[s]);
    }
    (Ints(-zero) * sums).store_unaligned(to.start);
    store(to.sums, to_float(sums));
    for (int64_t i = 0; i < k_lanes; ++i) {
        to.worth[i] = step * float(1 << (8 * (i / (k_lanes / k_digits))));
    }
}

}  // namespace rotkv::fast
