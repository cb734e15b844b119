#pragma once
// Prefill on 9.0: what the warps that make tiles ready and those that multiply share in shared
// memory, and how they wait for each other.
//
//   q         [2][64 rows]    of each group of four warps that multiplies
//   K, V      2 tiles each, in turn
//   raw       where rows are expanded: rows as they are stored, as many slots as fit; a slot holds
//             a tile of K and one of V (blocks of codes), or so many cells of one side (all others)
//   the rest  RingState: barriers, and what is said of tiles
// Docs: docs/05-attention.md

#include "cuda/copy_box.cuh"
#include "cuda/prefill_rows.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_warpgroup = 128;  // threads
constexpr uint32_t k_tile_rows = 64;   // of queries, of a group of four warps
constexpr uint32_t k_stages = 2;       // tiles of K, and of V
constexpr uint32_t k_remembered = 4;   // tiles about which something is said
constexpr uint32_t k_most_slots = 16;  // raw ones; of K and of V half as many each

// Tokens of several streams, up to so many, are put in order, stream after stream: then the rows of
// a block see few streams, and each stream's cells are multiplied with the rows of few blocks.
constexpr uint32_t k_most_ordered = 512;
constexpr int64_t k_most_ordered_streams = 1 << 22;

/// What lies in the cache, and with it how tiles become ready: rows of f16, which are copied;
/// blocks of codes, of which a thread expands a row; all others, which threads expand piece by
/// piece.
enum class Source { halves, blocks, others };

// Barriers of hardware, beside __syncthreads(): of those who make tiles ready; of each group that
// multiplies, alone and when it is its turn.
constexpr uint32_t k_alone = 1, k_turn = 3, k_producers = 5;  // two each

/// Sizes for heads of exactly D_k and D_v channels.
template <int D_k, int D_v>
struct RingShape {
    static constexpr int d_k = D_k;
    static constexpr uint32_t cells = D_k <= 128 ? 128 : 64;  // of a tile
    static constexpr uint32_t k_panels = (D_k + 63) / 64, v_panels = (D_v + 63) / 64;
    static constexpr uint32_t q_bytes = k_tile_rows * 128 * k_panels;
    static constexpr uint32_t k_bytes = cells * 128 * k_panels, v_bytes = cells * 128 * v_panels;
    static constexpr uint32_t fixed_bytes = 2 * q_bytes + k_stages * (k_bytes + v_bytes);
};

/// What is said of a tile, or of a raw slot of it: the first cell, in which stream (-1: no more
/// follow), whether each row of that stream sees all cells, and whether none of them is empty.
struct alignas(16) TileMark {
    int32_t first, stream;
    uint32_t whole, filled;
    __device__ bool is_end() const { return stream < 0; }
};

struct RingState {
    uint64_t full[2][k_stages], empty[2][k_stages];  // of K, of V
    uint64_t raw_full[k_most_slots], raw_empty[k_most_slots];
    TileMark raw_marks[k_most_slots], marks[k_remembered];
    // By each warp: seen, whole, filled; of those who make K ready, and of V's where they are
    // others.
    uint32_t found[2][2][8][3];
    alignas(16) int32_t positions[k_remembered][128];  // of tiles that are not whole
    uint16_t order[k_most_ordered];                    // of tokens, where it is asked for
};

/// The job, maps of K and V if there are such, and the raw ring that fits beside the tiles: cells
/// of one side that a slot holds, if not a tile of each.
struct RingJob : Job {
    RowMap map[2];
    bool has_maps, is_ordered;
    uint32_t block_rows;
    uint32_t raw_cells, raw_bytes, slots;
};

/// All threads of the block: the tokens by their streams, those of a stream in the order in which
/// they come. A token's place is how many come before it.
__device__ inline void order_tokens(const Job& job, uint32_t tokens, RingState& state) {
    static_assert(sizeof(state.positions) == k_most_ordered * sizeof(int32_t));
    int32_t* const keys = state.positions[0];  // all different
    for (uint32_t t = threadIdx.x; t < (tokens + 3) / 4 * 4; t += blockDim.x) {
        keys[t] = t < tokens ? job.q_stream(t) * int32_t(k_most_ordered) + int32_t(t) : INT32_MAX;
    }
    __syncthreads();
    for (uint32_t t = threadIdx.x; t < tokens; t += blockDim.x) {
        const int32_t own = keys[t];
        uint32_t before = 0;
#pragma unroll 4
        for (uint32_t i = 0; i < (tokens + 3) / 4; ++i) {
            const int4 four = reinterpret_cast<const int4*>(keys)[i];
            before += (four.x < own) + (four.y < own) + (four.z < own) + (four.w < own);
        }
        state.order[before] = uint16_t(t);
    }
}

/// Shared memory of a block.
template <class Shape>
struct Ring {
    using S = Shape;
    std::byte* base;
    RingState& state;

    __device__ Ring(std::byte* memory, const RingJob& job)
        : base(memory),
          state(
              *reinterpret_cast<RingState*>(memory + S::fixed_bytes + job.slots * job.raw_bytes)) {}
    static uint32_t bytes(const RingJob& job) {
        return S::fixed_bytes + job.slots * job.raw_bytes + uint32_t(sizeof(RingState));
    }
    __device__ std::byte* q(uint32_t group) const { return base + group * S::q_bytes; }
    __device__ std::byte* tile(uint32_t side, uint32_t stage) const {
        return base + 2 * S::q_bytes + side * k_stages * S::k_bytes +
               stage * (side == 0 ? S::k_bytes : S::v_bytes);
    }
    __device__ std::byte* raw(const RingJob& job, uint32_t slot) const {
        return base + S::fixed_bytes + slot * job.raw_bytes;
    }
    __device__ PhaseBarrier full(uint32_t side, uint32_t stage) const {
        return PhaseBarrier(state.full[side][stage]);
    }
    __device__ PhaseBarrier empty(uint32_t side, uint32_t stage) const {
        return PhaseBarrier(state.empty[side][stage]);
    }
    __device__ PhaseBarrier raw_full(uint32_t slot) const {
        return PhaseBarrier(state.raw_full[slot]);
    }
    __device__ PhaseBarrier raw_empty(uint32_t slot) const {
        return PhaseBarrier(state.raw_empty[slot]);
    }

    /// By one thread, before anybody waits: for so many arrivals of those who make a side ready and
    /// so many warps that multiply.
    __device__ void create(Source source, uint32_t slots, uint32_t arrivals, uint32_t warps) const {
        const bool copies = source == Source::halves;  // which arrive too, when they are there
        for (uint32_t stage = 0; stage < k_stages; ++stage) {
            full(0, stage).create(copies ? 2 * arrivals : arrivals);
            full(1, stage).create(copies ? 2 * arrivals : arrivals);
            empty(0, stage).create(warps);
            empty(1, stage).create(warps);
        }
        const bool by_engine = source == Source::blocks;
        for (uint32_t slot = 0; slot < (by_engine ? k_most_slots : slots); ++slot) {
            raw_full(slot).create(by_engine ? 1 : arrivals + 1);
            raw_empty(slot).create(arrivals);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
};

template <int D_k, int D_v>
using RingMemory = Ring<RingShape<D_k, D_v>>;

}  // namespace rotkv::cuda::prefill
