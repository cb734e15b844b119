#pragma once
// The contract of the block formats: the bytes, and what each backend must do with them.
// Bytes are GGUF's; quantization equals ggml's quantize_row_*_ref byte for byte, each product and
// sum rounded on its own. One format a file: quant_q8_0.cpp, quant_q4_0.cpp, ...
// Docs: docs/03-quantization.md

#include "ref/types.h"

#include <cstdint>

namespace rotkv {

inline constexpr int64_t k_block = 32;   ///< B: elements of a cache block
inline constexpr int64_t k_super = 256;  ///< elements of a weight-only super-block

// f16 values are their bits, in uint16_t; qs[j] holds code j in the low nibble and code j + 16 in
// the high one; qh holds the fifth bits, bit j for element j.
struct BlockQ4_0 {
    uint16_t d;
    uint8_t qs[16];
};
struct BlockQ4_1 {
    uint16_t d, m;
    uint8_t qs[16];
};
struct BlockQ5_0 {
    uint16_t d;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ8_0 {
    uint16_t d;
    int8_t qs[32];
};
struct BlockIq4Nl {
    uint16_t d;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 &&
              sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockIq4Nl) == 18);

// Formats that only weights use: rotkv reads them and never writes them. A super-block of 256 has
// one f16 scale d (and dmin) and cuts itself into sub-blocks with small integer scales.
struct BlockQ2_K {       // value = d * sc * code - dmin * mn, 16 sub-blocks of 16
    uint8_t scales[16];  // sc in the low nibble, mn in the high one
    uint8_t qs[64];      // 2 bits a code
    uint16_t d, dmin;
};
struct BlockQ3_K {       // value = d * (sc - 32) * (code - 4), 16 sub-blocks of 16
    uint8_t hmask[32];   // the codes' third bits
    uint8_t qs[64];      // their low two
    uint8_t scales[12];  // sc, 6 bits each
    uint16_t d;
};
struct BlockQ4_K {  // value = d * sc * code - dmin * mn, 8 sub-blocks of 32
    uint16_t d, dmin;
    uint8_t scales[12];  // sc and mn, 6 bits each
    uint8_t qs[128];
};
struct BlockQ5_K {  // as q4_K
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];  // the codes' fifth bits
    uint8_t qs[128];
};
struct BlockQ6_K {    // value = d * sc * (code - 32), 16 sub-blocks of 16
    uint8_t ql[128];  // the codes' low nibbles
    uint8_t qh[64];   // their high two bits
    int8_t scales[16];
    uint16_t d;
};
struct BlockIq4Xs {  // value = d * (sc - 32) * k_iq4_levels[code], 8 sub-blocks of 32
    uint16_t d;
    uint16_t scales_h;    // high two bits of the eight sc
    uint8_t scales_l[4];  // their low nibbles
    uint8_t qs[128];
};
struct BlockMxfp4 {  // value = 2^(e - 128) * k_mxfp4_levels[code], 32 elements
    uint8_t e;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144 &&
              sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockIq4Xs) == 136 &&
              sizeof(BlockMxfp4) == 17);

/// The sixteen levels of iq4_nl and iq4_xs.
inline constexpr int8_t k_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                            1,    13,   25,  38,  53,  69,  89,  113};

/// The sixteen levels of mxfp4, doubled to be integers: 2 * {0, .5, 1, 1.5, 2, 3, 4, 6}, then the
/// same negated (code 8 is +0, not -0).
inline constexpr int8_t k_mxfp4_levels[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                              0, -1, -2, -3, -4, -6, -8, -12};

// Where ggml leaves a result undefined, ours is defined and the same on every backend:
//   a NaN or inf element, or a scale or minimum not finite in f16: scale k_nan_scale, minimum 0,
//     all code bits 0, so that every value decodes to a NaN that cannot be overlooked;
//   1 / d overflows f32: scale 0, minimum f16(min), codes 0 (q8_0 q4_1 q5_1), 8 (q4_0), 16 (q5_0);
//   an all-zero block: as ggml, scale 0x8000 (-0) for q4_0 and q5_0;
//   iq4_nl with every |x| < k_iq4_nl_tiny: scale 0, codes 8.
inline constexpr uint16_t k_nan_scale = 0x7E00;
inline constexpr float k_iq4_nl_tiny = 1e-15f;

namespace ref {

/// What quantize_row and dequantize_row take for granted. Operations have passed check(); who asks
/// for rows of a type that a file, a flag or a case names asks these first, once.
/// Throws: Error(unsupported) for a type that no cache (and no weight) uses, Error(bad_argument)
///         unless n is a multiple of the type's block.
void check_quantize_row(DType type, int64_t n);
void check_dequantize_row(DType type, int64_t n);

/// Quantizes one row into any of the cache types.
/// Math:   per block of 32, the formulas of docs/03-quantization.md; f16 / bf16 to nearest even.
/// Shapes: x [n] f32, y row_bytes(type, n) bytes; n a multiple of the type's block. No aliasing.
/// Exact:  the specification itself.
/// Needs:  check_quantize_row(type, n).
void quantize_row(DType type, void* y, const float* x, int64_t n);

/// Expands one row of any type that a cache or a GGUF weight uses.
/// Math:   y = d * code (+ m) in f32. The products are exact: 11 bits of d, at most 12 of the rest.
/// Shapes: x row_bytes(type, n) bytes, y [n] f32; n a multiple of the type's block. No aliasing.
/// Exact:  the specification itself.
/// Needs:  check_dequantize_row(type, n).
void dequantize_row(DType type, float* y, const void* x, int64_t n);

// One block at a time. Each pair has its own file, with the formula on top.
void quantize_block(BlockQ8_0& y, const float* x);
void quantize_block(BlockQ5_1& y, const float* x);
void quantize_block(BlockQ5_0& y, const float* x);
void quantize_block(BlockQ4_1& y, const float* x);
void quantize_block(BlockQ4_0& y, const float* x);
void quantize_block(BlockIq4Nl& y, const float* x);

void dequantize_block(float* y, const BlockQ8_0& x);
void dequantize_block(float* y, const BlockQ5_1& x);
void dequantize_block(float* y, const BlockQ5_0& x);
void dequantize_block(float* y, const BlockQ4_1& x);
void dequantize_block(float* y, const BlockQ4_0& x);
void dequantize_block(float* y, const BlockIq4Nl& x);
void dequantize_block(float* y, const BlockQ2_K& x);
void dequantize_block(float* y, const BlockQ3_K& x);
void dequantize_block(float* y, const BlockQ4_K& x);
void dequantize_block(float* y, const BlockQ5_K& x);
void dequantize_block(float* y, const BlockQ6_K& x);
void dequantize_block(float* y, const BlockIq4Xs& x);
void dequantize_block(float* y, const BlockMxfp4& x);

/// What a block of 32 is measured by before it is quantized.
struct BlockRange {
    float min, max;  ///< the first least and the first greatest element
    float peak;      ///< the first element of largest magnitude, with its sign; +0 if all are zero
    bool finite;     ///< no element is NaN or inf; otherwise the other three mean nothing
};
BlockRange block_range(const float* x);

/// A block's step d twice: as it is stored, and as it turns values into codes.
struct Step {
    uint16_t scale;  ///< f16(d); 0 if 1 / d overflows
    float inverse;   ///< 1 / d in f32, of the unrounded d; 0 if d = 0 or 1 / d overflows
};
Step block_step(float d);

/// True unless the f16 `bits` are inf or NaN.
inline bool finite_f16(uint16_t bits) { return (bits & 0x7C00) != 0x7C00; }

// Where code j of a block of 32 lies. The put_ functions fill fields that were all 0.
inline int nibble(const uint8_t* qs, int64_t j) { return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4; }
inline int fifth_bit(const uint8_t* qh, int64_t j) { return (qh[j / 8] >> (j % 8)) & 1; }

inline void put_nibble(uint8_t* qs, int64_t j, int code) {
    qs[j % 16] = uint8_t(qs[j % 16] | (code & 15) << (j < 16 ? 0 : 4));
}
inline void put_fifth_bit(uint8_t* qh, int64_t j, int code) {
    qh[j / 8] = uint8_t(qh[j / 8] | (code >> 4) << (j % 8));
}

}  // namespace ref
}  // namespace rotkv
