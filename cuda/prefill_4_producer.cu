// Version 4 of prefill: warps have roles. A fifth warp, the producer, does nothing but ask for
// tiles (cp.async into a ring of three), and the four that multiply, the consumers, do nothing
// else. They meet at barriers in shared memory (mbarrier), two for each stage of the ring:
//
//     producer    wait until stage is empty, ask for a tile, ... its copies arrive at `full`
//     consumers   wait until stage is full, multiply, softmax, multiply, arrive at `empty`
//
//     tile            0   1   2   3   4   5
//     stage           0   1   2   0   1   2
//     parity, full    0   0   0   1   1   1   of the phase that is waited for
//     parity, empty   1   1   1   0   0   0   1 before the first: it is empty
//
// The producer runs ahead as far as the ring allows, so that a tile is there when it is wanted, and
// nobody stands at a barrier of all threads.
//
// Cost: as version 3. Three stages of 64 cells are 96 KB (D = 128), with the queries 118 KB: one
// block a processor, 64 rows. Where its time goes: between the products. While a block is in its
// softmax, its tensor cores wait. Version 5 (prefill_hopper.cuh) has two groups of consumers that
// take turns, one multiplying while the other is in its softmax, 128 cells to a tile, a survey that
// leaves out what nobody sees, registers given from producers to consumers, and types that are
// expanded on the way.
#include "cuda/ladder.h"
#include "cuda/prefill_ring.cuh"
#include "cuda/prefill_rung.cuh"
#include "cuda/prefill_tile.cuh"
#include "cuda/prefill_wgmma.cuh"

namespace rotkv::cuda {
namespace {

using prefill::Fragment;
using prefill::k_rung_cells;
using prefill::k_rung_rows;
using prefill::k_rung_threads;
using prefill::place_of;
using prefill::RowBlock;
using prefill::RowSums;

constexpr uint32_t k_ring = 3;

template <int D>
struct Memory {
    alignas(1024) std::byte q[k_rung_rows * D * 2];
    struct Stage {
        alignas(1024) std::byte k[k_rung_cells * D * 2], v[k_rung_cells * D * 2];
    };
    union {
        Stage ring[k_ring];
        float out[k_rung_rows * D];
    };
    int32_t position[k_ring][k_rung_cells];
    uint64_t full[k_ring], empty[k_ring];
    alignas(16) float scratch[k_rung_threads / k_warp][plain_floats(D)];
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr uint32_t k_panel_bytes = 64 * 128;  // 64 rows, or cells, of 64 channels

// One tile: a lane's copies of 16 bytes. Behind the used cells, zeros.
template <int D>
__device__ void ask(const RowBlock& rows, uint32_t first, typename Memory<D>::Stage& to,
                    int32_t* position) {
    constexpr uint32_t k_units = D / 8;  // of 16 bytes, of a row
    const uint32_t k = shared_address(to.k), v = shared_address(to.v);
    for (uint32_t i = lane_of_warp(); i < k_rung_cells; i += k_warp) {
        if (first + i >= rows.used) break;
        copy_float(reinterpret_cast<float*>(position + i),
                   reinterpret_cast<const float*>(rows.positions() + first + i));
    }
#pragma unroll 4
    for (uint32_t i = lane_of_warp(); i < k_rung_cells * k_units; i += k_warp) {
        const uint32_t r = i / k_units, piece = i % k_units;
        const bool is_used = first + r < rows.used;
        const uint32_t cell = is_used ? first + r : 0;
        const uint32_t at = place_of(k_rung_cells, r, piece);
        copy_16(k + at, rows.k() + cell * rows.task.k.cell + piece * 16, is_used);
        copy_16(v + at, rows.v() + cell * rows.task.v.cell + piece * 16, is_used);
    }
}

template <int D>
__device__ void produce(const RowBlock& rows, Memory<D>& memory) {
    for (uint32_t i = 0; i * k_rung_cells < rows.used; ++i) {
        const uint32_t stage = i % k_ring, round = i / k_ring;
        PhaseBarrier(memory.empty[stage]).wait((round + 1) % 2);
        ask<D>(rows, i * k_rung_cells, memory.ring[stage], memory.position[stage]);
        PhaseBarrier(memory.full[stage]).arrive_when_copied();
    }
    wait_for_copies();  // a warp that has ended must not be copied for
}

// 2 score the cells, 4 sum the values: as in version 3.
template <int D>
__device__ void score(float (&s)[8][4], const prefill::Operand& q, const prefill::Operand& k) {
    prefill::begin_products();
#pragma unroll
    for (uint32_t i = 0; i < D; i += 16) {
        const uint32_t byte = i / 64 * k_panel_bytes + i % 64 * 2;
        prefill::multiply_tiles(s, q.at(byte), k.at(byte), i > 0);
    }
    prefill::end_products();
    prefill::wait_for_products<0>();
    prefill::hold(s);
}

template <int D>
__device__ void add_values(float (&o)[D / 8][4], const float (&p)[8][4],
                           const prefill::Operand& v) {
    Fragment a[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) prefill::to_operand(a[c], p, c);
    prefill::hold(o);
    prefill::begin_products();
#pragma unroll
    for (int c = 0; c < 4; ++c) prefill::multiply_add(o, a[c], v.at(c * 16 * 128));
    prefill::end_products();
    prefill::wait_for_products<0>();
    prefill::hold(o);
}

template <int D>
__device__ void consume(const RowBlock& rows, Memory<D>& memory) {
    const Task& task = rows.task;
    float* const scratch = memory.scratch[threadIdx.x / k_warp];
    prefill::load_queries<D>(rows, scratch, [&](uint32_t row, uint32_t i, uint32_t halves) {
        std::byte* const piece = memory.q + place_of(k_rung_rows, row, i / 8);
        *reinterpret_cast<uint32_t*>(piece + i % 8 * 2) = halves;
    });
    publish_stores();
    wait_for_group(1, k_rung_threads);
    const prefill::Operand q(shared_address(memory.q), k_panel_bytes);
    RowSums<D> sums(rows);
    for (uint32_t i = 0; i * k_rung_cells < rows.used; ++i) {
        const uint32_t stage = i % k_ring, left = rows.used - i * k_rung_cells;
        PhaseBarrier(memory.full[stage]).wait(i / k_ring % 2);
        publish_stores();  // cp.async stores as threads do
        const prefill::Operand k(shared_address(memory.ring[stage].k), k_panel_bytes);
        const prefill::Operand v(shared_address(memory.ring[stage].v), k_panel_bytes);
        float s[8][4];
        score<D>(s, q, k);
        sums.take(s, memory.position[stage], left, task.scale * k_log2_e);
        add_values<D>(sums.o, s, v);
        if (lane_of_warp() == 0) PhaseBarrier(memory.empty[stage]).arrive();
    }
    wait_for_group(1, k_rung_threads);  // all tiles have been read
    prefill::end_rows(rows, sums, memory.out, scratch);
}

template <int D>
__device__ void attend(const Task& task, Memory<D>& memory) {
    const RowBlock rows(task);
    if (threadIdx.x < k_ring) {
        PhaseBarrier(memory.full[threadIdx.x]).create(k_warp);
        PhaseBarrier(memory.empty[threadIdx.x]).create(k_rung_threads / k_warp);
    }
    __syncthreads();
    threadIdx.x < k_rung_threads ? consume(rows, memory) : produce(rows, memory);
}

#endif

template <int D>
__global__ void __launch_bounds__(k_rung_threads + k_warp)
    producer_kernel(const __grid_constant__ Task task) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint4 shared[];
    attend(task, *reinterpret_cast<Memory<D>*>(shared));
#else
    __trap();  // never launched: takes() asks which code there is
#endif
}

template <int D>
void launch(const AttentionArgs& args, Stream stream) {
    const Task task(args);
    launch_rung(producer_kernel<D>, RowBlock::grid(task, args), k_rung_threads + k_warp,
                sizeof(Memory<D>), stream, task);
}

}  // namespace

bool prefill_4_takes(const AttentionArgs& args) {
    return prefill::prefill_rung_takes(args) && current_device().has_wgmma;
}

void prefill_4_producer(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    args.q.n[3] == 64 ? launch<64>(args, stream) : launch<128>(args, stream);
}

}  // namespace rotkv::cuda
