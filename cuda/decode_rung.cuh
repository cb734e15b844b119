#pragma once
// What versions 3 to 6 of decode share, so that each of their files shows how cells come, and
// nothing else: queries as operands, the two products of a tile of 16 cells, the end.
//
// A warp owns one token and up to 8 query heads of one KV head. fragments.cuh says what
// mma.m16n8k16 wants of a lane; with g = lane / 4 and t = lane % 4 these are one load of 16 bytes,
// eight channels, for several products, because the sum's index and the rows of C may be numbered
// as one likes:
//
//     scores  C[cell][head] = K q~      of cells g and g + 8, channels 32 b + 8 t .. + 7
//         word      0    1  |  2    3          two products for 32 channels:
//         cell g    a0   a2 |  a0   a2         words 0 and 1 are A of the first, 2 and 3 of the
//         cell g+8  a1   a3 |  a1   a3         second; B has the same channels of q~, of head g
//
//     values  C[channel][head] += V^T p   of cells 2t, 2t+1, 2t+8, 2t+9, channels 64 j + 8 g .. + 7
//         word u of the four cells is A of product u, rows g and g + 8 of which are channels
//         64 j + 8 g + 2 u and the next one; four products for 64 channels
//
// In between, C of the scores is rounded to f16 and transposed by one instruction: B of the values.
// Docs: docs/05-attention.md

#include "cuda/decode_state.cuh"
#include "cuda/fragments.cuh"
#include "cuda/rung.cuh"

namespace rotkv::cuda::decode {

constexpr uint32_t k_tile = 16;  // cells

/// A warp's shared memory: rows [heads][D], first the queries and in the end the sums; what
/// finish_row takes; and from `ring` on what a version adds.
template <int D>
struct RungMemory {
    float rows[k_most_heads * D];
    float scratch[plain_floats(D)];
    alignas(16) std::byte ring[16];

    static constexpr uint32_t bytes(uint32_t ring_bytes) {
        return uint32_t(offsetof(RungMemory, ring)) + ring_bytes;
    }
};

/// 1 rotate the queries; they lie in memory.rows.
template <int D>
__device__ void rotate_into(RungMemory<D>& memory, const Task& task, const Place& at) {
    ask_for_queries(task, at, memory.rows);
    wait_for_groups<0>();
    rotate_queries(task, at, memory.rows);
}

/// q~ of head g as B of the scores; of heads that are none, 0.
template <int D>
__device__ void load_queries(uint32_t (&q)[D / 16][2], const float* rows, const Place& at) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* const x = rows + g * D + 32 * b + 8 * t + 2 * i;
            q[2 * b + i / 2][i % 2] = g < at.heads ? halves_of(x[0], x[1]) : 0;
        }
    }
}

/// Which of a tile's cells the token sees, as bits; `position`: of cell lane % 16.
__device__ inline uint32_t seen_cells(const Place& at, int32_t position) {
    return __ballot_sync(k_all_lanes, at.seen.holds(position)) & 0xFFFFu;
}

/// 2 score the cells. k(r, i): channels i .. i + 7 of cell r of the tile.
template <int D, class Row>
__device__ void score(float (&s)[4], const uint32_t (&q)[D / 16][2], const Row& k) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
        const uint4 x = k(g, 32 * b + 8 * t), y = k(g + 8, 32 * b + 8 * t);
        mma(s, {x.x, y.x, x.y, y.y}, q[2 * b]);
        mma(s, {x.z, y.z, x.w, y.w}, q[2 * b + 1]);
    }
}

/// 3 softmax: scores times to_power are powers of two; p as B of the values.
template <int D>
__device__ void take_scores(State<D>& state, float (&s)[4], uint32_t seen, float to_power,
                            uint32_t (&p)[2]) {
    const uint32_t g = lane_of_warp() / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        s[i] = fmaf(s[i], 0.0f, s[i]);  // infinite: a NaN, which nothing erases
        s[i] = (seen >> (g + i / 2 * 8) & 1) != 0 ? s[i] * to_power : -INFINITY;
    }
    state.take(s);
    p[0] = transposed(halves_of(s[0], s[1]));
    p[1] = transposed(halves_of(s[2], s[3]));
}

/// 4 sum the values. v(r, i): as k; 0 of cells that are not seen, which may hold a NaN.
template <int D, class Row>
__device__ void add_values(State<D>& state, const uint32_t (&p)[2], const Row& v) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
        const uint32_t i = 64 * j + 8 * g;
        const uint4 x = v(2 * t, i), y = v(2 * t + 1, i), z = v(2 * t + 8, i), w = v(2 * t + 9, i);
        const uint32_t rows[4][4] = {
            {x.x, y.x, z.x, w.x}, {x.y, y.y, z.y, w.y}, {x.z, y.z, z.z, w.z}, {x.w, y.w, z.w, w.w}};
#pragma unroll
        for (int u = 0; u < 4; ++u) {
            const Pair xy = pair_of_units(rows[u][0], rows[u][1]);
            const Pair zw = pair_of_units(rows[u][2], rows[u][3]);
            mma(state.o[4 * j + u], {xy.even, xy.odd, zw.even, zw.odd}, p);
        }
    }
}

/// The channel that row g, or (`lower`) g + 8, of product `step` of the values is.
__device__ inline uint32_t channel_of(int step, bool lower) {
    return step / 4 * 64 + lane_of_warp() / 4 * 8 + step % 4 * 2 + lower;
}

/// The end of all heads: sums to shared memory, a row a head; 5 rotate back, store.
/// channel(step, lower): as channel_of.
template <int D, class Channel>
__device__ void end_heads(const Task& task, const Place& at, State<D>& state, RungMemory<D>& memory,
                          const Channel& channel) {
    const uint32_t t = lane_of_warp() % 4;
#pragma unroll
    for (float& total : state.total) {
        for (unsigned h = 4; h < k_warp; h *= 2) total += partner(total, h);
    }
    __syncwarp();  // the queries have been read
#pragma unroll
    for (int i = 0; i < D / 4; ++i) {
        const uint32_t head = 2 * t + i % 2;
        if (head >= at.heads) continue;
        memory.rows[head * D + channel(i / 4, i / 2 % 2 != 0)] = state.o[i / 4][i % 4];
    }
    __syncwarp();
    for (uint32_t g = 0; g < at.heads; ++g) {  // lane g / 2 knows heads g and g + 1, g even
        const bool odd = g % 2 != 0;
        const float top = __shfl_sync(k_all_lanes, odd ? state.top[1] : state.top[0], int(g / 2));
        const float total =
            __shfl_sync(k_all_lanes, odd ? state.total[1] : state.total[0], int(g / 2));
        finish_row(task, at.t, at.first_head + g, memory.rows + g * D,
                   (top - k_headroom<1>) / k_log2_e, total, memory.scratch);
    }
}

}  // namespace rotkv::cuda::decode
