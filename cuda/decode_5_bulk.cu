// Version 5 of decode: nobody spends instructions on asking. From 9.0 on a thread asks for a whole
// row with one instruction (cp.async.bulk), and a barrier in shared memory (mbarrier) counts the
// bytes that have come. The ring is that of version 4.
//
//     lane   0 .. 15        copies K of cell `lane`        2 D bytes each: one instruction
//     lane  16 .. 31        copies V of cell `lane` - 16   of the warp for 32 rows
//     lane   0              the positions too, and says how many bytes there will be
//
// A barrier's phase ends when the one arrival that it was made for has come, and as many bytes as
// that announced. Waiting is asking "has the phase of this parity ended?": a stage is filled in
// rounds 0, 1, 2 ..., of parity 0, 1, 0 ...
//
// Cost: a tile is asked for with about 10 instructions instead of D / 8 copies, each with its
// address. Where its time goes: the copy engine takes the lanes' requests one after the other, and
// 32 rows of 256 bytes take it longer than the warp's own 512 pieces of 16: 1.5 us a tile beside
// version 4's 0.9 (H200). What is saved is the warp's instructions, which codes need (version 6),
// and what is asked for at a time must be larger: version 7 copies the rows of several heads at
// once, and shares the cells out among all processors; here 8 of 132 have a warp.
#include "cuda/decode_copies.cuh"
#include "cuda/decode_rung.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

constexpr uint32_t k_ring = 8;

// As in version 4.
template <int D>
struct Stage {
    alignas(16) std::byte k[k_tile][2 * D + 64];
    alignas(16) std::byte v[k_tile][2 * D + 16];
    alignas(16) int32_t position[k_tile];
};

template <int D>
struct Ring {
    Stage<D> stages[k_ring];
    uint64_t full[k_ring];
};

template <int D>
struct Cache {
    const std::byte *k, *v;
    const int32_t* position;
};

// Asks for a tile; for less at the end of the used cells, and for nothing behind it.
template <int D>
__device__ void ask(const Task& task, const Place& at, const Cache<D>& cache, uint32_t first,
                    Stage<D>& to, const CopyBarrier& full) {
    if (first >= at.used) return;
    const uint32_t lane = lane_of_warp(), r = lane % k_tile, cell = first + r;
    const uint32_t cells = min(k_tile, at.used - first), places = (cells * 4 + 15) / 16 * 16;
    if (lane == 0) {
        full.expect(2 * cells * 2 * D + places);
        full.copy(reinterpret_cast<std::byte*>(to.position),
                  reinterpret_cast<const std::byte*>(cache.position + first), places);
    }
    __syncwarp();
    if (r >= cells) return;
    const bool is_v = lane >= k_tile;
    full.copy(is_v ? to.v[r] : to.k[r],
              is_v ? cache.v + cell * task.v.cell : cache.k + cell * task.k.cell, 2 * D);
}

template <int D>
__device__ void attend(const Task& task, RungMemory<D>& memory) {
    Ring<D>& ring = *reinterpret_cast<Ring<D>*>(memory.ring);
    if (lane_of_warp() < k_ring) CopyBarrier(ring.full + lane_of_warp()).create(1);
    __syncwarp();
    const Place at = place_of(task);
    const Cache<D> cache{cells_of(task.k, at), cells_of(task.v, at), positions(task, at)};
    const auto ask_for = [&](uint32_t i) {
        const uint32_t stage = i % k_ring;
        ask(task, at, cache, i * k_tile, ring.stages[stage], CopyBarrier(ring.full + stage));
    };
    for (uint32_t i = 0; i < k_ring - 1; ++i) ask_for(i);
    uint32_t q[D / 16][2];
    rotate_into(memory, task, at);
    load_queries<D>(q, memory.rows, at);
    State<D> state;
    for (uint32_t i = 0; i * k_tile < at.used; ++i) {
        const uint32_t cell = i * k_tile + lane_of_warp() % k_tile;
        CopyBarrier(ring.full + i % k_ring).wait(i / k_ring % 2);
        __syncwarp();  // tile i - 1 has been read
        ask_for(i + k_ring - 1);
        const Stage<D>& tile = ring.stages[i % k_ring];
        const uint32_t seen = seen_cells(at, cell < at.used ? tile.position[cell % k_tile] : -1);
        if (seen == 0) continue;
        float s[4] = {};
        uint32_t p[2];
        score<D>(s, q, [&](uint32_t r, uint32_t c) {
            return *reinterpret_cast<const uint4*>(tile.k[r] + c * 2);
        });
        take_scores(state, s, seen, task.scale * k_log2_e, p);
        add_values(state, p, [&](uint32_t r, uint32_t c) {
            if ((seen >> r & 1) == 0) return uint4{0, 0, 0, 0};
            return *reinterpret_cast<const uint4*>(tile.v[r] + c * 2);
        });
    }
    end_heads(task, at, state, memory, channel_of);
}

template <int D>
__global__ void __launch_bounds__(k_warp) bulk_kernel(const __grid_constant__ Task task) {
#if ROTKV_BULK_COPIES
    extern __shared__ float4 shared[];
    attend(task, *reinterpret_cast<RungMemory<D>*>(shared));
#else
    __trap();  // never launched on such a device
#endif
}

template <int D>
void launch(const Task& task, Stream stream) {
    launch_rung(bulk_kernel<D>, task.grid(), k_warp, RungMemory<D>::bytes(sizeof(Ring<D>)), stream,
                task);
}

}  // namespace

bool decode_5_takes(const AttentionArgs& args) {
    return rung_takes_halves(args) && rows_on_16_bytes(args.position) && compute_capability() >= 90;
}

void decode_5_bulk(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    const Task task(args);
    args.q.n[3] == 64 ? launch<64>(task, stream) : launch<128>(task, stream);
}

}  // namespace rotkv::cuda
