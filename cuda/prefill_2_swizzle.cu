// Version 2 of prefill: tiles lie so that lanes meet in no bank, and one instruction (ldmatrix)
// reads four 8 x 8 matrices of halves into the registers of an operand, transposed where that is
// wanted.
//
// A tile is cut into panels of 64 channels, so that a row of a panel is 128 bytes, all banks once:
// eight pieces of 16 bytes. Piece p of row r lies at place p ^ (r % 8) (prefill_tile.cuh,
// place_of):
//
//     row 0    0 1 2 3 4 5 6 7       rows 0 .. 7 of one piece, which is one matrix, lie in eight
//     row 1    1 0 3 2 5 4 7 6       different places: read in one turn. So do the eight pieces of
//     row 2    2 3 0 1 6 7 4 5       one row: written in one turn.
//     row 3    3 2 1 0 7 6 5 4
//     ...
//
// ldmatrix.x4: lane l brings the address of row l % 8 of matrix l / 8, and receives of each matrix
// row l / 4, columns 2 (l % 4) and the next, or with .trans rows 2 (l % 4) and the next of column
// l / 4, which is how V, cells by channels, becomes an operand.
//
// Cost: as version 1; for 16 x 16 numbers one instruction and 4 turns of shared memory, where there
// were 4 loads and 32 turns (K) or 8 loads and 32 turns (V). Where its time goes: each 16 x 16
// piece of a tile is read from shared memory by all four warps, into registers that are used once.
#include "cuda/ladder.h"
#include "cuda/prefill_rung.cuh"
#include "cuda/prefill_tile.cuh"

namespace rotkv::cuda {
namespace {

using namespace prefill;

template <int D>
struct Memory {
    alignas(1024) std::byte q[k_rung_rows * D * 2];
    union {
        struct {
            alignas(1024) std::byte k[k_rung_cells * D * 2], v[k_rung_cells * D * 2];
        } tile;
        float out[k_rung_rows * D];
    };
    int32_t position[k_rung_cells];
    alignas(16) float scratch[k_rung_threads / k_warp][plain_floats(D)];
};

// 2 score the cells: C[row][cell] = q~ K^T. Matrices of A: rows 0, 8, 0, 8 and channels 0, 0, 8, 8;
// of two B side by side: cells 0, 0, 8, 8 and channels 0, 8, 0, 8.
template <int D>
__device__ void score(float (&s)[8][4], uint32_t q, uint32_t k) {
    const uint32_t lane = lane_of_warp(), row = threadIdx.x / k_warp * 16 + lane % 16;
    const uint32_t cell = lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < D / 8; i += 2) {
        Fragment a;
        load_matrices(a, q + place_of(k_rung_rows, row, i + lane / 16));
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            Fragment b;
            load_matrices(b, k + place_of(k_rung_cells, n * 8 + cell, i + lane / 8 % 2));
            multiply_add(s[n], a, b[0], b[1]);
            multiply_add(s[n + 1], a, b[2], b[3]);
        }
    }
}

// 4 sum the values: C[row][channel] += p V. Matrices of two B: cells 0, 8, 0, 8 and channels 0, 0,
// 8, 8, transposed.
template <int D>
__device__ void add_values(float (&o)[D / 8][4], const float (&p)[8][4], uint32_t v) {
    const uint32_t cell = lane_of_warp() % 16, piece = lane_of_warp() / 16;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        Fragment a;
        to_operand(a, p, c);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            Fragment b;
            load_transposed(b, v + place_of(k_rung_cells, 16 * c + cell, n + piece));
            multiply_add(o[n], a, b[0], b[1]);
            multiply_add(o[n + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
__global__ void __launch_bounds__(k_rung_threads)
    swizzle_kernel(const __grid_constant__ Task task) {
    extern __shared__ __align__(1024) uint4 shared[];
    Memory<D>& memory = *reinterpret_cast<Memory<D>*>(shared);
    float* const scratch = memory.scratch[threadIdx.x / k_warp];
    const RowBlock rows(task);
    load_queries<D>(rows, scratch, [&](uint32_t row, uint32_t i, uint32_t halves) {
        std::byte* const piece = memory.q + place_of(k_rung_rows, row, i / 8);
        *reinterpret_cast<uint32_t*>(piece + i % 8 * 2) = halves;
    });
    const auto load = [&](std::byte* tile, const std::byte* from, int64_t of_cell, uint32_t first) {
        load_tile<D>(from, of_cell, first, rows.used, [&](uint32_t r, uint32_t i, uint4 x) {
            *reinterpret_cast<uint4*>(tile + place_of(k_rung_cells, r, i / 8)) = x;
        });
    };
    RowSums<D> sums(rows);
    for (uint32_t first = 0; first < rows.used; first += k_rung_cells) {
        __syncthreads();  // the last tile has been read
        load(memory.tile.k, rows.k(), task.k.cell, first);
        load(memory.tile.v, rows.v(), task.v.cell, first);
        const uint32_t left = rows.used - first;
        if (threadIdx.x < min(k_rung_cells, left)) {
            memory.position[threadIdx.x] = rows.positions()[first + threadIdx.x];
        }
        __syncthreads();  // this one is there
        float s[8][4] = {};
        score<D>(s, shared_address(memory.q), shared_address(memory.tile.k));
        sums.take(s, memory.position, left, task.scale * k_log2_e);
        add_values<D>(sums.o, s, shared_address(memory.tile.v));
    }
    __syncthreads();
    end_rows(rows, sums, memory.out, scratch);
}

template <int D>
void launch(const AttentionArgs& args, Stream stream) {
    const Task task(args);
    launch_rung(swizzle_kernel<D>, RowBlock::grid(task, args), k_rung_threads, sizeof(Memory<D>),
                stream, task);
}

}  // namespace

bool prefill_2_takes(const AttentionArgs& args) { return prefill_rung_takes(args); }

void prefill_2_swizzle(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    args.q.n[3] == 64 ? launch<64>(args, stream) : launch<128>(args, stream);
}

}  // namespace rotkv::cuda
