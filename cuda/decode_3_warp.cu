// Version 3 of decode: tensor cores. One warp attends for all query heads of a KV head, which are
// the 8 columns of a product, so that each byte of the cache is read once for all of them, by plain
// loads straight into the registers that the instruction wants (decode_rung.cuh: which lane, what).
//
// Versions 1 and 2 spend an instruction on each product of two numbers and a head. Here one
// instruction does 16 cells, 16 channels, 8 heads; for a token almost all the arithmetic is gone.
//
// Cost: K and V of the used cells once; for a tile of 16 cells, D / 8 products and as many loads of
// 16 bytes a lane (D = 128: 16). Where its time goes: it waits. The loads of a tile's K, then of
// its V, are all that is under way (4 KB each), and a warp's speed is
//     bytes under way / time of one load = 4 KB / 0.9 us = 4.5 GB/s
// however fast memory is (measured: 3.7 ms for 32768 cells of 8 KV heads of 128, on an H200). What
// comes next has more under way.
#include "cuda/decode_rung.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

template <int D>
__global__ void __launch_bounds__(k_warp) warp_kernel(const __grid_constant__ Task task) {
    __shared__ RungMemory<D> memory;
    const Place at = place_of(task);
    uint32_t q[D / 16][2];
    rotate_into(memory, task, at);
    load_queries<D>(q, memory.rows, at);
    const int32_t* const position = positions(task, at);
    const std::byte *const k = cells_of(task.k, at), *const v = cells_of(task.v, at);
    State<D> state;
    for (uint32_t first = 0; first < at.used; first += k_tile) {
        const uint32_t cell = first + lane_of_warp() % k_tile;
        const uint32_t seen = seen_cells(at, cell < at.used ? position[cell] : -1);
        if (seen == 0) continue;
        const auto eight = [&](const std::byte* rows, int64_t of_cell, uint32_t r, uint32_t i) {
            if ((seen >> r & 1) == 0) return uint4{0, 0, 0, 0};
            return *reinterpret_cast<const uint4*>(rows + (first + r) * of_cell + i * 2);
        };
        float s[4] = {};
        uint32_t p[2];
        score<D>(s, q, [&](uint32_t r, uint32_t i) { return eight(k, task.k.cell, r, i); });
        take_scores(state, s, seen, task.scale * k_log2_e, p);
        add_values(state, p, [&](uint32_t r, uint32_t i) { return eight(v, task.v.cell, r, i); });
    }
    end_heads(task, at, state, memory, channel_of);
}

template <int D>
void launch(const Task& task, Stream stream) {
    warp_kernel<D><<<task.grid(), k_warp, 0, stream>>>(task);
    require_launched("attention");
}

}  // namespace

bool decode_3_takes(const AttentionArgs& args) { return rung_takes_halves(args); }

void decode_3_warp(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    const Task task(args);
    args.q.n[3] == 64 ? launch<64>(task, stream) : launch<128>(task, stream);
}

}  // namespace rotkv::cuda
