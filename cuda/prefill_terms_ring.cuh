#pragma once
// Prefill in f32 precision on 9.0: shared memory of a block, and the warps that make tiles ready.
// Two warps have K and two have V, by what lies in the cache (prefill_producer.cuh,
// prefill_blocks.cuh):
//
//   blocks of codes   codes as f16, beside their scales
//   halves of K       copied as they are
//   halves of V       copied, and brought to 1024 times themselves in their place
//
// Docs: docs/05-attention.md

#include "cuda/prefill_blocks.cuh"
#include "cuda/prefill_terms_tile.cuh"

namespace rotkv::cuda::prefill {

template <int D>
struct TermsShape {
    static constexpr int d_k = D;
    static constexpr uint32_t cells = k_term_cells;
    static constexpr uint32_t q_low = k_tile_rows * D * 2;  // bytes from high terms to low ones
    static constexpr uint32_t q_bytes = 2 * q_low;
    static constexpr uint32_t k_bytes = cells * D * 2, v_bytes = k_bytes;
    static constexpr uint32_t tiles_end = 2 * q_bytes + k_stages * (k_bytes + v_bytes);
    static constexpr uint32_t scales = D / 32 * cells;  // of a tile
    static constexpr uint32_t rows_end = tiles_end + 2 * k_stages * 2 * 4 * scales;
    static constexpr uint32_t row_floats = 2 * k_tile_rows * (1 + D / 32);  // units, sums of q~
    static constexpr uint32_t fixed_bytes = rows_end + 4 * row_floats + 128;
};

/// What lies behind the tiles: d and offsets of each tile's blocks; of each row what its scores are
/// to be multiplied by, and sums of q~ over blocks; of each tile of V of halves, the largest.
template <int D>
struct TermsRing : Ring<TermsShape<D>> {
    using S = TermsShape<D>;
    using Ring<S>::Ring;

    __device__ Scales scales(uint32_t side, uint32_t stage) const {
        float* const d = floats(S::tiles_end) + (side * k_stages + stage) * 2 * S::scales;
        return {d, d + S::scales};
    }
    __device__ float* units() const { return floats(S::rows_end); }
    __device__ float* sums_of_q() const { return units() + 2 * k_tile_rows; }
    __device__ float& largest(uint32_t stage) const { return (units() + S::row_floats)[stage]; }
    /// Copies of V in this stage, of which nobody has made a tile yet.
    __device__ PhaseBarrier copied(uint32_t stage) const {
        return this->raw_full(k_most_slots / 2 + stage);
    }

  private:
    __device__ float* floats(uint32_t byte) const {
        return reinterpret_cast<float*>(this->base + byte);
    }
};

struct TermsRingJob : RingJob {
    bool k_blocks, v_blocks, k_offsets, v_offsets;
    float most_code;  // of V, from a center: |code| is at most that
};

/// By one thread, before anybody waits.
template <int D>
__device__ void create_ring(const TermsRingJob& job, const TermsRing<D>& memory, uint32_t warps) {
    constexpr uint32_t k_expanding = k_term_cells / k_warp;  // warps of a side
    for (uint32_t stage = 0; stage < k_stages; ++stage) {
        memory.full(0, stage).create(job.k_blocks ? k_expanding : 2 * k_copiers);
        memory.full(1, stage).create(k_expanding);
        memory.empty(0, stage).create(warps);
        memory.empty(1, stage).create(warps);
    }
    for (uint32_t slot = 0; slot < k_most_slots; ++slot) {
        const bool copies = slot >= k_most_slots / 2 && !job.v_blocks;
        memory.raw_full(slot).create(copies ? 2 * k_copiers : 1);
        memory.raw_empty(slot).create(k_expanding);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// ---- Blocks ----

/// A row of a tile of codes, and where its first block's scales lie.
struct CodesRow : TileRow<k_term_cells> {
    Scales scales;
    __device__ CodesRow(const TileRow& row, const Scales& of_row) : TileRow(row), scales(of_row) {}
    __device__ CodesRow next_panel() const {
        constexpr uint32_t k_panel = 2 * k_term_cells;
        return {TileRow::next_panel(), {scales.d + k_panel, scales.offset + k_panel}};
    }
};

template <int D>
__device__ CodesRow row_to_fill(const TermsRing<D>& memory, uint32_t side, uint32_t stage,
                                uint32_t row) {
    const Scales of = memory.scales(side, stage);
    return {TileRow<k_term_cells>(memory.tile(side, stage), row), {of.d + row, of.offset + row}};
}

/// Block b of a panel: codes counted from a center. An empty cell's scales are 0.
template <class Block>
__device__ void store_block(const CodesRow& to, uint32_t b, Codes x, bool is_there) {
    Block head;
    head.d = is_there ? __half_as_ushort(__low2half(x.d)) : uint16_t(0);
    if constexpr (decode::k_has_minimum<Block>) {
        head.m = is_there ? __half_as_ushort(__low2half(x.m)) : uint16_t(0);
    }
    const uint32_t center = decode::center_of(head);
    x.d = both(1.0f);
    x.m = both(-0.0f);
    x.zero = both(1024.0f + float(center));
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        store_16(to.piece(4 * b + i), expanded(x, x.u[2 * i]), expanded(x, x.u[2 * i + 1]));
    }
    const float d = f16_to_f32(head.d);
    to.scales.d[b * k_term_cells] = d;
    if constexpr (decode::k_has_minimum<Block>) {
        to.scales.offset[b * k_term_cells] = fmaf(float(center), d, f16_to_f32(head.m));
    }
}

// ---- Halves of V ----

/// The largest halves of two pairs, without signs.
__device__ inline uint32_t larger_of(uint32_t x, uint32_t y) {
    return decode::bits(__hmax2_nan(decode::halves(x), __habs2(decode::halves(y))));
}

/// The pieces of a tile of halves that one thread looks after.
template <int D>
struct OwnPieces {
    static constexpr uint32_t k_own = D / 8 * k_term_cells / k_copiers, k_at_once = 4;
    uint4* first;  // others k_copiers apart: the order in a tile does not matter

    __device__ OwnPieces(std::byte* tile)
        : first(reinterpret_cast<uint4*>(tile) + threadIdx.x % k_copiers) {}

    // The bits of the warp's largest |half|: they count as it does, a NaN most of all.
    __device__ uint32_t largest() const {
        uint32_t most = 0;
#pragma unroll k_at_once
        for (uint32_t n = 0; n < k_own; ++n) {
            const uint4 x = first[n * k_copiers];
            most = larger_of(larger_of(larger_of(larger_of(most, x.x), x.y), x.z), x.w);
        }
        return __reduce_max_sync(k_all_lanes, max(most & 0xFFFFu, most >> 16));
    }
    __device__ void multiply(uint32_t by) const {
#pragma unroll k_at_once
        for (uint32_t n = 0; n < k_own; ++n) {
            const uint4 x = first[n * k_copiers];
            first[n * k_copiers] = {decode::product(x.x, by), decode::product(x.y, by),
                                    decode::product(x.z, by), decode::product(x.w, by)};
        }
    }
};

constexpr float k_large = 64;  // 1024 times less f16 holds

/// Tiles of V of halves: 1024 times themselves, unless one is 64 or more.
template <int D>
__device__ void produce_values(const TermsRingJob& job, const Place& at,
                               const TermsRing<D>& memory) {
    Cursor<k_term_cells, k_copiers> cursor(job, at, memory.state, 1);
    RingPlace stage;
    bool is_there = cursor.next();
    wait_for_earlier();  // integers come before
    const auto ask = [&](const RingPlace& place) {
        const TileMark mark = cursor.mark();
        memory.empty(1, place.place).wait(place.parity ^ 1);
        const uint32_t tile = shared_address(memory.tile(1, place.place));
        const PhaseBarrier copied = memory.copied(place.place);
        if (mark.filled != 0) {
            if (threadIdx.x % k_copiers == 0) {
                copy_filled_tile<D, k_term_cells>(job.map[1], copied, tile, at.kv, mark);
            }
        } else {
            copy_tile<D, k_term_cells>(job.v, tile, job.v.row(mark.stream, at.kv, mark.first),
                                       cursor.strip, mark);
        }
        copied.arrive_when_copied();
        copied.arrive();
    };
    while (is_there) {
        ask(stage);
        is_there = cursor.next();
        memory.copied(stage.place).wait(stage.parity);
        const OwnPieces<D> own(memory.tile(1, stage.place));
        // Two warps: the one says what it has found, the other one the larger.
        uint32_t* const found = memory.state.found[1][0][6 + stage.place];  // of no warp
        const uint32_t mine = own.largest(), warp = threadIdx.x / k_warp % 2;
        if (lane_of_warp() == 0) found[warp] = mine;
        wait_for_group(k_producers + 1, k_copiers);
        const float largest = f16_to_f32(uint16_t(max(found[0], found[1])));
        if (largest < k_large) own.multiply(0x64006400);  // 1024
        if (threadIdx.x % k_copiers == 0) memory.largest(stage.place) = largest;
        publish_stores();
        __syncwarp();
        if (lane_of_warp() == 0) memory.full(1, stage.place).arrive();
        stage.advance(k_stages);
    }
    wait_for_copies();
}

template <int D>
__device__ void produce_terms(const TermsRingJob& job, const Place& at,
                              const TermsRing<D>& memory) {
    const uint32_t side = uniform(threadIdx.x / k_copiers);
    if (side == 0 ? job.k_blocks : job.v_blocks) return produce_rows<D>(job, at, memory, side);
    if (side == 0) return produce_copies<D, 0>(job, at, memory);
    produce_values<D>(job, at, memory);
}

}  // namespace rotkv::cuda::prefill
