// Version 4 of decode: more under way. Cells come by asynchronous copies (cp.async, from 8.0 on)
// into a ring of eight tiles in shared memory; while the warp multiplies one, seven are on their
// way.
//
//     tile       i      i+1    i+2   ...   i+7
//     stage    i % 8     .      .    ...    .       the ring
//              being    there or on its    asked for when tile i begins, into the
//              read     way                 stage that tile i - 1 has left
//
// A group of copies is one tile, so that "at most six groups under way" is "tile i is there". Rows
// of a tile lie as far apart as keeps the lanes of a load in different banks (Stage).
//
// Cost: as version 3, and D / 8 copies of 16 bytes a lane and tile, each with an address of its
// own. Where its time goes: 7 tiles of 8 KB are under way, 14 times as much as before, and it takes
// half of version 3's time, not a 14th: the warp itself has as many instructions for asking,
// addresses included, as for multiplying.
#include "cuda/decode_rung.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

constexpr uint32_t k_ring = 8;

// K: eight lanes of a load are two cells of four lanes, 64 bytes each: rows 64 bytes (mod 128)
// apart. V: two groups of channels, 16 bytes each, of four cells two apart: rows 16 (mod 64) apart.
template <int D>
struct Stage {
    alignas(16) std::byte k[k_tile][2 * D + 64];
    alignas(16) std::byte v[k_tile][2 * D + 16];
    int32_t position[k_tile];
};

template <int D>
struct Cache {
    const std::byte *k, *v;
    const int32_t* position;
};

// Asks for a tile, as one group of copies; past the used cells there is nothing to ask for.
template <int D>
__device__ void ask(const Task& task, const Place& at, const Cache<D>& cache, uint32_t first,
                    Stage<D>& to) {
    constexpr uint32_t k_units = D / 8;  // of 16 bytes, of a row
    const uint32_t lane = lane_of_warp();
    if (lane < k_tile && first + lane < at.used) {
        copy_float(reinterpret_cast<float*>(to.position + lane),
                   reinterpret_cast<const float*>(cache.position + first + lane));
    }
    for (uint32_t i = lane; i < k_tile * k_units; i += k_warp) {
        const uint32_t r = i / k_units, byte = i % k_units * 16, cell = first + r;
        if (cell >= at.used) break;
        copy_16(shared_address(to.k[r] + byte), cache.k + cell * task.k.cell + byte, true);
        copy_16(shared_address(to.v[r] + byte), cache.v + cell * task.v.cell + byte, true);
    }
    close_group();
}

template <int D>
__global__ void __launch_bounds__(k_warp) ring_kernel(const __grid_constant__ Task task) {
    extern __shared__ float4 shared[];
    RungMemory<D>& memory = *reinterpret_cast<RungMemory<D>*>(shared);
    Stage<D>* const ring = reinterpret_cast<Stage<D>*>(memory.ring);
    const Place at = place_of(task);
    uint32_t q[D / 16][2];
    rotate_into(memory, task, at);
    load_queries<D>(q, memory.rows, at);
    const Cache<D> cache{cells_of(task.k, at), cells_of(task.v, at), positions(task, at)};
    for (uint32_t i = 0; i < k_ring - 1; ++i) ask(task, at, cache, i * k_tile, ring[i]);
    State<D> state;
    for (uint32_t i = 0; i * k_tile < at.used; ++i) {
        const uint32_t first = i * k_tile, cell = lane_of_warp() % k_tile;
        wait_for_groups<k_ring - 2>();
        __syncwarp();  // all lanes' copies of tile i are there, and tile i - 1 has been read
        ask(task, at, cache, first + (k_ring - 1) * k_tile, ring[(i + k_ring - 1) % k_ring]);
        const Stage<D>& tile = ring[i % k_ring];
        const uint32_t seen = seen_cells(at, first + cell < at.used ? tile.position[cell] : -1);
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
void launch(const Task& task, Stream stream) {
    launch_rung(ring_kernel<D>, task.grid(), k_warp,
                RungMemory<D>::bytes(k_ring * sizeof(Stage<D>)), stream, task);
}

}  // namespace

bool decode_4_takes(const AttentionArgs& args) { return rung_takes_halves(args); }

void decode_4_ring(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    const Task task(args);
    args.q.n[3] == 64 ? launch<64>(task, stream) : launch<128>(task, stream);
}

}  // namespace rotkv::cuda
