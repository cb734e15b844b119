#pragma once
// y [tokens][words] = x w^T in f32 precision on the tensor cores of 9.0: six products of bf16 terms
// (split_terms.cuh) in place of one of f32. A block of threads owns 128 tokens and 24 .. 128 words
// at a time, and goes through the inner sum in runs of 32 columns:
//
//   1 thread   has the copy engine bring tiles: x [128][32] as it is, terms of w [3][words][32]
//   4 warps    multiply, tokens 0 .. 63: split x in registers, six products, add a run to the sums
//   4 warps    the same of tokens 64 .. 127; while one group adds, the other's products run
//
// How exact it is, in u = 2^-24 of M, which is sum |w x| of an element. NVIDIA does not say how
// these tensor cores add. As measured on an H200, an instruction brings its 16 products, which are
// exact, and the number that it adds them to to the exponent of the largest of these 17, cuts each
// off two bits behind the last one of f32, and their sum at the last one of f32. That loses at most
// 17 * 2^-25 + 2^-23 of the largest, 10.5 u, and always towards zero: sums of one sign drift, the
// further the longer they stay in the accumulators. Hence runs, and in a run small products first:
//
//   left out by the terms                                            2 u M
//   low high, mid mid, high low: six instructions, of sums below 3 * 2^-16 M
//                                                                 0.01 u M
//   mid high, high mid: four, below 2^-7 M                        0.33 u M
//   high high: two; if all of a run comes with the first             21 u M
//   runs' sums, to nearest: in / 32 roundings       4/3 sqrt(in / 32) u M, by the table's measure
//
// The table of cases allows (4/3 sqrt(in) + 4) u M for matmul, and more for nll, kld and logits.
// What stands above, 23.4 + 4/3 sqrt(in / 32), is less from in = 313 on: 29.1 of 36 for 576
// columns, 32.7 of 56.3 for 1536. Measured: at most 6.6 (values=outliers) and 9.3 (one sign). A
// product of two high terms has 16 bits, so of numbers of like size nothing is cut off; one of two
// TF32 has 22, and loses bits in each instruction. Never emptied, accumulators of numbers of one
// sign may lose half of 10.5 u in each of in / 16 instructions.
// What leaves f32 becomes an infinity, as elsewhere.
//
// Docs: docs/08-backends.md

#include "cuda/dependent.cuh"
#include "cuda/phase_barrier.cuh"
#include "cuda/split_terms.cuh"
#include "cuda/split_wgmma.cuh"

#include <cuda.h>

namespace rotkv::cuda::split {

constexpr uint32_t k_group = 128;                   // threads that multiply together
constexpr uint32_t k_tokens = 128, k_columns = 32;  // of a tile; of a run
constexpr uint32_t k_block_threads = 3 * k_group;

/// Tiles of a run in shared memory: as many as there is room for.
template <int words>
struct Shape {
    static constexpr uint32_t x_bytes = k_tokens * k_columns * 4;
    static constexpr uint32_t term_bytes = words * k_columns * 2, w_bytes = k_terms * term_bytes;
    static constexpr uint32_t stages = words > 96 ? 5 : 6;
    static constexpr uint32_t bytes = stages * (x_bytes + w_bytes + 16);
};

struct Job {
    CUtensorMap x_map, w_map;
    const float* x;
    const uint16_t* w;  // [terms][words][w_step]
    float* y;
    int64_t x_step, y_step, w_step, w_plane;  // elements
    uint32_t tokens, words, in, runs;
    bool pairs;  // two neighbouring elements of y lie on 8 bytes
    Divisor token_tiles;
    uint32_t tiles;
};

/// Shared memory of a block.
template <int words>
struct Memory {
    using S = Shape<words>;
    std::byte* base;

    __device__ uint32_t x(uint32_t stage) const {
        return shared_address(base) + stage * S::x_bytes;
    }
    __device__ uint32_t w(uint32_t stage) const {
        return shared_address(base) + S::stages * S::x_bytes + stage * S::w_bytes;
    }
    __device__ PhaseBarrier barrier(uint32_t n) const {
        return PhaseBarrier(
            reinterpret_cast<const uint64_t*>(base + S::stages * (S::x_bytes + S::w_bytes))[n]);
    }
    __device__ PhaseBarrier full(uint32_t stage) const { return barrier(stage); }
    __device__ PhaseBarrier empty(uint32_t stage) const { return barrier(S::stages + stage); }

    /// By one thread, before anybody waits.
    __device__ void create() const {
        for (uint32_t stage = 0; stage < S::stages; ++stage) {
            full(stage).create(1);
            empty(stage).create(2 * k_group / k_warp);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
};

/// Of a ring: which stage, and which of its rounds.
template <int words>
struct Turn {
    uint32_t stage = 0, parity = 0;
    __device__ void advance() {
        if (++stage < Shape<words>::stages) return;
        stage = 0;
        parity ^= 1;
    }
};

/// A tile of y.
struct Place {
    uint32_t token, word;  // the first
    __device__ Place(const Job& job, uint32_t tile, uint32_t words) {
        const uint32_t column = job.token_tiles.of(tile);
        token = (tile - column * job.token_tiles.d) * k_tokens;
        word = column * words;
    }
};

/// A box of x from this column and token on, or of w from this column and word on, all terms.
__device__ inline void copy_x(uint32_t to, const CUtensorMap& map, uint32_t column, uint32_t token,
                              const PhaseBarrier& full) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];"
        :
        : "r"(to), "l"(&map), "r"(column), "r"(token), "r"(full.address())
        : "memory");
}
__device__ inline void copy_w(uint32_t to, const CUtensorMap& map, uint32_t column, uint32_t word,
                              const PhaseBarrier& full) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];"
        :
        : "r"(to), "l"(&map), "r"(column), "r"(word), "r"(0), "r"(full.address())
        : "memory");
}

/// The thread that has tiles brought.
template <int words>
__device__ void produce(const Job& job, const Memory<words>& memory) {
    using S = Shape<words>;
    Turn<words> turn;
    for (uint32_t tile = blockIdx.x; tile < job.tiles; tile += gridDim.x) {
        const Place at(job, tile, words);
        for (uint32_t run = 0; run < job.runs; ++run) {
            const PhaseBarrier full = memory.full(turn.stage);
            memory.empty(turn.stage).wait(turn.parity ^ 1);
            full.expect(S::x_bytes + S::w_bytes);
            copy_x(memory.x(turn.stage), job.x_map, run * k_columns, at.token, full);
            copy_w(memory.w(turn.stage), job.w_map, run * k_columns, at.word, full);
            full.arrive();
            turn.advance();
        }
    }
}

/// Terms of x for one run: of each 16 columns A as an instruction takes it.
using RunTerms = prefill::Fragment[k_columns / 16][k_terms];

/// Which of eight rows is row r of A: so that lanes that load together meet different banks.
__device__ inline uint32_t row_of_eight(uint32_t r) { return r % 2 * 4 + r / 2; }

__device__ inline float4 load_shared(uint32_t address) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address)
                 : "memory");
    return x;
}

/// From this warp's 16 rows of a tile at `tile`: lane l has rows r = l / 4 and r + 8, and of each
/// 16 columns four from 4 (l % 4) on. A row is 128 bytes, its 16-byte pieces in 128B swizzle.
__device__ inline void load_terms(RunTerms& terms, uint32_t tile) {
    const uint32_t r = row_of_eight(lane_of_warp() / 4), four = lane_of_warp() % 4;
#pragma unroll
    for (uint32_t k = 0; k < k_columns / 16; ++k) {
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            const float4 x = load_shared(tile + (8 * half + r) * 128 + (((k * 4 + four) ^ r) * 16));
            auto& of = terms[k];
            split_pair(x.x, x.y, of[0][half], of[1][half], of[2][half]);
            split_pair(x.z, x.w, of[0][2 + half], of[1][2 + half], of[2][2 + half]);
        }
    }
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// C = all products of a run, small ones first: which term of x with which of w.
template <int words>
__device__ void multiply_run(float (&c)[words / 8][4], const RunTerms& x, uint32_t w) {
    constexpr int k_order[6][2] = {{2, 0}, {1, 1}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};
#pragma unroll
    for (int pair = 0; pair < 6; ++pair) {
#pragma unroll
        for (int k = 0; k < int(k_columns / 16); ++k) {
            const uint32_t b = w + k_order[pair][1] * Shape<words>::term_bytes + k * 32;
            multiply(c, x[k][k_order[pair][0]], operand_at(b), pair + k > 0);
        }
    }
}

#endif

/// One element as ref computes it.
__device__ __noinline__ float plain_product(const Job& job, uint32_t token, uint32_t word) {
    const float* const x = job.x + int64_t(token) * job.x_step;
    const uint16_t* const w = job.w + int64_t(word) * job.w_step;
    double sum = 0;
    for (uint32_t i = 0; i < job.in; ++i) {
        const uint32_t j = place_of_four(i / 4) + i % 4 / 2 * 8 + i % 2;
        sum += double(x[i]) * joined_weight(w[j], w[j + job.w_plane], w[j + 2 * job.w_plane]);
    }
    return float(sum);
}

/// This lane's sums, of two rows from `token` on, eight apart; of eight words two from `word` on.
template <int words>
__device__ void store_sums(const Job& job, const float (&sums)[words / 8][4], uint32_t token,
                           uint32_t word) {
    bool are_finite = true;
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t t = token + 8 * half;
        if (t >= job.tokens) break;
        float* const y = job.y + int64_t(t) * job.y_step;
#pragma unroll
        for (uint32_t n = 0; n < words / 8; ++n) {
            const uint32_t o = word + 8 * n;
            const float a = sums[n][2 * half], b = sums[n][2 * half + 1];
            are_finite = are_finite && fabsf(a) < INFINITY && fabsf(b) < INFINITY;
            if (job.pairs && o + 1 < job.words) {
                *reinterpret_cast<float2*>(y + o) = {a * k_scale_back, b * k_scale_back};
            } else {
                if (o < job.words) y[o] = a * k_scale_back;
                if (o + 1 < job.words) y[o + 1] = b * k_scale_back;
            }
        }
    }
    if (are_finite) return;
#pragma unroll
    for (uint32_t i = 0; i < words / 2; ++i) {
        const uint32_t t = token + i % 4 / 2 * 8, o = word + i / 4 * 8 + i % 2;
        if (fabsf(sums[i / 4][i % 4]) < INFINITY || t >= job.tokens || o >= job.words) continue;
        job.y[int64_t(t) * job.y_step + o] = plain_product(job, t, o);
    }
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// One of the two groups that multiply.
template <int words>
__device__ void consume(const Job& job, const Memory<words>& memory, uint32_t group) {
    constexpr int N = words / 8;
    const uint32_t row = group * 64 + threadIdx.x % k_group / k_warp * 16;  // of this warp
    Turn<words> turn;
    float c[N][4] = {}, sums[N][4];
    RunTerms terms, next = {};
    uint32_t left = 0;  // runs that are not begun
    for (uint32_t tile = blockIdx.x; tile < job.tiles; tile += gridDim.x) left += job.runs;
    memory.full(turn.stage).wait(turn.parity);
    load_terms(terms, memory.x(turn.stage) + row * 128);
    for (uint32_t tile = blockIdx.x; tile < job.tiles; tile += gridDim.x) {
        const Place at(job, tile, words);
#pragma unroll
        for (int i = 0; i < 4 * N; ++i) sums[i / 4][i % 4] = 0;
        for (uint32_t run = 0; run < job.runs; ++run) {
            const uint32_t stage = turn.stage;
            prefill::begin_products();
            multiply_run<words>(c, terms, memory.w(stage));
            prefill::end_products();
            turn.advance();
            if (--left > 0) {
                memory.full(turn.stage).wait(turn.parity);
                load_terms(next, memory.x(turn.stage) + row * 128);
            }
            prefill::wait_for_products<0>();
            prefill::hold(c);
            if (lane_of_warp() == 0) memory.empty(stage).arrive();
#pragma unroll
            for (int i = 0; i < 4 * N; ++i) sums[i / 4][i % 4] += c[i / 4][i % 4];
            memcpy(terms, next, sizeof terms);
        }
        store_sums<words>(job, sums, at.token + row + row_of_eight(lane_of_warp() / 4),
                          at.word + lane_of_warp() % 4 * 2);
    }
}

#endif

template <int words>
__global__ void __launch_bounds__(k_block_threads, 1)
    split_product_kernel(const __grid_constant__ Job job) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint4 shared[];
    const Memory<words> memory{reinterpret_cast<std::byte*>(shared)};
    if (threadIdx.x == 0) memory.create();
    __syncthreads();
    wait_for_earlier();
    let_next_come();
    const uint32_t group = prefill::uniform(threadIdx.x / k_group);
    if (group == 0) {
        prefill::give_registers<24>();
        if (threadIdx.x == 0) produce(job, memory);
    } else {
        prefill::take_registers<240>();
        consume(job, memory, group - 1);
    }
#else
    __trap();  // never launched: launch_split asks which code there is
#endif
}

}  // namespace rotkv::cuda::split
