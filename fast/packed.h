#pragma once
// Packed numbers as they come from memory into registers: 32 of a row at a time, expanded to f32,
// bit by bit what dequantize_row would store. A product that takes them from there reads each
// packed byte once and writes nothing. Docs: docs/03-quantization.md
//
// A format is a struct Packed<type> of functions. Its blocks of 32 are counted through the
// row, and each has two numbers, a and b:
//   number(row, block)              a and b
//   values(v, row, block, number)   the block's 32 values in k_block_vectors vectors
//   place(row, block)               where its bytes begin
// Where codes have four bits and a vector sixteen lanes, the block's sixteen possible values are
// computed once, and each code picks one.

#include "fast/simd.h"
#include "ref/quant.h"

#include <cstdlib>
#include <cstring>

namespace rotkv::fast {

inline constexpr int64_t k_block_vectors = k_block / k_lanes;

template <DType type>
struct Packed;

/// Where a block begins.
template <class Block>
inline const std::byte* block_place(const void* row, int64_t i) {
    return static_cast<const std::byte*>(row) + i * int64_t(sizeof(Block));
}

/// The numbers of one block. b: what formats with a minimum add.
struct BlockNumbers {
    float a, b;
};

template <class Block>
inline const Block& block_of(const void* row, int64_t i) {
    return static_cast<const Block*>(row)[i];
}

/// Of formats whose blocks have an f16 scale, or a scale and a minimum.
template <class Block>
inline BlockNumbers scale_number(const void* row, int64_t i) {
    const Block& x = block_of<Block>(row, i);
    if constexpr (requires { x.m; }) {
        return {f16_value(x.d), f16_value(x.m)};
    } else {
        return {f16_value(x.d), 0.0f};
    }
}

/// v = a * code, codes of a byte each
inline void scaled_bytes(Vec* v, const int8_t* codes, float a) {
#pragma GCC unroll 8
    for (int64_t i = 0; i < k_block_vectors; ++i) {
        v[i] = to_float(widen(codes + i * k_lanes)) * Vec(a);
    }
}

// ---- codes of four bits

/// The codes of elements e .. e + k_lanes - 1 of a block whose byte j holds j and j + 16.
inline Ints nibbles(const uint8_t* qs, int64_t e) {
    const Ints bytes = widen(qs + e % 16);
    return e < 16 ? bytes & Ints(15) : bytes >> 4;
}

/// All 32 of them.
inline void split_nibbles(uint8_t* y, const uint8_t* qs) {
#pragma omp simd
    for (int64_t j = 0; j < 16; ++j) {
        y[j] = qs[j] & 15;
        y[j + 16] = uint8_t(qs[j] >> 4);
    }
}

/// v = a * (code + first) + b
inline void linear_nibbles(Vec* v, const uint8_t* qs, float first, BlockNumbers n) {
    if constexpr (k_picks_16) {
        static constexpr float codes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        const Vec table = fma(load(codes) + Vec(first), Vec(n.a), Vec(n.b));
        const Ints bytes = widen(qs);
        v[0] = pick16(table, bytes);
        v[1] = pick16(table, bytes >> 4);
    } else {
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) {
            v[i] = fma(to_float(nibbles(qs, i * k_lanes)) + Vec(first), Vec(n.a), Vec(n.b));
        }
    }
}

template <>
struct Packed<DType::q4_0> {
    static constexpr auto number = scale_number<BlockQ4_0>;
    static constexpr auto place = block_place<BlockQ4_0>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        linear_nibbles(v, block_of<BlockQ4_0>(row, block).qs, -8.0f, n);
    }
};

template <>
struct Packed<DType::q4_1> {
    static constexpr auto number = scale_number<BlockQ4_1>;
    static constexpr auto place = block_place<BlockQ4_1>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        linear_nibbles(v, block_of<BlockQ4_1>(row, block).qs, 0.0f, n);
    }
};

/// v = a * levels[code]
inline void leveled_nibbles(Vec* v, const uint8_t* qs, const int8_t* levels, float a) {
    if constexpr (k_picks_16) {
        const Vec table = to_float(widen(levels)) * Vec(a);
        const Ints bytes = widen(qs);
        v[0] = pick16(table, bytes);
        v[1] = pick16(table, bytes >> 4);
    } else {
        uint8_t codes[k_block];
        split_nibbles(codes, qs);
        int8_t picked[k_block];
        pick16(picked, levels, codes);
        pick16(picked + 16, levels, codes + 16);
        scaled_bytes(v, picked, a);
    }
}

template <>
struct Packed<DType::iq4_nl> {
    static constexpr auto number = scale_number<BlockIq4Nl>;
    static constexpr auto place = block_place<BlockIq4Nl>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        leveled_nibbles(v, block_of<BlockIq4Nl>(row, block).qs, k_iq4_levels, n.a);
    }
};

template <>
struct Packed<DType::mxfp4> {
    static constexpr auto place = block_place<BlockMxfp4>;
    static BlockNumbers number(const void* row, int64_t i) {
        return {mxfp4_scale(block_of<BlockMxfp4>(row, i).e), 0.0f};
    }
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        leveled_nibbles(v, block_of<BlockMxfp4>(row, block).qs, k_mxfp4_levels, n.a);
    }
};

// ---- codes of five bits: the fifth is worth 16

template <>
struct Packed<DType::q5_0> {
    static constexpr auto number = scale_number<BlockQ5_0>;
    static constexpr auto place = block_place<BlockQ5_0>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        const BlockQ5_0& x = block_of<BlockQ5_0>(row, block);
        int8_t codes[k_block];
        join_fives<16>(codes, x.qs, x.qh);
        scaled_bytes(v, codes, n.a);
    }
};

template <>
struct Packed<DType::q5_1> {
    static constexpr auto number = scale_number<BlockQ5_1>;
    static constexpr auto place = block_place<BlockQ5_1>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        const BlockQ5_1& x = block_of<BlockQ5_1>(row, block);
        int8_t codes[k_block];
        join_fives<0>(codes, x.qs, x.qh);
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) {
            v[i] = fma(to_float(widen(codes + i * k_lanes)), Vec(n.a), Vec(n.b));
        }
    }
};

// ---- codes of eight bits

template <>
struct Packed<DType::q8_0> {
    static constexpr auto number = scale_number<BlockQ8_0>;
    static constexpr auto place = block_place<BlockQ8_0>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers n) {
        scaled_bytes(v, block_of<BlockQ8_0>(row, block).qs, n.a);
    }
};

// ---- plain numbers: no block has anything of its own

inline BlockNumbers no_number(const void*, int64_t) { return {}; }

template <>
struct Packed<DType::f32> {
    static constexpr auto number = no_number;
    static constexpr auto place = block_place<float[k_block]>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers) {
        const float* x = static_cast<const float*>(row) + block * k_block;
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) v[i] = load(x + i * k_lanes);
    }
};

template <>
struct Packed<DType::f16> {
    static constexpr auto number = no_number;
    static constexpr auto place = block_place<uint16_t[k_block]>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers) {
        const uint16_t* x = static_cast<const uint16_t*>(row) + block * k_block;
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) v[i] = load_f16(x + i * k_lanes);
    }
};

template <>
struct Packed<DType::bf16> {
    static constexpr auto number = no_number;
    static constexpr auto place = block_place<uint16_t[k_block]>;
    static void values(Vec* v, const void* row, int64_t block, BlockNumbers) {
        const uint16_t* x = static_cast<const uint16_t*>(row) + block * k_block;
#pragma GCC unroll 8
        for (int64_t i = 0; i < k_block_vectors; ++i) v[i] = load_bf16(x + i * k_lanes);
    }
};

/// visit(Packed<type>{}) for a type that a cache may have.
template <class Visit>
inline void with_packed(DType type, Visit visit) {
    // clang-format off
    switch (type) {
        case DType::f32: return visit(Packed<DType::f32>{});
        case DType::f16: return visit(Packed<DType::f16>{});
        case DType::bf16: return visit(Packed<DType::bf16>{});
        case DType::q8_0: return visit(Packed<DType::q8_0>{});
        case DType::q5_1: return visit(Packed<DType::q5_1>{});
        case DType::q5_0: return visit(Packed<DType::q5_0>{});
        case DType::q4_1: return visit(Packed<DType::q4_1>{});
        case DType::q4_0: return visit(Packed<DType::q4_0>{});
        case DType::iq4_nl: return visit(Packed<DType::iq4_nl>{});
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // check() has refused every other type
}

}  // namespace rotkv::fast
