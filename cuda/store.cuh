#pragma once
// Pieces of rows (hadamard.cuh) from registers into a cache type, as kv_store, kv_shift and
// quantize use it. Blocks are only 2-byte aligned and their fields small: a piece's blocks are put
// together in shared memory and go out as one run of bytes, as many at a time as the alignment of
// the rows allows.
// Docs: docs/03-quantization.md

#include "cuda/hadamard.cuh"
#include "cuda/quant_iq4_nl.cuh"
#include "ref/quant.h"

namespace rotkv::cuda {

/// Rows cut for throughput: few lanes, each with 16 channels where there are as many. Fewer
/// exchanges between lanes, and each number that is made once a block or once a row serves more.
inline Pieces wide_pieces(const Rotation& rotation, int64_t d, uint32_t at_least = 0) {
    const uint32_t row = uint32_t(std::min<uint64_t>(std::bit_ceil(uint64_t(d)), 128));
    at_least = std::max({row, at_least, k_least_piece});
    const uint32_t width = Pieces(rotation, d, at_least).width;
    return Pieces(rotation, d, at_least, std::clamp(width / 16, k_block_lanes, k_warp));
}

/// Bytes that a thread may write at once: 8, 4 or 2, whichever divides the addresses and bytes of
/// all rows and of their pieces.
inline uint32_t store_word(const TensorView& rows, const Pieces& cut) {
    uint64_t all = reinterpret_cast<uintptr_t>(rows.data);
    for (int i = 0; i < 3; ++i) all |= uint64_t(rows.stride[i]);
    all |= uint64_t(row_bytes(rows.type, rows.n[3]) | block_offset(rows.type, cut.width));
    return all % 8 == 0 ? 8 : all % 4 == 0 ? 4 : 2;
}

// A piece's blocks in shared memory take at most 34 bytes for 32 channels, and get 40: groups then
// begin in different banks.
template <int R>
constexpr unsigned k_staged_bytes = 5 * R;  // of a lane

// Words to words by all lanes of a group, of which each takes `Most` bytes or fewer. Up to eight
// are on their way before the first has arrived.
template <class Word, unsigned Most>
__device__ void copy_words(std::byte* to, const std::byte* from, unsigned bytes,
                           const Pieces& cut) {
    constexpr unsigned size = sizeof(Word), count = (Most + size - 1) / size;
    constexpr unsigned at_once = count < 8 ? count : 8;
    const unsigned lane = threadIdx.x & (cut.lanes - 1);
#pragma unroll 1
    for (unsigned first = 0; first < count; first += at_once) {
        Word words[at_once];
#pragma unroll
        for (unsigned k = 0; k < at_once; ++k) {
            const unsigned i = (lane + (first + k) * cut.lanes) * size;
            if (i < bytes) words[k] = *reinterpret_cast<const Word*>(from + i);
        }
#pragma unroll
        for (unsigned k = 0; k < at_once; ++k) {
            const unsigned i = (lane + (first + k) * cut.lanes) * size;
            if (i < bytes) *reinterpret_cast<Word*>(to + i) = words[k];
        }
    }
}

/// Bytes of a piece between memory and shared memory.
template <unsigned Most>
__device__ void copy_piece(uint32_t word, std::byte* to, const std::byte* from, unsigned bytes,
                           const Pieces& cut) {
    if (word == 8) {
        copy_words<uint2, Most>(to, from, bytes, cut);
    } else if (word == 4) {
        copy_words<uint32_t, Most>(to, from, bytes, cut);
    } else {
        copy_words<uint16_t, Most>(to, from, bytes, cut);
    }
}

// `staged` is the shared memory of the whole block of threads.
template <class Block, int R>
__device__ void store_blocks(std::byte* staged, std::byte* row, uint32_t begin, const Pieces& cut,
                             uint32_t word, const float4 (&x)[R]) {
    const unsigned lane = threadIdx.x & (cut.lanes - 1);
    std::byte* const piece = staged + (threadIdx.x - lane) * k_staged_bytes<R>;
    quantize_blocks(reinterpret_cast<Block*>(piece) + lane / k_block_lanes,
                    cut.lanes / k_block_lanes, x);
    __syncwarp();
    if (row == nullptr) return;
    constexpr unsigned size = sizeof(Block), most = (R * size + k_block_lanes - 1) / k_block_lanes;
    const uint32_t first = begin - 4 * lane;
    const unsigned bytes = min(cut.width, cut.d - first) / unsigned(k_block) * size;
    std::byte* to = row + first / unsigned(k_block) * size;
    copy_piece<most>(word, to, piece, bytes, cut);
}

__device__ inline void store_plain(float* row, uint32_t i, uint32_t d, const float4& x) {
    if (row == nullptr) return;
    store4(row, i, d, reinterpret_cast<uintptr_t>(row) % 16 == 0, x);
}
template <class Half>
__device__ void store_plain(Half* row, uint32_t i, uint32_t d, const float4& x) {
    store_halves(row, i, d, x);
}

/// Calls go(E()) with the element or block of a cache type. One question for all that a thread
/// stores, so that the compiler may interleave it.
template <class Go>
__device__ void with_cache_type(DType type, const Go& go) {
    // clang-format off
    switch (type) {
        case DType::f32: return go(float());
        case DType::f16: return go(F16());
        case DType::bf16: return go(Bf16());
        case DType::q8_0: return go(BlockQ8_0());
        case DType::q5_1: return go(BlockQ5_1());
        case DType::q5_0: return go(BlockQ5_0());
        case DType::q4_1: return go(BlockQ4_1());
        case DType::q4_0: return go(BlockQ4_0());
        case DType::iq4_nl: return go(BlockIq4Nl());
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() has refused every other type
}

/// The lane's share of a piece, channels begin + 4 L j .. + 3, into a row of any cache type; a row
/// that is null is not written. All lanes of the warp call it together.
template <int R>
__device__ void store_piece(DType type, std::byte* row, uint32_t begin, const Pieces& cut,
                            uint32_t word, const float4 (&x)[R]) {
    __shared__ alignas(8) std::byte staged[k_quant_threads * k_staged_bytes<R>];
    with_cache_type(type, [&](auto element) {
        using Element = decltype(element);
        if constexpr (sizeof(Element) > 4) {
            store_blocks<Element>(staged, row, begin, cut, word, x);
        } else {
#pragma unroll
            for (int j = 0; j < R; ++j) {
                store_plain(reinterpret_cast<Element*>(row), begin + 4 * cut.lanes * j, cut.d,
                            x[j]);
            }
        }
    });
}

}  // namespace rotkv::cuda
