#pragma once
// Stored elements to f32, four neighbouring ones to a thread: dequantize, embed, kv_shift and
// attention read through this. Each function must equal the one of its name in ref bit for bit.
// Docs: docs/03-quantization.md

#include "cuda/codes.cuh"

namespace rotkv::cuda {

// Codes of elements j .. j + 3 of a block of 32, a byte each; j is a multiple of 4.
__device__ inline uint32_t nibbles(const uint8_t* qs, uint32_t j) {
    return load_bytes(qs + j % 16) >> (j < 16 ? 0 : 4) & 0x0F0F0F0Fu;
}
__device__ inline uint32_t fifth_bits(const uint8_t* qh, uint32_t j) {
    const uint32_t four = load_bytes(qh) >> j & 15u;
    return (four & 1) << 4 | (four & 2) << 11 | (four & 4) << 18 | (four & 8) << 25;
}

// f of each of four codes.
template <class F>
__device__ float4 each(uint32_t codes, const F& f) {
    return {f(int(codes & 255)), f(int(codes >> 8 & 255)), f(int(codes >> 16 & 255)),
            f(int(codes >> 24))};
}

// d * (code - zero)
__device__ inline float4 centered(uint32_t codes, float d, int zero) {
    return each(codes, [&](int code) { return d * float(code - zero); });
}
// d * code + m; products are exact
__device__ inline float4 above(uint32_t codes, float d, float m) {
    return each(codes, [&](int code) { return d * float(code) + m; });
}

__device__ inline float4 dequantize_block(const BlockQ8_0& x, uint32_t j) {
    const float d = f16_to_f32(x.d);
    const uint32_t codes = load_bytes(reinterpret_cast<const uint8_t*>(x.qs) + j);
    return each(codes, [&](int code) { return d * float(int8_t(code)); });
}
__device__ inline float4 dequantize_block(const BlockQ5_1& x, uint32_t j) {
    return above(nibbles(x.qs, j) | fifth_bits(x.qh, j), f16_to_f32(x.d), f16_to_f32(x.m));
}
__device__ inline float4 dequantize_block(const BlockQ5_0& x, uint32_t j) {
    return centered(nibbles(x.qs, j) | fifth_bits(x.qh, j), f16_to_f32(x.d), 16);
}
__device__ inline float4 dequantize_block(const BlockQ4_1& x, uint32_t j) {
    return above(nibbles(x.qs, j), f16_to_f32(x.d), f16_to_f32(x.m));
}
__device__ inline float4 dequantize_block(const BlockQ4_0& x, uint32_t j) {
    return centered(nibbles(x.qs, j), f16_to_f32(x.d), 8);
}
__device__ inline float4 dequantize_block(const BlockIq4Nl& x, uint32_t j) {
    const float d = f16_to_f32(x.d);
    return each(nibbles(x.qs, j), [&](int code) { return d * iq4_level(code); });
}

struct ScaleMin {
    int scale, min;
};

// Sixteen 6-bit numbers in twelve bytes, as in ref/quant_k.cpp.
__device__ inline ScaleMin scale_min(const uint8_t* scales, uint32_t s) {
    if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
    return {(scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4,
            (scales[s + 4] >> 4) | (scales[s] >> 6) << 4};
}

// Elements i .. i + 3 of a super-block of 256; i is a multiple of 4.
__device__ inline uint32_t two_bits(const uint8_t* qs, uint32_t i) {
    return load_bytes(qs + i / 128 * 32 + i % 32) >> (i / 32 % 4 * 2) & 0x03030303u;
}
__device__ inline uint32_t four_bits(const uint8_t* qs, uint32_t i) {
    return load_bytes(qs + i / 64 * 32 + i % 32) >> (i / 32 % 2 * 4) & 0x0F0F0F0Fu;
}

template <class Block>
__device__ float4 scaled_above(const Block& x, uint32_t i, uint32_t codes) {
    const ScaleMin sub = scale_min(x.scales, i / 32);
    const float scale = f16_to_f32(x.d) * float(sub.scale);
    const float min = f16_to_f32(x.dmin) * float(sub.min);
    return each(codes, [&](int code) { return scale * float(code) - min; });
}

__device__ inline float4 dequantize_block(const BlockQ4_K& x, uint32_t i) {
    return scaled_above(x, i, four_bits(x.qs, i));
}
__device__ inline float4 dequantize_block(const BlockQ5_K& x, uint32_t i) {
    const uint32_t fifth = load_bytes(x.qh + i % 32) >> (i / 32) & 0x01010101u;
    return scaled_above(x, i, four_bits(x.qs, i) | fifth << 4);
}
__device__ inline float4 dequantize_block(const BlockQ6_K& x, uint32_t i) {
    const float scale = f16_to_f32(x.d) * float(x.scales[i / 16]);
    const uint32_t bytes = load_bytes(x.ql + i / 128 * 64 + i % 64);
    const uint32_t low = bytes >> (i / 64 % 2 * 4) & 0x0F0F0F0Fu;
    return centered(low | two_bits(x.qh, i) << 4, scale, 32);
}

template <class Block>
__device__ float4 dequantize_in_row(const std::byte* row, uint32_t i, uint32_t elements) {
    return dequantize_block(reinterpret_cast<const Block*>(row)[i / elements], i % elements);
}

__device__ inline float half_value(DType type, const uint16_t* x, uint32_t i, uint32_t d) {
    if (i >= d) return 0.0f;
    return type == DType::f16 ? f16_to_f32(x[i]) : bf16_to_f32(x[i]);
}

/// Channels i .. i + 3 of a row of d channels, in f32; i is a multiple of 4. 0 past the row's end.
__device__ inline float4 dequantize4(DType type, const std::byte* row, uint32_t i, uint32_t d) {
    if (i >= d) return {0, 0, 0, 0};
    switch (type) {
        case DType::q8_0:
            return dequantize_in_row<BlockQ8_0>(row, i, k_block);
        case DType::q5_1:
            return dequantize_in_row<BlockQ5_1>(row, i, k_block);
        case DType::q5_0:
            return dequantize_in_row<BlockQ5_0>(row, i, k_block);
        case DType::q4_1:
            return dequantize_in_row<BlockQ4_1>(row, i, k_block);
        case DType::q4_0:
            return dequantize_in_row<BlockQ4_0>(row, i, k_block);
        case DType::iq4_nl:
            return dequantize_in_row<BlockIq4Nl>(row, i, k_block);
        case DType::q4_k:
            return dequantize_in_row<BlockQ4_K>(row, i, k_super);
        case DType::q5_k:
            return dequantize_in_row<BlockQ5_K>(row, i, k_super);
        case DType::q6_k:
            return dequantize_in_row<BlockQ6_K>(row, i, k_super);
        case DType::f32: {
            const float* x = reinterpret_cast<const float*>(row);
            return load4(x, i, d, reinterpret_cast<uintptr_t>(x) % 16 == 0);
        }
        default: {
            const uint16_t* x = reinterpret_cast<const uint16_t*>(row);
            return {half_value(type, x, i, d), half_value(type, x, i + 1, d),
                    half_value(type, x, i + 2, d), half_value(type, x, i + 3, d)};
        }
    }
}

}  // namespace rotkv::cuda
