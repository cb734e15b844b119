#pragma once
// Stored elements of weights to f32, four neighbouring ones to a thread: the formats that only
// weights have (ref/quant_k.cpp, quant_iq4_xs.cpp, quant_mxfp4.cpp), and one function for all
// types. Each must equal the function of its name in ref bit for bit. Docs: docs/03-quantization.md

#include "cuda/dequant.cuh"

namespace rotkv::cuda {

struct ScaleMin {
    int scale, min;
};

// Sixteen 6-bit numbers in twelve bytes: scale and minimum of sub-block s of q4_K and q5_K.
__device__ inline ScaleMin scale_min(const uint8_t* scales, uint32_t s) {
    if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
    return {(scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4,
            (scales[s + 4] >> 4) | (scales[s] >> 6) << 4};
}
// Sixteen 6-bit numbers in as many bytes: scale of sub-block s of q3_K.
__device__ inline int q3_scale(const uint8_t* scales, uint32_t s) {
    const int low = scales[s % 8] >> (s < 8 ? 0 : 4) & 15;
    const int high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
    return low | high << 4;
}

// Elements i .. i + 3 of a super-block of 256; i is a multiple of 4.
__device__ inline uint32_t two_bits(const uint8_t* qs, uint32_t i) {
    return load_bytes(qs + i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 0x03030303u;
}
__device__ inline uint32_t four_bits(const uint8_t* qs, uint32_t i) {
    return load_bytes(qs + i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4) & 0x0F0F0F0Fu;
}
__device__ inline uint32_t one_bit(const uint8_t* bits, uint32_t i) {
    return load_bytes(bits + i % 32) >> (i / 32) & 0x01010101u;
}

// scale * code - min
__device__ inline float4 below(uint32_t codes, float scale, float min) {
    return each<0>(codes, [&](float code) { return scale * code - min; });
}

__device__ inline float4 dequantize_block(const BlockQ2_K& x, uint32_t i) {
    const int sub = x.scales[i / 16];
    return below(two_bits(x.qs, i), f16_to_f32(x.d) * float(sub & 15),
                 f16_to_f32(x.dmin) * float(sub >> 4));
}
__device__ inline float4 dequantize_block(const BlockQ3_K& x, uint32_t i) {
    const float scale = f16_to_f32(x.d) * float(q3_scale(x.scales, i / 16) - 32);
    return centered<4>(two_bits(x.qs, i) | one_bit(x.hmask, i) << 2, scale);
}
__device__ inline float4 dequantize_block(const BlockQ4_K& x, uint32_t i) {
    const ScaleMin sub = scale_min(x.scales, i / 32);
    return below(four_bits(x.qs, i), f16_to_f32(x.d) * float(sub.scale),
                 f16_to_f32(x.dmin) * float(sub.min));
}
__device__ inline float4 dequantize_block(const BlockQ5_K& x, uint32_t i) {
    const ScaleMin sub = scale_min(x.scales, i / 32);
    return below(four_bits(x.qs, i) | one_bit(x.qh, i) << 4, f16_to_f32(x.d) * float(sub.scale),
                 f16_to_f32(x.dmin) * float(sub.min));
}
__device__ inline float4 dequantize_block(const BlockQ6_K& x, uint32_t i) {
    const float scale = f16_to_f32(x.d) * float(x.scales[i / 16]);
    const uint32_t bytes = load_bytes(x.ql + i / 128 * 64 + i % 64);
    const uint32_t low = bytes >> (i / 64 % 2 * 4) & 0x0F0F0F0Fu;
    return centered<32>(low | two_bits(x.qh, i) << 4, scale);
}
__device__ inline float4 dequantize_block(const BlockIq4Xs& x, uint32_t i) {
    const uint32_t s = i / k_block;
    const int low = x.scales_l[s / 2] >> (s % 2 * 4) & 15, high = x.scales_h >> (s * 2) & 3;
    const float scale = f16_to_f32(x.d) * float((low | high << 4) - 32);
    return each(nibbles(x.qs + s * 16, i % k_block),
                [&](int code) { return scale * iq4_level(code); });
}

// 2 * {0, .5, 1, 1.5, 2, 3, 4, 6}, a nibble each; from code 8 on negated (8 is +0).
__device__ inline float mxfp4_level(int code) {
    const float level = float(0xC8643210u >> (code % 8 * 4) & 15u);
    return code > 8 ? -level : level;
}
// A block has 17 bytes, and none of its fields an even address.
__device__ inline float4 dequantize_block(const BlockMxfp4& x, uint32_t j) {
    const uint32_t e = x.e;  // 2^(e - 128), a denormal for e < 2
    const float scale = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    const uint8_t* qs = x.qs + j % 16;
    const uint32_t bytes =
        qs[0] | uint32_t(qs[1]) << 8 | uint32_t(qs[2]) << 16 | uint32_t(qs[3]) << 24;
    return each(bytes >> (j < 16 ? 0 : 4) & 0x0F0F0F0Fu,
                [&](int code) { return scale * mxfp4_level(code); });
}

// As dequantize_in_row, which has seen none of the functions above.
template <class Block>
__device__ float4 dequantize_in_weight(const std::byte* row, uint32_t i, uint32_t elements) {
    return dequantize_block(reinterpret_cast<const Block*>(row)[i / elements], i % elements);
}

/// Elements i .. i + 3 of a row of d elements of any weight type, in f32; i is a multiple of 4.
/// 0 past the row's end. Where the type is known to the compiler, nothing is left of the switch.
__device__ __forceinline__ float4 weight4(DType type, const std::byte* row, uint32_t i,
                                          uint32_t d) {
    if (i >= d) return {0, 0, 0, 0};
    // clang-format off
    switch (type) {
        case DType::q2_k: return dequantize_in_weight<BlockQ2_K>(row, i, k_super);
        case DType::q3_k: return dequantize_in_weight<BlockQ3_K>(row, i, k_super);
        case DType::q4_k: return dequantize_in_weight<BlockQ4_K>(row, i, k_super);
        case DType::q5_k: return dequantize_in_weight<BlockQ5_K>(row, i, k_super);
        case DType::q6_k: return dequantize_in_weight<BlockQ6_K>(row, i, k_super);
        case DType::iq4_xs: return dequantize_in_weight<BlockIq4Xs>(row, i, k_super);
        case DType::mxfp4: return dequantize_in_weight<BlockMxfp4>(row, i, k_block);
        case DType::f32: case DType::f16: case DType::bf16: case DType::q8_0: case DType::q5_1:
        case DType::q5_0: case DType::q4_1: case DType::q4_0: case DType::iq4_nl:
        case DType::i32: case DType::f64: break;
    }
    // clang-format on
    return dequantize4(type, row, i, d);  // what a cache may have too; nothing else
}

}  // namespace rotkv::cuda
