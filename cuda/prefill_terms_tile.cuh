#pragma once
// Tiles of cells for prefill in f32 precision on tensor cores, as f16 holds them exactly: halves of
// K as they are, blocks as codes that are counted from a center (fragments.cuh), beside scales in
// f32. Halves of V are 1024 times themselves, which leaves none subnormal (decode_terms.cuh) and is
// exact of all below 64; a tile with a larger one keeps its halves as they are.
// Docs: docs/05-attention.md

#include "cuda/decode_terms.cuh"
#include "cuda/prefill_softmax.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_term_rows = 64;   // of a block of threads, 16 to a warp
constexpr uint32_t k_term_cells = 64;  // of a tile
constexpr uint32_t k_term_threads = k_term_rows / 16 * k_warp;
constexpr float k_v_times = 1024;  // halves of V in a tile

// Of a tile's blocks, [block][cell]: d, and beside a minimum what all channels have in common.
struct Scales {
    float *d, *offset;

    __device__ float2 two(const float* of, uint32_t block, uint32_t cell) const {
        return *reinterpret_cast<const float2*>(of + block * k_term_cells + cell);
    }
};

// A of a product, twice: p of 16 rows and 16 cells.
struct TermFragment {
    Fragment high, low;
};

// ---- Blocks in the stage become codes in the tile ----

template <class Block>
__device__ void expand_codes(const Side& side, std::byte* tile, const Scales& scales,
                             const std::byte* stage, const std::byte* rows, const Member& me) {
    const uint32_t units = k_term_cells * side.units.d;
#pragma unroll 1
    for (uint32_t u = me.thread; u < units; u += me.threads) {
        const Unit unit(side, u);
        const uint32_t byte = side.in_stage(rows, unit.cell) + unit.i * uint32_t(sizeof(Block));
        const Block& block = *reinterpret_cast<const Block*>(stage + byte);
        Codes x = codes_of(static_cast<const Block*>(nullptr),
                           reinterpret_cast<const uint32_t*>(stage), byte);
        const uint32_t center = decode::center_of(block);
        x.d = both(1.0f);
        x.m = both(-0.0f);
        x.zero = both(1024.0f + float(center));
        const uint32_t at = place_of(k_term_cells, unit.cell, unit.i * 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // piece i of a block: its number's low bits are 0
            const uint2 a = expanded(x, x.u[2 * i]), b = expanded(x, x.u[2 * i + 1]);
            *reinterpret_cast<uint4*>(tile + (at ^ i * 16)) = {a.x, a.y, b.x, b.y};
        }
        const float d = f16_to_f32(block.d);
        const uint32_t scale = unit.i * k_term_cells + unit.cell;
        scales.d[scale] = d;
        if constexpr (decode::k_has_minimum<Block>) {
            scales.offset[scale] = fmaf(float(center), d, f16_to_f32(block.m));
        }
    }
}

__device__ inline void expand_exactly(const Side& side, std::byte* tile, const Scales& scales,
                                      const std::byte* stage, const std::byte* rows,
                                      const Member& me) {
    // clang-format off
    switch (side.type) {
        case DType::q8_0: return expand_codes<BlockQ8_0>(side, tile, scales, stage, rows, me);
        case DType::q5_1: return expand_codes<BlockQ5_1>(side, tile, scales, stage, rows, me);
        case DType::q5_0: return expand_codes<BlockQ5_0>(side, tile, scales, stage, rows, me);
        case DType::q4_1: return expand_codes<BlockQ4_1>(side, tile, scales, stage, rows, me);
        case DType::q4_0: return expand_codes<BlockQ4_0>(side, tile, scales, stage, rows, me);
        case DType::iq4_nl: return expand_codes<BlockIq4Nl>(side, tile, scales, stage, rows, me);
        case DType::f16: break;
        case DType::f32: case DType::bf16:
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64:
            __builtin_unreachable();  // takes_terms() has refused these
    }
    // clang-format on
    expand_plain(side, tile, k_term_cells, reinterpret_cast<const uint32_t*>(stage), rows,
                 k_term_cells, me);  // f16 that the copy engine does not align
}

struct TermsJob : Job {
    bool k_blocks, v_blocks, k_offsets, v_offsets;

    explicit TermsJob(const AttentionArgs& a)
        : Job(job_of(a, 1, 1)),
          k_blocks(is_block_type(k.type)),
          v_blocks(is_block_type(v.type)),
          k_offsets(k_blocks && type_info(k.type).codes.minimum),
          v_offsets(v_blocks && type_info(v.type).codes.minimum) {
        q_scale = a.softcap > 0 ? a.scale / a.softcap : a.scale * k_log2_e;
        cap = a.softcap > 0 ? a.softcap * k_log2_e : 0;
    }
};

// ---- Shared memory ----

// What Memory has before q; of each row what its scores are to be multiplied by; q, high terms and
// then low ones; K: tiles and stage, scales; V the same; sums of q over blocks.
template <int D>
struct TermsMemory {
    static constexpr uint32_t k_tile = k_term_cells * D * 2, k_query = k_term_rows * D * 2;
    static constexpr uint32_t k_units = k_section * 2 + 16 + Shape<D>::rows * 8;
    static constexpr uint32_t k_scales = D / 32 * k_term_cells * 4;  // bytes of d
    static constexpr uint32_t k_head = Memory<D>::k_head;
    static_assert(k_units + k_term_rows * 4 <= k_head);
    static_assert(k_term_cells == Shape<D>::cells);

    Memory<D> rows;
    float* units;
    std::byte *q, *k, *v;
    Scales k_scale, v_scale;
    float* sums_of_q;

    static __host__ __device__ uint32_t side_bytes(const Side& side, bool blocks) {
        return side.bytes(k_term_cells, k_tile) + (blocks ? 2 * k_scales : 0);
    }
    static uint32_t bytes(const TermsJob& job) {
        const uint32_t walk = k_head + 2 * k_query + side_bytes(job.k, job.k_blocks) +
                              side_bytes(job.v, job.v_blocks) +
                              (job.k_offsets ? k_term_rows * D / 8 : 0);
        const uint32_t in_the_end = Shape<D>::rows * Shape<D>::out_pitch +  // as repair_rows() has
                                    k_term_threads / k_warp * plain_floats(D);
        return std::max(walk, k_head + 4 * in_the_end);
    }
    __device__ TermsMemory(const TermsJob& job, std::byte* memory)
        : rows(memory),
          units(reinterpret_cast<float*>(memory + k_units)),
          q(memory + k_head),
          k(q + 2 * k_query),
          v(k + side_bytes(job.k, job.k_blocks)),
          k_scale(scales_in(k + job.k.bytes(k_term_cells, k_tile))),
          v_scale(scales_in(v + job.v.bytes(k_term_cells, k_tile))),
          sums_of_q(reinterpret_cast<float*>(v + side_bytes(job.v, job.v_blocks))) {}
    static __device__ Scales scales_in(std::byte* memory) {
        return {reinterpret_cast<float*>(memory), reinterpret_cast<float*>(memory + k_scales)};
    }
    static __device__ std::byte* stage(const Side& side, std::byte* tiles) {
        return tiles + side.tiles * k_tile;
    }
    static __device__ std::byte* tile(const Side& side, std::byte* tiles, uint32_t turn) {
        return tiles + turn % side.tiles * k_tile;
    }
};

// ---- Tiles on their way ----

template <int D>
struct Walk {
    const TermsJob& job;
    const TermsMemory<D>& memory;
    const Strip& strip;
    const std::byte *k, *v;  // rows of the stream's first cell
    Member me;

    __device__ void start(const Side& side, std::byte* tiles, const std::byte* rows, uint32_t turn,
                          int64_t first, bool whole) const {
        using M = TermsMemory<D>;
        std::byte* const to = side.direct ? M::tile(side, tiles, turn) : M::stage(side, tiles);
        fetch(side, shared_address(to), rows + first * side.of_cell, k_term_cells, me, strip, first,
              whole);
    }
    __device__ void start(uint32_t turn, int64_t first, bool whole) const {
        start(job.k, memory.k, k, turn, first, whole);
        start(job.v, memory.v, v, turn, first, whole);
    }

    // The halves of V that this thread looks after, those that it copies: a row, or every so many
    // of its pieces.
    static constexpr uint32_t k_own = D / 8 * k_term_cells / k_term_threads;
    __device__ uint4* own(uint32_t turn, uint32_t n) const {
        constexpr uint32_t sharing = k_term_threads / k_term_cells;
        const uint32_t cell = me.thread / sharing, piece = me.thread % sharing + sharing * n;
        std::byte* const tile = TermsMemory<D>::tile(job.v, memory.v, turn);
        return reinterpret_cast<uint4*>(tile + place_of(k_term_cells, cell, piece));
    }
    // Bits 15 and 31 where |half| is 64 or more, 0x5400.
    static __device__ uint32_t above(uint32_t two) { return (two & 0x7FFF7FFFu) + 0x2C002C00u; }
    // Is one of them so large?
    __device__ bool is_large(uint32_t turn) const {
        uint32_t found = 0;
#pragma unroll
        for (uint32_t n = 0; n < k_own; ++n) {
            const uint4 x = *own(turn, n);
            found |= above(x.x) | above(x.y) | above(x.z) | above(x.w);
        }
        return (found & 0x80008000u) != 0;
    }
    // All of them times a power of two, in both halves.
    __device__ void multiply(uint32_t turn, uint32_t by) const {
#pragma unroll
        for (uint32_t n = 0; n < k_own; ++n) {
            const uint4 x = *own(turn, n);
            *own(turn, n) = {decode::product(x.x, by), decode::product(x.y, by),
                             decode::product(x.z, by), decode::product(x.w, by)};
        }
    }

    // The copies are there, and tiles are what products read. Does V, of halves, have to stay as it
    // is?
    __device__ bool finish(uint32_t turn, int64_t first) const {
        using M = TermsMemory<D>;
        wait_for_copies();
        if (!job.k.direct || !job.v.direct) {
            __syncthreads();  // the copies of all; the last tile has been read
            if (!job.k.direct) {
                expand_exactly(job.k, M::tile(job.k, memory.k, turn), memory.k_scale,
                               M::stage(job.k, memory.k), k + first * job.k.of_cell, me);
            }
            if (!job.v.direct) {
                expand_exactly(job.v, M::tile(job.v, memory.v, turn), memory.v_scale,
                               M::stage(job.v, memory.v), v + first * job.v.of_cell, me);
                if (!job.v_blocks) __syncthreads();  // others have expanded what is own
            }
        }
        const bool large = !job.v_blocks && is_large(turn);
        if (!job.v_blocks && !large) multiply(turn, 0x64006400);  // 1024
        publish_stores();
        if (!__syncthreads_or(large)) return false;
        if (!large) multiply(turn, 0x14001400);  // 1 / 1024
        publish_stores();
        __syncthreads();
        return true;
    }
};

}  // namespace rotkv::cuda::prefill
