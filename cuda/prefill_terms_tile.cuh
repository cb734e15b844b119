#pragma once
// Tiles of cells for prefill in f32 precision on tensor cores, as f16 holds them exactly: halves as
// they are, blocks as codes that are counted from a center (fragments.cuh), beside scales in f32.
// Docs: docs/05-attention.md

#include "cuda/decode_terms.cuh"
#include "cuda/prefill_softmax.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_term_rows = 64;   // of a block of threads, 16 to a warp
constexpr uint32_t k_term_cells = 64;  // of a tile
constexpr uint32_t k_term_threads = k_term_rows / 16 * k_warp;

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

// Subnormal halves of a tile of V, which products must not see (decode_terms.cuh). Few tiles have
// more than a few; there are lists for the tile that is multiplied, and one before and behind it.
struct Apart {
    static constexpr uint32_t k_most = 19;
    uint32_t count, of[k_most];  // cell, 256 times the channel, and the half above

    // Those of eight channels, as far as there is room. True: more are left.
    __device__ bool take(uint16_t* halves, uint32_t cell, uint32_t channel) {
        bool is_full = false;
#pragma unroll 1
        for (uint32_t j = 0; j < 8; ++j) {
            const uint32_t half = halves[j];
            if ((half & 0x7C00u) != 0 || (half & 0x3FFu) == 0) continue;
            const uint32_t n = atomicAdd(&count, 1u);
            is_full = is_full || n >= k_most;
            if (n >= k_most) continue;
            of[n] = half << 16 | (channel + j) << 8 | cell;
            halves[j] = 0;
        }
        return is_full;
    }
};
constexpr uint32_t k_lists = 3;

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

// What Memory has before q; of each row what its scores are to be multiplied by; q,
// high terms and then low ones; K: tiles and stage, scales, sums of q over blocks; V the same.
template <int D>
struct TermsMemory {
    static constexpr uint32_t k_tile = k_term_cells * D * 2, k_query = k_term_rows * D * 2;
    static constexpr uint32_t k_units = k_section * 2 + 16 + Shape<D>::rows * 8;
    static constexpr uint32_t k_scales = D / 32 * k_term_cells * 4;  // bytes of d
    static constexpr uint32_t k_head = Memory<D>::k_head;
    static constexpr uint32_t k_apart = k_units + k_term_rows * 4;
    static_assert(k_apart + k_lists * sizeof(Apart) <= k_head);
    static_assert(k_term_cells == Shape<D>::cells);

    Memory<D> rows;
    float* units;
    Apart* apart;  // [k_lists]
    std::byte *q, *k, *v;
    Scales k_scale, v_scale;
    float* sums_of_q;

    static __host__ __device__ uint32_t side_bytes(const Side& side, bool blocks) {
        return side.bytes(k_term_cells, k_tile) + (blocks ? 2 * k_scales : 0);
    }
    static __host__ __device__ uint32_t bytes(const TermsJob& job) {
        return k_head + 2 * k_query + side_bytes(job.k, job.k_blocks) +
               side_bytes(job.v, job.v_blocks) + (job.k_offsets ? k_term_rows * D / 8 : 0);
    }
    __device__ TermsMemory(const TermsJob& job, std::byte* memory)
        : rows(memory),
          units(reinterpret_cast<float*>(memory + k_units)),
          apart(reinterpret_cast<Apart*>(memory + k_apart)),
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

    // Subnormal halves that this thread's copies have brought to the tile of V go to the list, and
    // zeros take their places. Has it no room?
    __device__ bool set_apart(uint32_t i) const {
        if (job.v_blocks) return false;
        if (!job.v.direct) return true;  // nobody looks
        const uint32_t sharing = me.threads / k_term_cells, cell = me.thread / sharing;
        std::byte* const tile = TermsMemory<D>::tile(job.v, memory.v, i);
        uint4* const row = reinterpret_cast<uint4*>(tile);
        const auto place = [&](uint32_t n) {
            return row + place_of(k_term_cells, cell, me.thread % sharing + 2 * n) / 16;
        };
        const auto differs = [](uint32_t x) { return decode::normal_of(x) ^ x; };
        uint32_t found = 0;
#pragma unroll
        for (uint32_t n = 0; n < D / 8 / 2; ++n) {
            const uint4 x = *place(n);
            const uint32_t all = differs(x.x) | differs(x.y) | differs(x.z) | differs(x.w);
            found |= uint32_t(all != 0) << n;
        }
        bool is_full = false;
#pragma unroll 1
        for (; found != 0; found &= found - 1) {
            const uint32_t n = uint32_t(__ffs(int(found))) - 1;
            is_full |= memory.apart[i % k_lists].take(reinterpret_cast<uint16_t*>(place(n)), cell,
                                                      (me.thread % sharing + 2 * n) * 8);
        }
        return is_full;
    }

    // The copies are there, and tiles are what products read. Is V to be multiplied with care?
    __device__ bool finish(uint32_t turn, int64_t first) const {
        using M = TermsMemory<D>;
        wait_for_copies();
        const bool careful = set_apart(turn);
        if (threadIdx.x == 0) memory.apart[(turn + 1) % k_lists].count = 0;
        if (!job.k.direct || !job.v.direct) {
            __syncthreads();  // the copies of all; the last tile has been read
            if (!job.k.direct) {
                expand_exactly(job.k, M::tile(job.k, memory.k, turn), memory.k_scale,
                               M::stage(job.k, memory.k), k + first * job.k.of_cell, me);
            }
            if (!job.v.direct) {
                expand_exactly(job.v, M::tile(job.v, memory.v, turn), memory.v_scale,
                               M::stage(job.v, memory.v), v + first * job.v.of_cell, me);
            }
        }
        publish_stores();
        return __syncthreads_or(careful);
    }
};

}  // namespace rotkv::cuda::prefill
