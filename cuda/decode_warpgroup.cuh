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
using prefill::wait_for_products;

// B [rows][64] in shared memory at an address, the sum's index innermost: its low word says where,
// in units of 16 bytes (prefill_wgmma.cuh).
struct SharedRows {
    uint32_t low;
    explicit __device__ SharedRows(uint32_t address) : low((address & 0x3FFFFu) / 16) {}
    __device__ uint32_t at(uint32_t bytes) const { return low + bytes / 16; }
};

__device__ inline void set(Fragment& a, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    a[0] = x, a[1] = y, a[2] = z, a[3] = w;
}

// C (+)= A B of 8 Columns rows: A [64][16] in registers, B [rows][16] in shared memory, the sum's
// index innermost; add = 0: C = A B.
// clang-format off
#define ROTKV_C(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define ROTKV_ROWS(columns, rows, c_names, a_names, b_name, add_name, ...)                       \
    __device__ inline void multiply_rows(float (&c)[columns][4], const Fragment& a, uint32_t b, \
                                         int add) {                                             \
        asm volatile("{.reg .pred add;\n .reg .b64 b;\n mov.b64 b, {" b_name ", 0x40000040};\n"   \
                     "setp.ne.b32 add, " add_name ", 0;\n"                                     \
                     "wgmma.mma_async.sync.aligned.m64n" #rows "k16.f32.f16.f16 {" c_names      \
                     "}, {" a_names "}, b, add, 1, 1, 0;}\n"                           \
                     : __VA_ARGS__                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(add));           \
    }
ROTKV_ROWS(2, 16, "%0, %1, %2, %3, %4, %5, %6, %7", "%8, %9, %10, %11", "%12", "%13",
           ROTKV_C(0), ROTKV_C(1))
ROTKV_ROWS(4, 32, "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15",
           "%16, %17, %18, %19", "%20", "%21", ROTKV_C(0), ROTKV_C(1), ROTKV_C(2), ROTKV_C(3))
#undef ROTKV_C
#undef ROTKV_ROWS
// clang-format on

/// The values that codes stand for, rounded to f16: d (code - zero), or d code + m.
template <class Block>
__device__ Codes values_of(const Block& x, uint32_t i, const Block& y, uint32_t j) {
    const Codes u = numbers_of(x, i, y, j);
    const __half2 d = halves(both(x.d, y.d));
    const auto value = [&](uint32_t pair) {
        if constexpr (k_has_minimum<Block>) {
            return bits(__hfma2(halves(pair), d, halves(both(x.m, y.m))));
        } else {
            return bits(__hmul2_rn(halves(pair), d));
        }
    };
    return {{value(u.low.even), value(u.low.odd)}, {value(u.high.even), value(u.high.odd)}};
}

/// Limits of rows: each warp has its own copy, and says what it asks for.
template <int Columns>
struct GroupExchange {
    float2 *limits, *asked;  // of the warp, [columns][4]: of rows 2t and 2t + 1 of 8
    const float2* asked_by_first;
    uint32_t barrier;

    __device__ GroupExchange(const WarpgroupJob& job, const DecodePlace& at, std::byte* memory)
        : limits(reinterpret_cast<float2*>(memory + job.limits_of_warps()) +
                 threadIdx.x / k_warp * k_of_warp),
          asked(limits + Columns * 4),
          asked_by_first(asked - at.member * k_of_warp),
          barrier(1 + at.slice) {
        if (lane_of_warp() < 4) {
#pragma unroll
            for (int c = 0; c < Columns; ++c) limit(c) = mine(c) = {-FLT_MAX, -FLT_MAX};
        }
        __syncwarp();
    }
    __device__ float2& limit(int c) const { return limits[c * 4 + lane_of_warp() % 4]; }
    __device__ float2& mine(int c) const { return asked[c * 4 + lane_of_warp() % 4]; }
    __device__ const float2& asked_by(uint32_t member, int c) const {
        return asked_by_first[member * k_of_warp + c * 4 + lane_of_warp() % 4];
    }
    // All have stored.
    __device__ void wait() const { wait_for_group(barrier, k_group_threads); }
    // ... and does one of them say yes?
    __device__ bool any(bool says) const { return any_of_group(barrier, k_group_threads, says); }

  private:
    static constexpr uint32_t k_of_warp = 2 * Columns * 4;  // WarpgroupJob::limit_bytes
};

/// A warp's sums, and its cells' share of the softmax.
template <int Columns>
struct GroupState {
    static constexpr float k_room = 4;  // of a limit, above the largest score when it was set
    static constexpr float k_above = k_room + k_headroom<1>;  // p = 2^(s - limit + k_above)
    float o[2][Columns][4] = {};   // C: lower, higher 16 channels of the warp's block
    float total[Columns][2] = {};  // of rows 2t and 2t + 1 of 8

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
            if (lane_of_warp() < 4) exchange.mine(c) = {most[0] + k_room, most[1] + k_room};
        }
    }

    // The largest of all that was asked for: what was asked for before is no larger than limits.
    __device__ void raise(const GroupExchange<Columns>& exchange) {
#pragma unroll
        for (int c = 0; c < Columns; ++c) {
            const float2 limit = exchange.limit(c);
            float2 most = limit;
#pragma unroll
            for (uint32_t m = 0; m < k_group_warps; ++m) {
                const float2 asked = exchange.asked_by(m, c);
                most = {fmaxf(most.x, asked.x), fmaxf(most.y, asked.y)};
            }
            const float shrink[2] = {power_of_two(limit.x - most.x),
                                     power_of_two(limit.y - most.y)};
            __syncwarp();  // all lanes have read the limit
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
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[c][i] = power_of_two(s[c][i] - ((i % 2 == 0 ? limit.x : limit.y) - k_above));
                total[c][i % 2] += s[c][i];
            }
        }
    }
};

/// p of the warp's cells, in f16, to the warpgroup's [rows][64 cells] at `p`: 16 cells of 16 rows
/// at a time.
template <int Columns>
__device__ void store_p(const float (&s)[Columns][4], uint32_t p, uint32_t member) {
    const uint32_t lane = lane_of_warp(), row = lane % 8 + lane / 16 * 8;
    const uint32_t piece = member * 2 + lane / 8 % 2;
    const uint32_t to = p + row * 128 + (piece ^ row % 8) * 16;
#pragma unroll
    for (int c = 0; c < Columns; c += 2) {
        asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                     :
                     : "r"(to + c * 1024), "r"(halves_of(s[c][0], s[c][1])),
                       "r"(halves_of(s[c][2], s[c][3])), "r"(halves_of(s[c + 1][0], s[c + 1][1])),
                       "r"(halves_of(s[c + 1][2], s[c + 1][3]))
                     : "memory");
    }
}

// ---- s[cell][row] = K q: x and y are the rows of the warp's cells g and g + 8 ----

template <class Block, int Columns>
__device__ void score_for_group(float (&s)[Columns][4], const SharedRows& q, const TwoRows& rows) {
    constexpr int k_blocks = k_group_head / 32;
    const uint32_t i = lane_of_warp() % 4 * 4;
    Fragment k[2 * k_blocks];  // of 16 channels each
#pragma unroll
    for (int b = 0; b < k_blocks; ++b) {
        const Block &x = reinterpret_cast<const Block*>(rows.x)[b],
                    &y = reinterpret_cast<const Block*>(rows.y)[b];
        const Codes of_x = values_of(x, i, x, i + 2), of_y = values_of(y, i, y, i + 2);
        set(k[2 * b], of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd);
        set(k[2 * b + 1], of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd);
    }
    hold(s);
    begin_products();
#pragma unroll
    for (int step = 0; step < 2 * k_blocks; ++step) {
        multiply_rows(s, k[step], q.at(step / 4 * Columns * 1024 + step % 4 * 32), step);
    }
    end_products();
    wait_for_products<0>();
    hold(s);
}

// ---- o[channel][row] += V^T p: the rows of cells 2t, 2t + 1, 2t + 8, 2t + 9 of each 16 ----

template <class Block, int Columns>
__device__ void add_for_group(GroupState<Columns>& state, const SharedRows& p, const FourRows& rows,
                              uint32_t pitch, uint32_t of_block) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const auto block = [&](const std::byte* row, int step) -> const Block& {
        return reinterpret_cast<const Block*>(row + step * k_cells * pitch)[of_block];
    };
    Fragment low[k_group_warps], high[k_group_warps];
#pragma unroll
    for (int step = 0; step < int(k_group_warps); ++step) {
        const Codes xy = values_of(block(rows.x, step), i, block(rows.y, step), i),
                    zw = values_of(block(rows.z, step), i, block(rows.w, step), i);
        set(low[step], xy.low.even, xy.low.odd, zw.low.even, zw.low.odd);
        set(high[step], xy.high.even, xy.high.odd, zw.high.even, zw.high.odd);
    }
    hold(state.o[0]);
    hold(state.o[1]);
    begin_products();
#pragma unroll
    for (int step = 0; step < int(k_group_warps); ++step) {
        multiply_rows(state.o[0], low[step], p.at(step * 32), 1);
        multiply_rows(state.o[1], high[step], p.at(step * 32), 1);
    }
    end_products();
    wait_for_products<0>();
    hold(state.o[0]);
    hold(state.o[1]);
}

}  // namespace rotkv::cuda::decode

#endif
