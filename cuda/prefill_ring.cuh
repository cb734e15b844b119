#pragma once
// Prefill on 9.0: what the warps that make tiles ready and those that multiply share in shared
// memory, and how they wait for each other.
//
//   q         [2][64 rows]    of each group of four warps that multiplies
//   K, V      2 tiles each, in turn
//   raw       where rows are expanded: rows as they are stored, so many cells of one side a slot,
//             as many slots as fit: their copies are what is under way from memory
//   the rest  RingState: barriers, and what is said of tiles
// Docs: docs/05-attention.md

#include "cuda/prefill_rows.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_warpgroup = 128;  // threads
constexpr uint32_t k_tile_rows = 64;   // of queries, of a group of four warps
constexpr uint32_t k_stages = 2;       // tiles of K, and of V
constexpr uint32_t k_remembered = 4;   // tiles about which something is said
constexpr uint32_t k_most_slots = 16;  // raw ones

// Barriers of hardware, beside __syncthreads(): of those who make tiles ready; of each group that
// multiplies, alone and when it is its turn.
constexpr uint32_t k_alone = 1, k_turn = 3, k_producers = 5;  // two each

/// Sizes for heads of exactly D_k and D_v channels.
template <int D_k, int D_v>
struct RingShape {
    static constexpr uint32_t cells = D_k <= 128 ? 128 : 64;  // of a tile
    static constexpr uint32_t k_panels = (D_k + 63) / 64, v_panels = (D_v + 63) / 64;
    static constexpr uint32_t q_bytes = k_tile_rows * 128 * k_panels;
    static constexpr uint32_t k_bytes = cells * 128 * k_panels, v_bytes = cells * 128 * v_panels;
    static constexpr uint32_t fixed_bytes = 2 * q_bytes + k_stages * (k_bytes + v_bytes);
};

/// What is said of a tile, or of a raw slot of it: the first cell, in which stream (-1: no more
/// follow), and whether each row sees all cells.
struct alignas(16) TileMark {
    int32_t first, stream;
    uint32_t whole;
    __device__ bool is_end() const { return stream < 0; }
};

struct RingState {
    uint64_t full[2][k_stages], empty[2][k_stages];  // of K, of V
    uint64_t raw_full[k_most_slots], raw_empty[k_most_slots];
    TileMark raw_marks[k_most_slots], marks[k_remembered];
    uint32_t found[2][2]
                  [8];  // by each warp; of those who make K ready, and of V's where they are others
    int32_t positions[k_remembered][128];  // of tiles that are not whole
};

/// The job and the raw ring that fits beside the tiles; slots = 0: rows are copied as they are.
struct RingJob : Job {
    uint32_t raw_cells = 0, raw_bytes = 0, slots = 0;
};

constexpr uint32_t k_most_wait = 1000000;  // ns that a warp sleeps, unless it is woken

/// A barrier in shared memory whose phases end when so many have arrived.
class PhaseBarrier {
  public:
    explicit __device__ PhaseBarrier(const uint64_t& memory) : address_(shared_address(&memory)) {}

    __device__ void create(uint32_t arrivals) const {
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" : : "r"(address_), "r"(arrivals));
    }
    __device__ void arrive() const {
        asm volatile("mbarrier.arrive.shared.b64 _, [%0];" : : "r"(address_) : "memory");
    }
    /// When this thread's copies so far are there; counts as one more arrival of those expected.
    __device__ void arrive_when_copied() const {
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];"
                     :
                     : "r"(address_)
                     : "memory");
    }
    /// Has it? As wait(), without waiting.
    __device__ bool has_ended(uint32_t parity) const {
        uint32_t ended;
        asm volatile(
            "{\n"
            ".reg .pred there;\n"
            "mbarrier.test_wait.parity.shared.b64 there, [%1], %2;\n"
            "selp.u32 %0, 1, 0, there;\n"
            "}"
            : "=r"(ended)
            : "r"(address_), "r"(parity)
            : "memory");
        return ended != 0;
    }
    /// Until a phase has ended: of phases 0, 1, 2 ..., the last one of this parity.
    __device__ void wait(uint32_t parity) const {
        asm volatile(
            "{\n"
            ".reg .pred there;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared.b64 there, [%0], %1, %2;\n"
            "@there bra done;\n"
            "bra again;\n"
            "done:\n"
            "}"
            :
            : "r"(address_), "r"(parity), "r"(k_most_wait)
            : "memory");
    }

  private:
    uint32_t address_;
};

/// Shared memory of a block.
template <int D_k, int D_v>
struct RingMemory {
    using S = RingShape<D_k, D_v>;
    std::byte* base;
    RingState& state;

    __device__ RingMemory(std::byte* memory, const RingJob& job)
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

    /// By one thread, before anybody waits: for so many threads that make a side ready and so many
    /// warps that multiply.
    __device__ void create(uint32_t slots, uint32_t threads, uint32_t warps) const {
        const uint32_t copied = slots > 0 ? 0 : threads;  // arrivals when copies are there
        for (uint32_t stage = 0; stage < k_stages; ++stage) {
            full(0, stage).create(threads + copied);
            full(1, stage).create(threads + copied);
            empty(0, stage).create(warps);
            empty(1, stage).create(warps);
        }
        for (uint32_t slot = 0; slot < slots; ++slot) {
            raw_full(slot).create(threads + 1);
            raw_empty(slot).create(threads);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
};

}  // namespace rotkv::cuda::prefill
