// Version 3 of prefill: the tensor cores of 9.0 read operands from shared memory themselves
// (wgmma). Four warps together ask for a product of 64 rows, 64 cells or all channels, and 16 of
// the sum's index; it runs beside them until they wait for it (prefill_wgmma.cuh: the
// instructions).
//
//     scores   A = q~ [64][16]   B = K^T [16][64 cells]   both in shared memory, channels innermost
//     values   A = p  [64][16]   B = V [16 cells][D]      A in registers: what the softmax left
//
// The swizzle is version 2's: the hardware knows it. C and A lie in the lanes as before, 16 rows a
// warp, so that the softmax has not changed either. Two things are new: what was stored in shared
// memory has to be made visible to those who read it without registers (publish_stores), and C must
// not be touched between asking and waiting (hold).
//
// Cost: as version 2, but D / 16 + 4 instructions of the tensor cores for a tile, where each warp
// had D products and 9 D / 16 loads (D = 128: 12 instead of 128 and 72), and each piece of K and V
// is read from shared memory once for 64 rows. Where its time goes: nothing overlaps in a block.
// All load, all multiply, all take the softmax; only the second and third block of a processor fill
// the gaps, and the softmax waits for whole products: slower than version 2 (by a fifth, on an
// H200), until the next two versions give the tensor cores something to do meanwhile.
#include "cuda/ladder.h"
#include "cuda/prefill_rung.cuh"
#include "cuda/prefill_tile.cuh"
#include "cuda/prefill_wgmma.cuh"

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

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

constexpr uint32_t k_panel_bytes = 64 * 128;  // 64 rows, or cells, of 64 channels

// 2 score the cells: C[row][cell] = q~ K^T, 16 channels at a time: 32 bytes of a panel's rows.
template <int D>
__device__ void score(float (&s)[8][4], const Operand& q, const Operand& k) {
    begin_products();
#pragma unroll
    for (uint32_t i = 0; i < D; i += 16) {
        const uint32_t byte = i / 64 * k_panel_bytes + i % 64 * 2;
        multiply_tiles(s, q.at(byte), k.at(byte), i > 0);
    }
    end_products();
    wait_for_products<0>();
    hold(s);
}

// 4 sum the values: C[row][channel] += p V, 16 cells at a time: 16 rows of each panel.
template <int D>
__device__ void add_values(float (&o)[D / 8][4], const float (&p)[8][4], const Operand& v) {
    Fragment a[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) to_operand(a[c], p, c);
    hold(o);
    begin_products();
#pragma unroll
    for (int c = 0; c < 4; ++c) multiply_add(o, a[c], v.at(c * 16 * 128));
    end_products();
    wait_for_products<0>();
    hold(o);
}

template <int D>
__device__ void attend(const Task& task, Memory<D>& memory) {
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
    const Operand q(shared_address(memory.q), k_panel_bytes);
    const Operand k(shared_address(memory.tile.k), k_panel_bytes);
    const Operand v(shared_address(memory.tile.v), k_panel_bytes);
    RowSums<D> sums(rows);
    for (uint32_t first = 0; first < rows.used; first += k_rung_cells) {
        __syncthreads();  // the last tile has been read
        load(memory.tile.k, rows.k(), task.k.cell, first);
        load(memory.tile.v, rows.v(), task.v.cell, first);
        const uint32_t left = rows.used - first;
        if (threadIdx.x < min(k_rung_cells, left)) {
            memory.position[threadIdx.x] = rows.positions()[first + threadIdx.x];
        }
        publish_stores();
        __syncthreads();  // this one is there
        float s[8][4];
        score<D>(s, q, k);
        sums.take(s, memory.position, left, task.scale * k_log2_e);
        add_values<D>(sums.o, s, v);
    }
    __syncthreads();
    end_rows(rows, sums, memory.out, scratch);
}

#endif

template <int D>
__global__ void __launch_bounds__(k_rung_threads) wgmma_kernel(const __grid_constant__ Task task) {
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
    launch_rung(wgmma_kernel<D>, RowBlock::grid(task, args), k_rung_threads, sizeof(Memory<D>),
                stream, task);
}

}  // namespace

bool prefill_3_takes(const AttentionArgs& args) {
    return prefill_rung_takes(args) && current_device().has_wgmma;
}

void prefill_3_wgmma(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    args.q.n[3] == 64 ? launch<64>(args, stream) : launch<128>(args, stream);
}

}  // namespace rotkv::cuda
