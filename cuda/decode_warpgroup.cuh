#pragma once
// What a warpgroup holds of its rows, what its warps tell each other, and their two products.
//
//   scores   S [64 cells][rows] = K q~^T: K's codes become numbers in registers, as A of 64 rows;
//            a warp has 16 cells
//   values   O [128 channels][rows] += V^T p: the same with V; a warp has a block of 32 channels of
//            all 64 cells, lower ones in one product and higher ones in another
//
// B, the queries and p, lies in shared memory, so that a product of 64 rows costs a warp one
// instruction. p is relative to a LIMIT of each row, the same for all warps, as a team's is
// (decode_team.cuh).
// Docs: docs/05-attention.md

#include "cuda/decode_team.cuh"
#include "cuda/decode_warpgroup_tiles.cuh"
#include "cuda/prefill_wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::decode {

using prefill::begin_products;
using prefill::end_products;
using prefill::Fragment;
using prefill::hold;
using prefill::Operand;
using prefill::wait_for_products;

// C (+)= A B of 8 Columns rows: A [64][16] in registers, B [rows][16] in shared memory, the sum's
// index innermost; add = 0: C = A B.
// clang-format off
#define ROTKV_C(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define ROTKV_ROWS(columns, rows, c_names, a_names, b_name, add_name, ...)                       \
    __device__ inline void multiply_rows(float (&c)[columns][4], const Fragment& a, uint64_t b, \
                                         int add) {                                             \
        asm volatile("{.reg .pred add;\n setp.ne.b32 add, " add_name ", 0;\n"                   \
                     "wgmma.mma_async.sync.aligned.m64n" #rows "k16.f32.f16.f16 {" c_names      \
                     "}, {" a_names "}, " b_name ", add, 1, 1, 0;}\n"                           \
                     : __VA_ARGS__                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));           \
    }
ROTKV_ROWS(1, 8, "%0, %1, %2, %3", "%4, %5, %6, %7", "%8", "%9", ROTKV_C(0))
ROTKV_ROWS(2, 16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8, %9, %10, %11", "%12", "%13",
           ROTKV_C(0), ROTKV_C(1))
ROTKV_ROWS(4, 32, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15",
           "%16, %17, %18, %19", "%20", "%21", ROTKV_C(0), ROTKV_C(1), ROTKV_C(2), ROTKV_C(3))
ROTKV_ROWS(8, 64, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
           "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31",
           "%32, %33, %34, %35", "%36", "%37", ROTKV_C(0), ROTKV_C(1), ROTKV_C(2), ROTKV_C(3),
           ROTKV_C(4), ROTKV_C(5), ROTKV_C(6), ROTKV_C(7))
#undef ROTKV_C
#undef ROTKV_ROWS
// clang-format on

/// Codes as the values that they stand for in f16, of blocks x and y: d (u - zero), or d u + m.
template <class Block>
__device__ Codes values_of(const Codes& u, uint32_t d, uint32_t m) {
    const auto value = [&](uint32_t x) {
        if constexpr (k_has_minimum<Block>) return bits(__hfma2(halves(x), halves(d), halves(m)));
        return product(x, d);
    };
    return {{value(u.low.even), value(u.low.odd)}, {value(u.high.even), value(u.high.odd)}};
}
template <class Block>
__device__ uint32_t minimum_of(const Block& x, const Block& y) {
    if constexpr (k_has_minimum<Block>) return both(x.m, y.m);
    return 0;
}

/// Limits of rows: of each warp its own copy, and what it asks for.
template <int Columns>
struct GroupExchange {
    float2 *limits, *asked;  // [columns][4], of rows 2t and 2t + 1
    uint32_t barrier;

    __device__ GroupExchange(const WarpgroupJob& job, const DecodePlace& at, std::byte* memory)
        : limits(reinterpret_cast<float2*>(memory + job.exchange_at() +
                                           threadIdx.x / k_warp * job.exchange_size())),
          asked(limits + Columns * 4),
          barrier(1 + at.slice) {
        if (lane_of_warp() < 4) {
            for (int c = 0; c < Columns; ++c) limit(c) = asked[c * 4 + lane_of_warp()] = {-FLT_MAX, -FLT_MAX};
        }
        __syncwarp();
    }
    __device__ float2& limit(int c) const { return limits[c * 4 + lane_of_warp() % 4]; }
    // What the warp so many before this one asks for.
    __device__ float2 asked_by(uint32_t member, uint32_t own, int c) const {
        const float2* const theirs = asked + (int(member) - int(own)) * Columns * 8;
        return theirs[c * 4 + lane_of_warp() % 4];
    }
    __device__ void wait() const { wait_for_group(barrier, k_group_threads); }
    __device__ bool any(bool says) const {
        return any_of_group(barrier, k_group_threads, says);
    }
};

/// A warp's sums, and its cells' share of the softmax.
template <int Columns>
struct GroupState {
    static constexpr float k_room = 4;  // of a limit, above the largest score when it was set
    float o[2][Columns][4] = {};        // lower, higher 16 channels of the warp's block
    float total[Columns][2] = {};       // of rows 2t and 2t + 1 of 8

    __device__ static bool is_exceeded_by(const float (&s)[Columns][4],
                                          const GroupExchange<Columns>& exchange) {
        bool is_exceeded = false;
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
            const float2 limit = exchange.limit(c);
            is_exceeded = is_exceeded || fmaxf(s[c][0], s[c][2]) > limit.x ||
                          fmaxf(s[c][1], s[c][3]) > limit.y;
        }
        return __any_sync(k_all_lanes, is_exceeded);
    }

    // Limits that hold these scores.
    __device__ static void ask(const float (&s)[Columns][4],
                               const GroupExchange<Columns>& exchange) {
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
            float most[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                most[i] = fmaxf(s[c][i], s[c][i + 2]);
#pragma unroll
                for (unsigned h = 4; h < k_warp; h *= 2) {  // lanes of the same rows
                    most[i] = fmaxf(most[i], partner(most[i], h));
                }
            }
            if (lane_of_warp() < 4) {
                exchange.asked[c * 4 + lane_of_warp()] = {most[0] + k_room, most[1] + k_room};
            }
        }
    }

    // The largest of all that was asked for.
    __device__ void raise(const GroupExchange<Columns>& exchange, uint32_t own) {
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
            const float2 limit = exchange.limit(c);
            float2 most = limit;
#pragma unroll
            for (uint32_t m = 0; m < k_group_warps; ++m) {
                const float2 asked = exchange.asked_by(m, own, c);
                most = {fmaxf(most.x, asked.x), fmaxf(most.y, asked.y)};
            }
            const float shrink[2] = {power_of_two(limit.x - most.x),
                                     power_of_two(limit.y - most.y)};
            __syncwarp();
            exchange.limit(c) = most;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                total[c][i] *= shrink[i];
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    o[half][c][i] *= shrink[i];
                    o[half][c][i + 2] *= shrink[i];
                }
            }
        }
        __syncwarp();
    }

    // 3 softmax: scores, as powers of two, become p.
    __device__ void take(float (&s)[Columns][4], const GroupExchange<Columns>& exchange) {
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
            const float2 limit = exchange.limit(c);
            const float base[2] = {limit.x - k_room - k_headroom<1>,
                                   limit.y - k_room - k_headroom<1>};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[c][i] = power_of_two(s[c][i] - base[i % 2]);
                total[c][i % 2] += s[c][i];
            }
        }
    }
};

/// p of the warp's cells into the warpgroup's [rows][64 cells] at `p`.
template <int Columns>
__device__ void store_p(const float (&s)[Columns][4], uint32_t p, uint32_t member) {
    const uint32_t lane = lane_of_warp();
    constexpr int k_at_once = Columns == 1 ? 1 : 2;
    const uint32_t row = lane % 8 + (k_at_once == 2 ? lane / 16 * 8 : 0);
    const uint32_t piece = member * 2 + lane / 8 % 2;
    const uint32_t to = p + row * 128 + (piece ^ row % 8) * 16;
#pragma unroll
    for (int c = 0; c < Columns; c += k_at_once) {
        const uint32_t a = halves_of(s[c][0], s[c][1]), b = halves_of(s[c][2], s[c][3]);
        if constexpr (k_at_once == 1) {
            asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};"
                         :
                         : "r"(to), "r"(a), "r"(b)
                         : "memory");
        } else {
            const uint32_t x = halves_of(s[c + 1][0], s[c + 1][1]),
                           y = halves_of(s[c + 1][2], s[c + 1][3]);
            asm volatile(
                "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                :
                : "r"(to + c * 1024), "r"(a), "r"(b), "r"(x), "r"(y)
                : "memory");
        }
    }
}

#ifndef ROTKV_X
#define ROTKV_X 1
#endif

/// B of 16 of the sum's indices and 16 rows, 8 at a time, from a panel [rows][64] at `panel`.
__device__ inline void load_b(uint32_t (&b)[4], uint32_t panel, uint32_t step) {
    const uint32_t lane = lane_of_warp(), row = lane % 8 + lane / 16 * 8;
    const uint32_t at = panel + row * 128 + ((lane / 8 % 2 ^ lane % 8) * 16 ^ step * 32);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(at)
                 : "memory");
}

// ---- s[cell][row] = K q: x and y are the rows of the warp's cells g and g + 8 ----

template <class Block, int Columns>
__device__ void score_for_group(float (&s)[Columns][4], const Operand& q, const TwoRows& rows,
                                uint32_t q_address) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#if ROTKV_X != 2
    hold(s);
#else
#pragma unroll
    for (int c = 0; c < Columns; ++c) s[c][0] = s[c][1] = s[c][2] = s[c][3] = 0;
#endif
#if ROTKV_X == 1
    Fragment low[4], high[4];
#endif
#pragma unroll
    for (int b = 0; b < 4; ++b) {
        const Block &x = reinterpret_cast<const Block*>(rows.x)[b],
                    &y = reinterpret_cast<const Block*>(rows.y)[b];
        const Codes of_x =
                        values_of<Block>(numbers_of(x, i, x, i + 2), both(x.d, x.d), minimum_of(x, x)),
                    of_y = values_of<Block>(numbers_of(y, i, y, i + 2), both(y.d, y.d),
                                            minimum_of(y, y));
        const Fragment l = {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd},
                       h = {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd};
#if ROTKV_X == 1
        for (int k = 0; k < 4; ++k) low[b][k] = l[k], high[b][k] = h[k];
#elif ROTKV_X == 2
        const uint32_t panel = q_address + b / 2 * Columns * 1024;
#pragma unroll
        for (int c = 0; c < Columns; c += 2) {
            uint32_t one[4], two[4];
            load_b(one, panel + c * 1024, b % 2 * 2);
            load_b(two, panel + c * 1024, b % 2 * 2 + 1);
            mma(s[c], l, {one[0], one[1]});
            mma(s[c + 1], l, {one[2], one[3]});
            mma(s[c], h, {two[0], two[1]});
            mma(s[c + 1], h, {two[2], two[3]});
        }
#else
        const uint32_t at = b / 2 * Columns * 1024 + b % 2 * 64;
        begin_products();
        multiply_rows(s, l, q.at(at), b != 0);
        multiply_rows(s, h, q.at(at + 32), 1);
#endif
    }
#if ROTKV_X == 1
    begin_products();
#pragma unroll
    for (int b = 0; b < 4; ++b) {
        const uint32_t at = b / 2 * Columns * 1024 + b % 2 * 64;
        multiply_rows(s, low[b], q.at(at), b != 0);
        multiply_rows(s, high[b], q.at(at + 32), 1);
    }
#endif
#if ROTKV_X != 2
    end_products();
    wait_for_products<0>();
    hold(s);
#endif
}

// ---- o[channel][row] += V^T p: the rows of cells 2t, 2t + 1, 2t + 8, 2t + 9 ----

template <class Block, int Columns>
__device__ void add_for_group(GroupState<Columns>& state, const Operand& p, FourRows rows,
                              uint32_t pitch, uint32_t of_block, uint32_t p_address) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const auto block = [&](const std::byte* row) -> const Block& {
        return reinterpret_cast<const Block*>(row)[of_block];
    };
#if ROTKV_X != 2
    hold(state.o[0]);
    hold(state.o[1]);
#endif
#if ROTKV_X == 1
    Fragment lows[4], highs[4];
#endif
#pragma unroll
    for (uint32_t step = 0; step < k_group_cells / 16; ++step) {
        const uint32_t on = step * 16 * pitch;
        const Block &x = block(rows.x + on), &y = block(rows.y + on), &z = block(rows.z + on),
                    &w = block(rows.w + on);
        const Codes xy = values_of<Block>(numbers_of(x, i, y, i), both(x.d, y.d), minimum_of(x, y)),
                    zw = values_of<Block>(numbers_of(z, i, w, i), both(z.d, w.d), minimum_of(z, w));
        const Fragment low = {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd},
                       high = {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd};
#if ROTKV_X == 1
        for (int k = 0; k < 4; ++k) lows[step][k] = low[k], highs[step][k] = high[k];
#elif ROTKV_X == 2
#pragma unroll
        for (int c = 0; c < Columns; c += 2) {
            uint32_t b[4];
            load_b(b, p_address + c * 1024, step);
            mma(state.o[0][c], low, {b[0], b[1]});
            mma(state.o[1][c], high, {b[0], b[1]});
            mma(state.o[0][c + 1], low, {b[2], b[3]});
            mma(state.o[1][c + 1], high, {b[2], b[3]});
        }
#else
        begin_products();
        multiply_rows(state.o[0], low, p.at(step * 32), 1);
        multiply_rows(state.o[1], high, p.at(step * 32), 1);
#endif
    }
#if ROTKV_X == 1
    begin_products();
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
        multiply_rows(state.o[0], lows[step], p.at(step * 32), 1);
        multiply_rows(state.o[1], highs[step], p.at(step * 32), 1);
    }
#endif
#if ROTKV_X != 2
    end_products();
    wait_for_products<0>();
    hold(state.o[0]);
    hold(state.o[1]);
#endif
}

}  // namespace rotkv::cuda::decode

#endif
