// The k-quants: formats of weights, super-blocks of 256 values, read only.
//   q2_K  84 bytes, 2.625 bits    value = d * sc * code - dmin * mn     sub-blocks of 16
//   q3_K 110 bytes, 3.4375 bits   value = d * (sc - 32) * (code - 4)    sub-blocks of 16
//   q4_K 144 bytes, 4.5 bits      value = d * sc * code - dmin * mn     sub-blocks of 32
//   q5_K 176 bytes, 5.5 bits      value = d * sc * code - dmin * mn     sub-blocks of 32
//   q6_K 210 bytes, 6.5625 bits   value = d * sc * (code - 32)          sub-blocks of 16
// d has 11 significant bits, sc at most 7, a code at most 5: their product fits in f32 whatever the
// order, and only the subtraction rounds. Index i is the element.
// Docs: docs/03-quantization.md

#include "ref/half.h"
#include "ref/quant.h"

namespace rotkv::ref {
namespace {

struct ScaleMin {
    int scale, min;
};

// Scale and minimum of sub-block s of q4_K and q5_K: sixteen 6-bit numbers in twelve bytes. The
// first four pairs are the low six bits of bytes 0-3 and 4-7. The last four pairs have their low
// nibbles in bytes 8-11 and their high two bits on top of bytes 0-3 and 4-7.
ScaleMin scale_min(const uint8_t* scales, int64_t s) {
    if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
    return {(scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4,
            (scales[s + 4] >> 4) | (scales[s] >> 6) << 4};
}

// Scale of sub-block s of q3_K: the low nibbles of 0-7 are those of bytes 0-7, of 8-15 the high
// nibbles there; the high two bits lie in bytes 8-11, four scales to a byte.
int q3_scale(const uint8_t* scales, int64_t s) {
    const int low = scales[s % 8] >> (s < 8 ? 0 : 4) & 15;
    const int high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
    return low | high << 4;
}

// Two bits of element i of q2_K and q3_K: 32 bytes hold 128 elements, i and i + 32 side by side.
int two_bits(const uint8_t* qs, int64_t i) {
    return qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
}

// Four bits of element i of q4_K and q5_K: 32 bytes hold 64 elements, i and i + 32 side by side.
int four_bits(const uint8_t* qs, int64_t i) {
    return qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
}

}  // namespace

void dequantize_block(float* y, const BlockQ2_K& x) {
    const float d = f16_to_f32(x.d), dmin = f16_to_f32(x.dmin);
    for (int64_t i = 0; i < k_super; ++i) {
        const float scale = d * float(x.scales[i / 16] & 15);
        const float min = dmin * float(x.scales[i / 16] >> 4);
        y[i] = scale * float(two_bits(x.qs, i)) - min;
    }
}

void dequantize_block(float* y, const BlockQ3_K& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t i = 0; i < k_super; ++i) {
        const float scale = d * float(q3_scale(x.scales, i / 16) - 32);
        const int third = x.hmask[i % 32] >> (i / 32) & 1;
        y[i] = scale * float((two_bits(x.qs, i) | third << 2) - 4);
    }
}

void dequantize_block(float* y, const BlockQ4_K& x) {
    const float d = f16_to_f32(x.d), dmin = f16_to_f32(x.dmin);
    for (int64_t i = 0; i < k_super; ++i) {
        const ScaleMin sub = scale_min(x.scales, i / 32);
        const float scale = d * float(sub.scale), min = dmin * float(sub.min);
        y[i] = scale * float(four_bits(x.qs, i)) - min;
    }
}

void dequantize_block(float* y, const BlockQ5_K& x) {
    const float d = f16_to_f32(x.d), dmin = f16_to_f32(x.dmin);
    for (int64_t i = 0; i < k_super; ++i) {
        const ScaleMin sub = scale_min(x.scales, i / 32);
        const float scale = d * float(sub.scale), min = dmin * float(sub.min);
        const int fifth = x.qh[i % 32] >> (i / 32) & 1;
        y[i] = scale * float(four_bits(x.qs, i) | fifth << 4) - min;
    }
}

// 64 bytes of ql hold the low nibbles of 128 elements, i and i + 64 side by side; 32 bytes of qh
// their high two bits, as in two_bits.
void dequantize_block(float* y, const BlockQ6_K& x) {
    const float d = f16_to_f32(x.d);
    for (int64_t i = 0; i < k_super; ++i) {
        const float scale = d * float(x.scales[i / 16]);
        const int low = x.ql[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        const int high = two_bits(x.qh, i);
        y[i] = scale * float((low | high << 4) - 32);
    }
}

}  // namespace rotkv::ref
