#pragma once
// Stored elements to f32, four neighbouring ones to a thread: the types that a cache may have.
// dequant_weight.cuh adds those that only weights have. Each function must equal the one of its
// name in ref bit for bit.
// Docs: docs/03-quantization.md

#include "cuda/codes.cuh"

#include <type_traits>

namespace rotkv::cuda {

// Codes of elements j .. j + 3 of a block of 32, a byte each; j is a multiple of 4.
__device__ inline uint32_t nibbles(const uint8_t* qs, uint32_t j) {
    return load_bytes(qs + j % 16) >> (j < 16 ? 0 : 4) & 0x0F0F0F0Fu;
}
__device__ inline uint32_t fifth_bits(const uint8_t* qh, uint32_t j) {
    const uint32_t four = load_bytes(qh) >> j & 15u;
    return (four & 1) << 4 | (four & 2) << 11 | (four & 4) << 18 | (four & 8) << 25;
}

// Byte j of four codes, less `zero`, as a float: the byte is the last of the number 2^23 + code.
// The difference is exact, and four of these instructions take the time of one conversion.
template <int zero>
__device__ float value_of(uint32_t codes, unsigned j) {
    return __uint_as_float(__byte_perm(codes, 0x4B000000u, 0x7540u | j)) - float((1 << 23) + zero);
}

// f of each of four codes.
template <class F>
__device__ float4 each(uint32_t codes, const F& f) {
    return {f(int(codes & 255)), f(int(codes >> 8 & 255)), f(int(codes >> 16 & 255)),
            f(int(codes >> 24))};
}

// f of each of four codes less `zero`, as floats.
template <int zero, class F>
__device__ float4 each(uint32_t codes, const F& f) {
    return {f(value_of<zero>(codes, 0)), f(value_of<zero>(codes, 1)), f(value_of<zero>(codes, 2)),
            f(value_of<zero>(codes, 3))};
}

// d * (code - zero)
template <int zero>
__device__ float4 centered(uint32_t codes, float d) {
    return each<zero>(codes, [&](float code) { return d * code; });
}
// d * code + m; products are exact
__device__ inline float4 above(uint32_t codes, float d, float m) {
    return each<0>(codes, [&](float code) { return d * code + m; });
}

// Signed codes: those plus 128 are bytes of another sign.
__device__ inline float4 dequantize_block(const BlockQ8_0& x, uint32_t j) {
    const uint32_t codes = load_bytes(reinterpret_cast<const uint8_t*>(x.qs) + j);
    return centered<128>(codes ^ 0x80808080u, f16_to_f32(x.d));
}
__device__ inline float4 dequantize_block(const BlockQ5_1& x, uint32_t j) {
    return above(nibbles(x.qs, j) | fifth_bits(x.qh, j), f16_to_f32(x.d), f16_to_f32(x.m));
}
__device__ inline float4 dequantize_block(const BlockQ5_0& x, uint32_t j) {
    return centered<16>(nibbles(x.qs, j) | fifth_bits(x.qh, j), f16_to_f32(x.d));
}
__device__ inline float4 dequantize_block(const BlockQ4_1& x, uint32_t j) {
    return above(nibbles(x.qs, j), f16_to_f32(x.d), f16_to_f32(x.m));
}
__device__ inline float4 dequantize_block(const BlockQ4_0& x, uint32_t j) {
    return centered<8>(nibbles(x.qs, j), f16_to_f32(x.d));
}
__device__ inline float4 dequantize_block(const BlockIq4Nl& x, uint32_t j) {
    const float d = f16_to_f32(x.d);
    return each(nibbles(x.qs, j), [&](int code) { return d * iq4_level(code); });
}

template <class Block>
__device__ float4 dequantize_in_row(const std::byte* row, uint32_t i, uint32_t elements) {
    return dequantize_block(reinterpret_cast<const Block*>(row)[i / elements], i % elements);
}

__device__ inline float half_value(DType type, uint16_t bits) {
    return type == DType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}
__device__ inline float4 halves(DType type, const uint16_t* x, uint32_t i, uint32_t d) {
    uint16_t h[4] = {};
    if (i + 4 <= d && reinterpret_cast<uintptr_t>(x) % 8 == 0) {
        const uint2 all = *reinterpret_cast<const uint2*>(x + i);
        h[0] = uint16_t(all.x), h[1] = uint16_t(all.x >> 16);
        h[2] = uint16_t(all.y), h[3] = uint16_t(all.y >> 16);
    } else {
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) h[j] = i + j < d ? x[i + j] : uint16_t(0);
    }
    return {half_value(type, h[0]), half_value(type, h[1]), half_value(type, h[2]),
            half_value(type, h[3])};
}

/// Channels i .. i + 3 of a cached row of d, in f32; i is a multiple of 4. 0 past the row's end.
__device__ inline float4 dequantize4(DType type, const std::byte* row, uint32_t i, uint32_t d) {
    if (i >= d) return {0, 0, 0, 0};
    const float* x = reinterpret_cast<const float*>(row);
    // clang-format off
    switch (type) {
        case DType::q8_0: return dequantize_in_row<BlockQ8_0>(row, i, k_block);
        case DType::q5_1: return dequantize_in_row<BlockQ5_1>(row, i, k_block);
        case DType::q5_0: return dequantize_in_row<BlockQ5_0>(row, i, k_block);
        case DType::q4_1: return dequantize_in_row<BlockQ4_1>(row, i, k_block);
        case DType::q4_0: return dequantize_in_row<BlockQ4_0>(row, i, k_block);
        case DType::iq4_nl: return dequantize_in_row<BlockIq4Nl>(row, i, k_block);
        case DType::f32: return load4(x, i, d, reinterpret_cast<uintptr_t>(x) % 16 == 0);
        case DType::f16: case DType::bf16:
            return halves(type, reinterpret_cast<const uint16_t*>(row), i, d);
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() has refused every other type
}

/// Calls go with the cache type as a constant, for code that has one case of each kind.
template <class Go>
__device__ void with_type(DType type, const Go& go) {
    // clang-format off
    switch (type) {
        case DType::f32: return go(std::integral_constant<DType, DType::f32>());
        case DType::f16: return go(std::integral_constant<DType, DType::f16>());
        case DType::bf16: return go(std::integral_constant<DType, DType::bf16>());
        case DType::q8_0: return go(std::integral_constant<DType, DType::q8_0>());
        case DType::q5_1: return go(std::integral_constant<DType, DType::q5_1>());
        case DType::q5_0: return go(std::integral_constant<DType, DType::q5_0>());
        case DType::q4_1: return go(std::integral_constant<DType, DType::q4_1>());
        case DType::q4_0: return go(std::integral_constant<DType, DType::q4_0>());
        case DType::iq4_nl: return go(std::integral_constant<DType, DType::iq4_nl>());
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() has refused every other type
}

}  // namespace rotkv::cuda
