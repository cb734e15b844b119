#pragma once
// Four neighbouring elements of a weight's row as they come from memory. Of q4_1 and q8_0 words, not
// floats yet, so that all that a thread needs is on its way before it looks at any; of other types
// floats at once. Values must equal weight4's (dequant_weight.cuh) bit for bit. Docs: docs/08-backends.md

#include "cuda/dequant_weight.cuh"

namespace rotkv::cuda {

/// Elements i .. i + 3 of a row of `in`; 0 where the row has ended. i is a multiple of 4.
template <DType type>
struct Fetched {
    float4 x;
    __device__ Fetched(const std::byte* w, uint32_t i, uint32_t in) : x(weight4(type, w, i, in)) {}
    __device__ float4 value() const { return x; }
};

template <>
struct Fetched<DType::q4_1> {  // in words, on which all of its fields begin
    uint32_t scales, codes;
    __device__ Fetched(const std::byte* w, uint32_t i, uint32_t in) {
        const auto* block = reinterpret_cast<const uint32_t*>(w) + i / k_block * k_words;
        scales = i < in ? block[0] : 0;
        codes = (i < in ? block[1 + i % 16 / 4] : 0) >> (i % 32 < 16 ? 0 : 4) & 0x0F0F0F0Fu;
    }
    __device__ float4 value() const {
        return above(codes, f16_to_f32(uint16_t(scales)), f16_to_f32(uint16_t(scales >> 16)));
    }
    static constexpr uint32_t k_words = sizeof(BlockQ4_1) / sizeof(uint32_t);
};

template <>
struct Fetched<DType::q8_0> {
    uint32_t scale, low, high;
    __device__ Fetched(const std::byte* w, uint32_t i, uint32_t in) {
        const auto* block = reinterpret_cast<const uint16_t*>(w) + i / k_block * k_halves;
        scale = i < in ? block[0] : 0;
        low = i < in ? block[1 + i % 32 / 2] : 0;
        high = i < in ? block[2 + i % 32 / 2] : 0;
    }
    __device__ float4 value() const {
        return centered<128>((low | high << 16) ^ 0x80808080u, f16_to_f32(uint16_t(scale)));
    }
    static constexpr uint32_t k_halves = sizeof(BlockQ8_0) / sizeof(uint16_t);
};

/// Do the rows begin where Fetched reads them from? On words, of q4_1.
inline bool fetchable(const TensorView& weight) {
    return weight.type != DType::q4_1 || rows_on(weight, sizeof(uint32_t));
}

}  // namespace rotkv::cuda
