#pragma once
// What a team's warps (decode_tiles.cuh) hold and tell each other, and their two products.
//
//   scores   a warp multiplies K of its own 16 cells with the queries of all rows, 8 at a time,
//            which lie in shared memory
//   values   a warp adds up its own channels, D_v / Team, over the cells of all members and for all
//            rows: as many sums as a warp alone has of all channels for 8 rows
//
// So each code is expanded by one warp, once. In between p goes through shared memory. What p is
// relative to must be the same for the team: a LIMIT for each row. Members meet before they compute
// p; if one has scores beyond a limit, all take a higher one. It has some room, so that this is
// rare: p reaches 2^10, and p d ends with d = 64 (attention_plain.cuh takes over there).
//
// Codes are expanded to the numbers that they stand for, counted from their zero: a few more
// instructions for a code, one product less for each 8 rows.
// Docs: docs/05-attention.md

#include "cuda/decode_queries.cuh"

namespace rotkv::cuda::decode {

/// A team's queries in shared memory: what the lane multiplies of rows g, g + 8, ...
template <int D_k>
struct TeamQueries {
    const std::byte* lane;

    __device__ TeamQueries(const DecodeJob& job, const DecodePlace& at, std::byte* memory)
        : lane(reinterpret_cast<const std::byte*>(
              QueryRows(job, memory)
                  .four(at.head_of_band, lane_of_warp() / 4, lane_of_warp() % 4 * 4))) {}
    // B of 16 channels and 8 rows.
    __device__ const uint2& of(int step, int column) const {
        constexpr int pitch = D_k * 2 + 32;
        return *reinterpret_cast<const uint2*>(lane + column * k_most_heads * pitch + step * 32);
    }
};

/// What the members of a team tell each other; `own` is the warp's part.
template <int Team>
struct Exchange {
    std::byte *team, *own;
    uint32_t barrier;

    static constexpr uint32_t k_bytes = Team * (k_warp * 8 + 32);  // DecodeJob::exchange_bytes

    // The barriers behind the slices'; a slice that is one team has its own twice.
    __device__ Exchange(const DecodeJob& job, const DecodePlace& at, std::byte* memory)
        : team(memory + job.exchange_offset() +
               (at.slice * job.band + at.head_of_band) * Team * k_bytes),
          own(team + at.member * k_bytes),
          barrier(1 + at.slice +
                  (job.band == 1 ? 0 : job.slices + at.slice * (job.band - 1) + at.head_of_band)) {}

    // p as B of member's cells and 8 rows.
    __device__ uint2& weights(uint32_t member, int column) const {
        return reinterpret_cast<uint2*>(team + member * k_bytes)[column * k_warp + lane_of_warp()];
    }
    // Of rows 2t and 2t + 1 of 8.
    __device__ float2& limits(uint32_t member, int column) const {
        std::byte* const limits = team + member * k_bytes + Team * k_warp * 8;
        return reinterpret_cast<float2*>(limits)[column * 4 + lane_of_warp() % 4];
    }
    __device__ void clear_limits(uint32_t member) const {
#pragma unroll
        for (int c = 0; c < Team; ++c) limits(member, c) = {-FLT_MAX, -FLT_MAX};
    }
    // All have stored.
    __device__ void wait() const { wait_for_group(barrier, Team * k_warp); }
    // ... and does one of them say yes?
    __device__ bool any(bool says) const { return any_of_group(barrier, Team * k_warp, says); }
};

/// A member's sums, and its cells' share of the softmax, as State is a lone warp's.
template <int D_v, int Team>
struct TeamState {
    static constexpr int k_steps = D_v / 16 / Team;
    static constexpr float k_room = 4;  // of a limit, above the largest score when it was set
    float o[k_steps][Team][4] = {};     // C of 16 channels and 8 rows each
    float limit[Team][2], total[Team][2] = {};  // of rows 2t and 2t + 1 of 8

    __device__ TeamState() {
#pragma unroll
        for (int c = 0; c < Team; ++c) limit[c][0] = limit[c][1] = -FLT_MAX;
    }

    __device__ bool is_exceeded_by(const float (&s)[Team][4]) const {
        bool is_exceeded = false;
#pragma unroll
        for (int c = 0; c < Team; ++c) {
            is_exceeded = is_exceeded || fmaxf(s[c][0], s[c][2]) > limit[c][0] ||
                          fmaxf(s[c][1], s[c][3]) > limit[c][1];
        }
        return __any_sync(k_all_lanes, is_exceeded);
    }

    // 3 softmax: scores, as powers of two, become p.
    __device__ void take(float (&s)[Team][4]) {
#pragma unroll
        for (int c = 0; c < Team; ++c) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                s[c][i] = power_of_two(s[c][i] - (limit[c][i % 2] - k_room - k_headroom<1>));
                total[c][i % 2] += s[c][i];
            }
        }
    }

    // Limits that hold these scores, for the team.
    __device__ void tell_limits(const float (&s)[Team][4], const Exchange<Team>& exchange,
                                uint32_t member) const {
#pragma unroll
        for (int c = 0; c < Team; ++c) {
            float most[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                most[i] = fmaxf(s[c][i], s[c][i + 2]);
#pragma unroll
                for (unsigned h = 4; h < k_warp; h *= 2) {  // lanes of the same rows
                    most[i] = fmaxf(most[i], partner(most[i], h));
                }
                most[i] = fmaxf(limit[c][i], most[i] + k_room);
            }
            if (lane_of_warp() < 4) exchange.limits(member, c) = {most[0], most[1]};
        }
    }

    // The largest that members have told become the limits of all; what one has told before is no
    // larger than they are.
    __device__ void raise(const Exchange<Team>& exchange) {
#pragma unroll
        for (int c = 0; c < Team; ++c) {
            float most[2] = {limit[c][0], limit[c][1]};
#pragma unroll
            for (int m = 0; m < Team; ++m) {
                const float2 of_member = exchange.limits(m, c);
                most[0] = fmaxf(most[0], of_member.x);
                most[1] = fmaxf(most[1], of_member.y);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float shrink = power_of_two(limit[c][i] - most[i]);
                limit[c][i] = most[i];
                total[c][i] *= shrink;
#pragma unroll
                for (int step = 0; step < k_steps; ++step) {
                    o[step][c][i] *= shrink;
                    o[step][c][i + 2] *= shrink;
                }
            }
        }
    }
};

// ---- s[cell][row] = K q: x and y are the rows of the warp's cells g and g + 8 ----

template <class Block, int D_k, int Team>
__device__ void score_for_team(float (&s)[Team][4], const TeamQueries<D_k>& q,
                               const CodeConstants& constants, const TwoRows& rows) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int b = 0; b < D_k / 32; ++b) {
        const Block &x = reinterpret_cast<const Block*>(rows.x)[b],
                    &y = reinterpret_cast<const Block*>(rows.y)[b];
        const Codes of_x = numbers_of(x, i, x, i + 2), of_y = numbers_of(y, i, y, i + 2);
        const float d[2] = {f16_to_f32(x.d), f16_to_f32(y.d)};
#pragma unroll
        for (int c = 0; c < Team; ++c) {
            const uint2 low = q.of(2 * b, c), high = q.of(2 * b + 1, c);
            float sum[4] = {};
            mma(sum, {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd}, {low.x, low.y});
            mma(sum, {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd},
                {high.x, high.y});
#pragma unroll
            for (int j = 0; j < 4; ++j) s[c][j] = fmaf(d[j / 2], sum[j], s[c][j]);
            if constexpr (k_has_minimum<Block>) {
                const float2 sum_of_q = constants.k[(b * Team + c) * 4 + lane_of_warp() % 4];
                const float m[2] = {f16_to_f32(x.m), f16_to_f32(y.m)};
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    s[c][j] = fmaf(m[j / 2], j % 2 == 0 ? sum_of_q.x : sum_of_q.y, s[c][j]);
                }
            }
        }
    }
}

// ---- o[channel][row] += V^T p: the rows of cells 2t, 2t + 1, 2t + 8, 2t + 9 of a member ----

template <class Block, int D_v, int Team>
__device__ void add_for_team(TeamState<D_v, Team>& state, const uint2 (&p)[Team],
                             const FourRows& rows, uint32_t first_block) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const auto block = [&](const std::byte* row, int b) -> const Block& {
        return reinterpret_cast<const Block*>(row)[first_block + b];
    };
#pragma unroll
    for (int b = 0; b < D_v / 32 / Team; ++b) {
        const Block &x = block(rows.x, b), &y = block(rows.y, b), &z = block(rows.z, b),
                    &w = block(rows.w, b);
        const Codes xy = numbers_of(x, i, y, i), zw = numbers_of(z, i, w, i);
        const uint32_t d[2] = {both(x.d, y.d), both(z.d, w.d)};
#pragma unroll
        for (int c = 0; c < Team; ++c) {
            float(&low)[4] = state.o[2 * b][c], (&high)[4] = state.o[2 * b + 1][c];
            const uint32_t pd[2] = {product(p[c].x, d[0]), product(p[c].y, d[1])};
            mma(low, {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd}, pd);
            mma(high, {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd}, pd);
            if constexpr (k_has_minimum<Block>) {
                constexpr uint32_t one = k_one_and_one;
                const uint32_t pm[2] = {product(p[c].x, both(x.m, y.m)),
                                        product(p[c].y, both(z.m, w.m))};
                mma(low, {one, one, one, one}, pm);
                mma(high, {one, one, one, one}, pm);
            }
        }
    }
}

/// Types in blocks of 32 codes; asked once a tile, as in decode_cells.cuh.
template <class Visit>
__device__ void visit_blocks(DType type, const Visit& visit) {
    // clang-format off
    switch (type) {
        case DType::q8_0: return visit(BlockQ8_0{});
        case DType::q5_1: return visit(BlockQ5_1{});
        case DType::q5_0: return visit(BlockQ5_0{});
        case DType::q4_1: return visit(BlockQ4_1{});
        case DType::q4_0: return visit(BlockQ4_0{});
        case DType::iq4_nl: return visit(BlockIq4Nl{});
        case DType::f32: case DType::f16: case DType::bf16:
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // team_plan has refused every other type
}

}  // namespace rotkv::cuda::decode
