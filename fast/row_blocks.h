#pragma once
// A row of any weight type, block after block of 32, in registers as f32: packed.h and packed_k.h
// under one name. Docs: docs/03-quantization.md

#include "fast/kernels.h"
#include "fast/packed_k.h"

#include <cstdlib>

namespace rotkv::fast {

/// k_super_blocks blocks of a row at a time.
template <DType type>
struct Blocks {
    const std::byte* row;
    int64_t first, ahead;

    /// Those from `block` on; calls from memory what lies `bytes` behind them.
    void open(const std::byte* of, int64_t block, int64_t bytes) {
        row = of, first = block, ahead = bytes;
    }
    /// The 32 values of block i of them, in k_block_vectors vectors.
    void values(Vec* v, int64_t i) const {
        prefetch(Packed<type>::place(row, first + i) + ahead);
        Packed<type>::values(v, row, first + i, Packed<type>::number(row, first + i));
    }
};
template <DType type>
requires(requires { Super<type>::k_shared; }) struct Blocks<type> {
    using Block = typename Super<type>::Block;
    Unpacked unpacked;

    void open(const std::byte* row, int64_t block, int64_t ahead) {
        const std::byte* place = block_place<Block>(row, block / k_super_blocks);
        for (size_t i = 0; i < sizeof(Block); i += 64) prefetch(place + i + ahead);
        Super<type>::unpack(unpacked, *reinterpret_cast<const Block*>(place));
    }
    void values(Vec* v, int64_t i) const { unpacked_values<type>(v, unpacked, i); }
};

/// take(block, v) for blocks first .. end - 1 of a row of n values; first is a multiple of
/// k_super_blocks. The last block of plain types may be short: zeros fill it.
template <DType type, class Take>
inline void for_each_block(const std::byte* row, int64_t n, int64_t first, int64_t end,
                           int64_t ahead, const Take& take) {
    const int64_t whole = std::min(end, n / k_block);
    Blocks<type> blocks;
    for (int64_t at = first; at < whole; at += k_super_blocks) {
        blocks.open(row, at, ahead);
        const int64_t count = std::min(k_super_blocks, whole - at);
        for (int64_t i = 0; i < count; ++i) {
            Vec v[k_block_vectors];
            blocks.values(v, i);
            take(at + i, v);
        }
    }
    if (whole == end) return;
    const int64_t rest = n - whole * k_block;
    float values[k_block] = {};
    dequantize_row(type, values, row + block_offset(type, whole * k_block), rest);
    Vec v[k_block_vectors];
    for (int64_t j = 0; j < k_block_vectors; ++j) v[j] = load(values + j * k_lanes);
    take(whole, v);
}

/// visit.operator()<type>() for a type that a weight may have.
template <class Visit>
inline auto with_weight(DType type, const Visit& visit) {
    // clang-format off
    switch (type) {
        case DType::f32: return visit.template operator()<DType::f32>();
        case DType::f16: return visit.template operator()<DType::f16>();
        case DType::bf16: return visit.template operator()<DType::bf16>();
        case DType::q8_0: return visit.template operator()<DType::q8_0>();
        case DType::q5_1: return visit.template operator()<DType::q5_1>();
        case DType::q5_0: return visit.template operator()<DType::q5_0>();
        case DType::q4_1: return visit.template operator()<DType::q4_1>();
        case DType::q4_0: return visit.template operator()<DType::q4_0>();
        case DType::iq4_nl: return visit.template operator()<DType::iq4_nl>();
        case DType::mxfp4: return visit.template operator()<DType::mxfp4>();
        case DType::q4_k: return visit.template operator()<DType::q4_k>();
        case DType::q5_k: return visit.template operator()<DType::q5_k>();
        case DType::q6_k: return visit.template operator()<DType::q6_k>();
        case DType::q3_k: return visit.template operator()<DType::q3_k>();
        case DType::q2_k: return visit.template operator()<DType::q2_k>();
        case DType::iq4_xs: return visit.template operator()<DType::iq4_xs>();
        case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // check() has refused these
}

}  // namespace rotkv::fast
