#pragma once
// Tiles of cells for prefill: stored rows arrive by asynchronous copies and become f16.
//
// A tile [rows][D] lies in panels of 64 channels, [D / 64][rows][64], so that a row of a panel is
// 128 bytes, all banks once: eight pieces of 16 bytes, piece p of row r at place p ^ r % 8. Eight
// rows at the same piece lie in eight different places: load_matrices reads them, and eight lanes
// that own a row each write them, without conflict. It is the order that wgmma calls 128B swizzle.
//
// Rows of f16 and bf16 on 16 bytes are copied into one of two tiles in turn, where bf16 becomes f16
// in its place. All others go to a stage, as they are stored, and are expanded from there. A row
// may begin at any even address: the copy begins at the multiple of 16 before it, `skew` bytes
// early.
// Docs: docs/05-attention.md

#include "cuda/codes.cuh"
#include "cuda/copies.cuh"
#include "cuda/prefill_mma.cuh"

namespace rotkv::cuda::prefill {

/// The byte of a tile of `rows` rows at which a piece of eight channels begins.
__device__ inline uint32_t place_of(uint32_t rows, uint32_t row, uint32_t piece) {
    return (piece / 8 * rows + row) * 128 + (piece % 8 ^ row % 8) * 16;
}

__device__ inline uint32_t skew_of(const std::byte* row) {
    return uint32_t(reinterpret_cast<uintptr_t>(row) % 16);
}

/// K or V: where its rows lie and how they travel.
struct Side {
    const std::byte* data;
    int64_t of_stream, of_head;  // strides
    uint32_t of_cell;
    DType type;
    uint32_t d, row_bytes;
    uint32_t slot;   // of a row in the stage; an odd number of 16-byte pieces, against conflicts
    bool aligned;    // rows are pieces of eight channels, on 16 bytes
    bool direct;     // ... of f16 or bf16: no stage
    bool is_ready;   // ... of f16
    Divisor units;   // of a row, which a thread expands: 32 channels, or 8 where rows lie anyhow
    uint32_t tiles;  // 2; or 1 with a stage, where memory is short

    Side(const TensorView& cache, uint32_t most_tiles)
        : data(cache.data),
          of_stream(cache.stride[0]),
          of_head(cache.stride[2]),
          of_cell(uint32_t(cache.stride[1])),
          type(cache.type),
          d(uint32_t(cache.n[3])),
          row_bytes(uint32_t(rotkv::row_bytes(cache.type, cache.n[3]))),
          slot((row_bytes + 15) / 16 * 16 + 16 | 16),
          aligned(d % 8 == 0 && rows_on_16_bytes(cache)),
          direct((cache.type == DType::f16 || cache.type == DType::bf16) && aligned),
          is_ready(cache.type == DType::f16 && direct),
          units(aligned || is_block_type(cache.type) ? (d + 31) / 32 : (d + 7) / 8),
          tiles(direct ? 2 : most_tiles) {}

    /// Shared memory of its tiles and stage.
    __host__ __device__ uint32_t bytes(uint32_t cells, uint32_t tile_bytes) const {
        return tiles * tile_bytes + (direct ? 0 : (cells * slot + 1023) / 1024 * 1024);
    }
    __device__ const std::byte* row(int64_t stream, int64_t kv, int64_t cell) const {
        return data + stream * of_stream + cell * of_cell + kv * of_head;
    }
    /// Where row `cell` of a tile begins in the stage; `rows` is the tile's first row in the cache.
    __device__ uint32_t in_stage(const std::byte* rows, uint32_t cell) const {
        return cell * slot + (skew_of(rows) + cell * of_cell) % 16;
    }
};

/// The positions of a stream's cells.
struct Strip {
    const int32_t* position;
    int64_t used;

    __device__ int32_t at(int64_t cell) const { return cell < used ? position[cell] : -1; }
};

/// One of the threads that make a tile ready together.
struct Member {
    uint32_t thread, threads;
};

/// Starts the copy of `cells` rows from `rows` on, to the tile or the stage at `to`; a row is
/// shared by threads / cells neighbours. Empty cells, which hold anything, arrive as zeros; a tile
/// that is `whole` has none. The last piece may end up to 14 bytes behind the row, but never behind
/// the 16 bytes that hold its end.
__device__ inline void fetch(const Side& side, uint32_t to, const std::byte* rows, uint32_t cells,
                             const Member& me, const Strip& strip, int64_t first, bool whole) {
    const uint32_t sharing = me.threads / cells, cell = me.thread / sharing;
    const bool there = whole || strip.at(first + cell) >= 0;
    const std::byte* const own = rows + uint64_t(cell) * side.of_cell;
    const std::byte* const row = there ? own : rows;  // of zeros, nothing is read
    if (side.direct) {
#pragma unroll 1
        for (uint32_t i = me.thread % sharing; i * 16 < side.row_bytes; i += sharing) {
            copy_16(to + place_of(cells, cell, i), row + i * 16, there);
        }
        return;
    }
    const uint32_t end = side.row_bytes + skew_of(own);
    const std::byte* const from = row - skew_of(row);
#pragma unroll 1
    for (uint32_t i = me.thread % sharing * 16; i < end; i += sharing * 16) {
        copy_16(to + cell * side.slot + i, from + i, there);
    }
}

// Codes u of a block, a byte each, element 4 i + j in byte j of u[i], that stand for
// d (u - zero) + m.
struct Codes {
    uint32_t u[8];
    __half2 d, m, zero;
};

// Four codes to four halves. 0x6400 is 1024 in f16 and its last bit counts 1: a byte u below 0x64
// is 1024 + u. The difference is exact, and the product with the sum rounds once.
__device__ inline uint2 expanded(const Codes& x, uint32_t u) {
    const uint32_t low = __byte_perm(u, 0x64646464u, 0x4140);
    const uint32_t high = __byte_perm(u, 0x64646464u, 0x4342);
    const __half2 a = __hfma2(__hsub2(reinterpret_cast<const __half2&>(low), x.zero), x.d, x.m);
    const __half2 b = __hfma2(__hsub2(reinterpret_cast<const __half2&>(high), x.zero), x.d, x.m);
    return {reinterpret_cast<const uint32_t&>(a), reinterpret_cast<const uint32_t&>(b)};
}

// N words from an even byte on, of shared memory or of a row in registers; the word behind them is
// read too: there is room for it.
template <int N>
__device__ void load_words(uint32_t (&w)[N], const uint32_t* stage, uint32_t byte) {
    const uint32_t first = byte / 4, shift = byte % 4 * 8;
    uint32_t low = stage[first];
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const uint32_t high = stage[first + i + 1];
        w[i] = __funnelshift_r(low, high, shift);
        low = high;
    }
}

__device__ inline __half2 load_scale(const uint32_t* stage, uint32_t byte) {
    const uint32_t twice = __byte_perm(stage[byte / 4], 0, byte % 4 == 0 ? 0x1010 : 0x3232);
    return reinterpret_cast<const __half2&>(twice);
}

__device__ inline __half2 both(float x) { return __float2half2_rn(x); }

// Sixteen bytes of nibbles: low ones are elements 0 .. 15, high ones 16 .. 31.
__device__ inline void load_nibbles(Codes& x, const uint32_t* stage, uint32_t byte) {
    uint32_t w[4];
    load_words(w, stage, byte);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        x.u[i] = w[i] & 0x0F0F0F0Fu;
        x.u[i + 4] = w[i] >> 4 & 0x0F0F0F0Fu;
    }
}

// Bit j of qh is the fifth bit of element j. The product puts bits 0 .. 3 at 0, 8, 16, 24.
__device__ inline void add_fifth_bits(Codes& x, const uint32_t* stage, uint32_t byte) {
    uint32_t qh[1];
    load_words(qh, stage, byte);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        x.u[i] |= ((qh[0] >> (4 * i) & 15u) * 0x00204081u & 0x01010101u) << 4;
    }
}

__device__ inline Codes codes_of(const BlockQ8_0*, const uint32_t* stage, uint32_t byte) {
    Codes x{{}, load_scale(stage, byte), both(-0.0f), both(1024 + 128)};
    load_words(x.u, stage, byte + offsetof(BlockQ8_0, qs));
#pragma unroll
    for (int i = 0; i < 8; ++i) x.u[i] ^= 0x80808080u;  // q + 128
    return x;
}
__device__ inline Codes codes_of(const BlockQ4_0*, const uint32_t* stage, uint32_t byte) {
    Codes x{{}, load_scale(stage, byte), both(-0.0f), both(1024 + 8)};
    load_nibbles(x, stage, byte + offsetof(BlockQ4_0, qs));
    return x;
}
__device__ inline Codes codes_of(const BlockQ4_1*, const uint32_t* stage, uint32_t byte) {
    Codes x{{}, load_scale(stage, byte), load_scale(stage, byte + 2), both(1024)};
    load_nibbles(x, stage, byte + offsetof(BlockQ4_1, qs));
    return x;
}
__device__ inline Codes codes_of(const BlockQ5_0*, const uint32_t* stage, uint32_t byte) {
    Codes x{{}, load_scale(stage, byte), both(-0.0f), both(1024 + 16)};
    load_nibbles(x, stage, byte + offsetof(BlockQ5_0, qs));
    add_fifth_bits(x, stage, byte + offsetof(BlockQ5_0, qh));
    return x;
}
__device__ inline Codes codes_of(const BlockQ5_1*, const uint32_t* stage, uint32_t byte) {
    Codes x{{}, load_scale(stage, byte), load_scale(stage, byte + 2), both(1024)};
    load_nibbles(x, stage, byte + offsetof(BlockQ5_1, qs));
    add_fifth_bits(x, stage, byte + offsetof(BlockQ5_1, qh));
    return x;
}

__device__ inline Codes codes_of(const BlockIq4Nl*, const uint32_t* stage, uint32_t byte) {
    Codes x{{}, load_scale(stage, byte), both(-0.0f), both(1024 + 128)};
    uint32_t w[4];
    load_words(w, stage, byte + offsetof(BlockIq4Nl, qs));
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // elements 4i, 4i + 16, 4i + 1, 4i + 17; then + 2, + 18, ...
        const uint32_t front = iq4_levels(w[i]), back = iq4_levels(w[i] >> 16);
        x.u[i] = __byte_perm(front, back, 0x6420);
        x.u[i + 4] = __byte_perm(front, back, 0x7531);
    }
    return x;
}

// What expand() goes through: number u is unit i of a cell. Eight neighbouring lanes take the same
// unit of eight cells.
struct Unit {
    uint32_t cell, i;
    __device__ Unit(const Side& side, uint32_t u) {
        const uint32_t eights = u / 8, of = side.units.of(eights);
        cell = of * 8 + u % 8;
        i = eights - of * side.units.d;
    }
};

/// `rows` is the first row in the cache: where rows begin in their slots follows from it.
template <class Block>
__device__ void expand_blocks(const Side& side, std::byte* tile, uint32_t tile_rows,
                              const uint32_t* stage, const std::byte* rows, uint32_t cells,
                              const Member& me) {
    const uint32_t units = cells * side.units.d;
#pragma unroll 1
    for (uint32_t u = me.thread; u < units; u += me.threads) {
        const Unit unit(side, u);
        const uint32_t byte = side.in_stage(rows, unit.cell) + unit.i * uint32_t(sizeof(Block));
        const Codes x = codes_of(static_cast<const Block*>(nullptr), stage, byte);
        const uint32_t at = place_of(tile_rows, unit.cell, unit.i * 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // piece i of a block: its number's low bits are 0
            const uint2 a = expanded(x, x.u[2 * i]), b = expanded(x, x.u[2 * i + 1]);
            *reinterpret_cast<uint4*>(tile + (at ^ i * 16)) = {a.x, a.y, b.x, b.y};
        }
    }
}

// f32 in rows that are `aligned`: pieces of eight channels. The last unit may have fewer than four.
__device__ inline void expand_floats(const Side& side, std::byte* tile, uint32_t tile_rows,
                                     const uint32_t* stage, uint32_t cells, const Member& me) {
    const uint32_t units = cells * side.units.d;
#pragma unroll 1
    for (uint32_t u = me.thread; u < units; u += me.threads) {
        const Unit unit(side, u);
        const uint32_t at = place_of(tile_rows, unit.cell, unit.i * 4);
        const float4* from =
            reinterpret_cast<const float4*>(stage + unit.cell * side.slot / 4) + unit.i * 8;
        const uint32_t pieces = side.d / 8 - unit.i * 4;
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            if (i >= pieces) break;
            const float4 x = from[2 * i], y = from[2 * i + 1];
            *reinterpret_cast<uint4*>(tile + (at ^ i * 16)) = {
                halves_of(x.x, x.y), halves_of(x.z, x.w), halves_of(y.x, y.y), halves_of(y.z, y.w)};
        }
    }
}

// bf16 that lies in the tile already. Channels behind d are zeros, which stay zeros.
__device__ inline void convert_tile(const Side& side, std::byte* tile, uint32_t tile_rows,
                                    uint32_t cells, const Member& me) {
    const uint32_t units = cells * side.units.d;
#pragma unroll 1
    for (uint32_t u = me.thread; u < units; u += me.threads) {
        const Unit unit(side, u);
        const uint32_t at = place_of(tile_rows, unit.cell, unit.i * 4);
        uint4 x[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) x[i] = *reinterpret_cast<uint4*>(tile + (at ^ i * 16));
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            *reinterpret_cast<uint4*>(tile + (at ^ i * 16)) = {
                halves_of_bf16(x[i].x), halves_of_bf16(x[i].y), halves_of_bf16(x[i].z),
                halves_of_bf16(x[i].w)};
        }
    }
}

// Eight channels of f32, bf16 or f16 as four pairs of halves.
__device__ inline void load_plain(uint32_t (&pairs)[4], DType type, const uint32_t* stage,
                                  uint32_t byte) {
    uint32_t w[8];
    if (type == DType::f32) {
        load_words(w, stage, byte);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            pairs[j] = halves_of(__uint_as_float(w[2 * j]), __uint_as_float(w[2 * j + 1]));
        }
        return;
    }
    load_words(pairs, stage, byte);
    if (type == DType::f16) return;
#pragma unroll
    for (uint32_t& pair : pairs) pair = halves_of_bf16(pair);
}

// The same of rows that lie anyhow, and of f16: eight channels at a time, zeros behind d.
__device__ inline void expand_plain(const Side& side, std::byte* tile, uint32_t tile_rows,
                                    const uint32_t* stage, const std::byte* rows, uint32_t cells,
                                    const Member& me) {
    const uint32_t size = side.type == DType::f32 ? 4 : 2, units = cells * side.units.d;
#pragma unroll 1
    for (uint32_t u = me.thread; u < units; u += me.threads) {
        const Unit unit(side, u);
        uint32_t pairs[4];
        load_plain(pairs, side.type, stage, side.in_stage(rows, unit.cell) + unit.i * 8 * size);
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            const uint32_t channel = unit.i * 8 + 2 * j;
            if (channel >= side.d) pairs[j] = 0;
            if (channel + 1 == side.d) pairs[j] &= 0xFFFFu;
        }
        *reinterpret_cast<uint4*>(tile + place_of(tile_rows, unit.cell, unit.i)) = {
            pairs[0], pairs[1], pairs[2], pairs[3]};
    }
}

/// The stage's rows, in f16, to the tile; a tile of more rows takes some of its cells at a time.
__device__ inline void expand(const Side& side, std::byte* tile, uint32_t tile_rows,
                              const std::byte* stage_bytes, const std::byte* rows, uint32_t cells,
                              const Member& me) {
    const uint32_t* stage = reinterpret_cast<const uint32_t*>(stage_bytes);
    // clang-format off
    switch (side.type) {
        case DType::q8_0: return expand_blocks<BlockQ8_0>(side, tile, tile_rows, stage, rows, cells, me);
        case DType::q5_1: return expand_blocks<BlockQ5_1>(side, tile, tile_rows, stage, rows, cells, me);
        case DType::q5_0: return expand_blocks<BlockQ5_0>(side, tile, tile_rows, stage, rows, cells, me);
        case DType::q4_1: return expand_blocks<BlockQ4_1>(side, tile, tile_rows, stage, rows, cells, me);
        case DType::q4_0: return expand_blocks<BlockQ4_0>(side, tile, tile_rows, stage, rows, cells, me);
        case DType::iq4_nl: return expand_blocks<BlockIq4Nl>(side, tile, tile_rows, stage, rows, cells, me);
        case DType::f32: case DType::f16: case DType::bf16: break;
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64:
            __builtin_unreachable();  // check() has refused these
    }
    // clang-format on
    if (side.direct) return convert_tile(side, tile, tile_rows, cells, me);
    if (!side.aligned) return expand_plain(side, tile, tile_rows, stage, rows, cells, me);
    expand_floats(side, tile, tile_rows, stage, cells, me);
}

}  // namespace rotkv::cuda::prefill
