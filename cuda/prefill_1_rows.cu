// Version 1 of prefill: tensor cores, and tiles in shared memory. A block of threads brings 64
// cells of K and V to shared memory, row after row as they are in the cache, and its four warps
// multiply 16 rows each with them (prefill_rung.cuh). Registers of the operands are read as
// mma.m16n8k16 wants them (prefill_mma.cuh; g = lane / 4, t = lane % 4):
//
//     K   b0 = channels 2t, 2t+1 of cell g       one load of 4 bytes
//     V   b0 = cells 2t, 2t+1 of channel g       two loads of 2 bytes, from two rows
//
// Cost: 4 D operations for a row and cell, K and V once for 64 rows. Where its time goes: shared
// memory has 32 banks of 4 bytes, and one load is as slow as its busiest bank. Rows of K are 256
// bytes (D = 128), a multiple of all banks: the eight lanes of equal t meet in one bank, and a load
// takes eight turns. Those of V take four, and there are twice as many.
#include "cuda/ladder.h"
#include "cuda/prefill_rung.cuh"

namespace rotkv::cuda {
namespace {

using namespace prefill;

template <int D>
struct Memory {
    alignas(16) uint16_t q[k_rung_rows][D];
    union {
        struct {
            alignas(16) uint16_t k[k_rung_cells][D], v[k_rung_cells][D];
        } tile;
        float out[k_rung_rows][D];
    };
    int32_t position[k_rung_cells];
    alignas(16) float scratch[k_rung_threads / k_warp][plain_floats(D)];
};

__device__ uint32_t two_halves(const uint16_t* x) { return *reinterpret_cast<const uint32_t*>(x); }

// 2 score the cells: C[row][cell] = q~ K^T.
template <int D>
__device__ void score(float (&s)[8][4], const Memory<D>& memory) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4, row = lane_row();
#pragma unroll
    for (int i = 0; i < D; i += 16) {
        const Fragment a = {two_halves(memory.q[row] + i + 2 * t),
                            two_halves(memory.q[row + 8] + i + 2 * t),
                            two_halves(memory.q[row] + i + 8 + 2 * t),
                            two_halves(memory.q[row + 8] + i + 8 + 2 * t)};
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const uint16_t* const k = memory.tile.k[8 * n + g] + i + 2 * t;
            multiply_add(s[n], a, two_halves(k), two_halves(k + 8));
        }
    }
}

// 4 sum the values: C[row][channel] += p V.
template <int D>
__device__ void add_values(float (&o)[D / 8][4], const float (&p)[8][4], const Memory<D>& memory) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        Fragment a;
        to_operand(a, p, c);
        const auto two_cells = [&](uint32_t cell, uint32_t channel) {
            const uint32_t r = 16 * c + cell;
            return memory.tile.v[r][channel] | uint32_t(memory.tile.v[r + 1][channel]) << 16;
        };
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            multiply_add(o[n], a, two_cells(2 * t, 8 * n + g), two_cells(2 * t + 8, 8 * n + g));
        }
    }
}

template <int D>
__global__ void __launch_bounds__(k_rung_threads) rows_kernel(const __grid_constant__ Task task) {
    extern __shared__ float4 shared[];
    Memory<D>& memory = *reinterpret_cast<Memory<D>*>(shared);
    float* const scratch = memory.scratch[threadIdx.x / k_warp];
    const RowBlock rows(task);
    load_queries<D>(rows, scratch, [&](uint32_t row, uint32_t i, uint32_t halves) {
        *reinterpret_cast<uint32_t*>(memory.q[row] + i) = halves;
    });
    RowSums<D> sums(rows);
    for (uint32_t first = 0; first < rows.used; first += k_rung_cells) {
        __syncthreads();  // the last tile has been read
        load_tile<D>(rows.k(), task.k.cell, first, rows.used, [&](uint32_t r, uint32_t i, uint4 x) {
            *reinterpret_cast<uint4*>(memory.tile.k[r] + i) = x;
        });
        load_tile<D>(rows.v(), task.v.cell, first, rows.used, [&](uint32_t r, uint32_t i, uint4 x) {
            *reinterpret_cast<uint4*>(memory.tile.v[r] + i) = x;
        });
        const uint32_t left = rows.used - first;
        if (threadIdx.x < min(k_rung_cells, left)) {
            memory.position[threadIdx.x] = rows.positions()[first + threadIdx.x];
        }
        __syncthreads();  // this one is there
        float s[8][4] = {};
        score(s, memory);
        sums.take(s, memory.position, left, task.scale * k_log2_e);
        add_values<D>(sums.o, s, memory);
    }
    __syncthreads();
    end_rows(rows, sums, memory.out[0], scratch);
}

template <int D>
void launch(const AttentionArgs& args, Stream stream) {
    const Task task(args);
    launch_rung(rows_kernel<D>, RowBlock::grid(task, args), k_rung_threads, sizeof(Memory<D>),
                stream, task);
}

}  // namespace

bool prefill_1_takes(const AttentionArgs& args) { return prefill_rung_takes(args); }

void prefill_1_rows(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    args.q.n[3] == 64 ? launch<64>(args, stream) : launch<128>(args, stream);
}

}  // namespace rotkv::cuda
