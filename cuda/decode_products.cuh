#pragma once
// The two products of attention with a tile of 16 cells: scores and values, from rows of the cache
// in shared memory, with q~ and p in one f16 (decode_terms.cuh: in two). Which lane holds what is
// said in fragments.cuh, and why what comes of codes is too small by k_code (and k_high): scores
// are put right at once, sums of values in the end.
// Docs: docs/05-attention.md

#include "cuda/decode_tiles.cuh"

namespace rotkv::cuda::decode {

// q~ as B (fragments.cuh), as `Terms` f16 that add up to it; and what scores are to be multiplied
// by, of heads 2t and 2t + 1.
template <int Terms, int Steps>
struct Query {
    uint32_t x[Terms][Steps][2];
    float unit[2] = {1, 1};
};

// p as B: of cells 2t, 2t + 1, 2t + 8, 2t + 9, of head g.
template <int Terms>
struct Weights;
template <>
struct Weights<1> {
    uint32_t x[2];

    __device__ void set(const float (&p)[4]) {
        x[0] = transposed(halves_of(p[0], p[1]));
        x[1] = transposed(halves_of(p[2], p[3]));
    }
};
template <>
struct Weights<2> {
    float x[4];

    __device__ void set(const float (&p)[4]) {
        transpose(p[0], p[1], x[0], x[1]);
        transpose(p[2], p[3], x[2], x[3]);
    }
};

// What products with codes need besides them, in shared memory.
struct CodeConstants {
    uint4* v;   // as operands, of lower and of higher channels. Immediates would be made anew for
                // each product
    float2* k;  // [block][t], the constant times the sum of q, for heads 2t and 2t + 1

    // `of`: whose sums of q, the KV head's or the warp's.
    __device__ CodeConstants(const DecodeJob& job, uint32_t of, std::byte* memory)
        : v(reinterpret_cast<uint4*>(memory + job.constants_offset())),
          k(reinterpret_cast<float2*>(memory + job.sums_offset() + of * job.sum_bytes())) {}

    __device__ void store_v(const CodeUnits& codes) const {
        if (threadIdx.x >= 2) return;
        const uint32_t x = codes.constant[threadIdx.x];
        v[threadIdx.x] = {x, x, x, x};
    }
    __device__ const float2& of_block(int b) const { return k[b * 4 + lane_of_warp() % 4]; }
};

__device__ inline void add_scaled(float (&x)[4], float a, const float (&y)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = fmaf(a, y[j], x[j]);
}

// How many blocks Steps of 16 channels are; a head of an odd number has none.
template <int Steps>
constexpr int k_blocks_of = Steps % 2 == 0 ? Steps / 2 : 0;

// ---- s[cell][head] = K q: x and y are the rows of cells g and g + 8. Steps of 16 channels ----

template <class Block, int Steps>
__device__ void score_blocks(float (&s)[4], const Query<1, Steps>& q,
                             const CodeConstants& constants, const TwoRows& rows) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int b = 0; b < k_blocks_of<Steps>; ++b) {
        const Block &x = reinterpret_cast<const Block*>(rows.x)[b],
                    &y = reinterpret_cast<const Block*>(rows.y)[b];
        const Codes of_x = codes_of(x, i, x, i + 2), of_y = codes_of(y, i, y, i + 2);
        const float2 constant = constants.of_block(b);
        float sum[4] = {}, high[4] = {};
        if constexpr (!k_has_minimum<Block>) {
            sum[0] = sum[2] = constant.x;
            sum[1] = sum[3] = constant.y;
        }
        mma(sum, {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd}, q.x[0][2 * b]);
        mma(k_high<Block> == 1 ? sum : high,
            {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd}, q.x[0][2 * b + 1]);
        if constexpr (k_high<Block> != 1) add_scaled(sum, 1.0f / k_high<Block>, high);
        const float d_x = f16_to_f32(x.d), d_y = f16_to_f32(y.d);
        s[0] = fmaf(d_x, sum[0], s[0]);
        s[1] = fmaf(d_x, sum[1], s[1]);
        s[2] = fmaf(d_y, sum[2], s[2]);
        s[3] = fmaf(d_y, sum[3], s[3]);
        if constexpr (k_has_minimum<Block>) {
            const float m_x = f16_to_f32(x.m), m_y = f16_to_f32(y.m);
            s[0] = fmaf(m_x, constant.x, s[0]);
            s[1] = fmaf(m_x, constant.y, s[1]);
            s[2] = fmaf(m_y, constant.x, s[2]);
            s[3] = fmaf(m_y, constant.y, s[3]);
        }
    }
#pragma unroll
    for (float& x : s) x *= k_code;
}

template <class Plain, int Steps>
__device__ void score_plain(float (&s)[4], const Query<1, Steps>& q, const TwoRows& rows) {
    const Plain *x = reinterpret_cast<const Plain*>(rows.x),
                *y = reinterpret_cast<const Plain*>(rows.y);
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() % 4 * 4;
        const Pair a = pair_of_units(unit_of(x, i), unit_of(x, i + 2));
        const Pair b = pair_of_units(unit_of(y, i), unit_of(y, i + 2));
        mma(s, {a.even, b.even, a.odd, b.odd}, q.x[0][step]);
    }
}

// ---- o[channel][head] += V^T p: the rows of cells 2t, 2t + 1, 2t + 8, 2t + 9 ----

template <class Block, int D_v>
__device__ void add_blocks(State<D_v, 1>& state, const Weights<1>& p,
                           const CodeConstants& constants, const FourRows& rows) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const uint4 low = constants.v[0], high = constants.v[k_high<Block> == 1 ? 0 : 1];
    const auto block = [](const std::byte* row, int b) -> const Block& {
        return reinterpret_cast<const Block*>(row)[b];
    };
#pragma unroll
    for (int b = 0; b < k_blocks_of<D_v / 16>; ++b) {
        const Block &x = block(rows.x, b), &y = block(rows.y, b), &z = block(rows.z, b),
                    &w = block(rows.w, b);
        const Codes xy = codes_of(x, i, y, i), zw = codes_of(z, i, w, i);
        const uint32_t pd[2] = {product(p.x[0], both(x.d, y.d)), product(p.x[1], both(z.d, w.d))};
        mma(state.o[2 * b], {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd}, pd);
        mma(state.o[2 * b + 1], {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd}, pd);
        uint32_t times[2] = {pd[0], pd[1]};
        if constexpr (k_has_minimum<Block>) {
            times[0] = product(p.x[0], both(x.m, y.m));
            times[1] = product(p.x[1], both(z.m, w.m));
        }
        mma(state.o[2 * b], {low.x, low.y, low.z, low.w}, times);
        mma(state.o[2 * b + 1], {high.x, high.y, high.z, high.w}, times);
    }
}

template <class Plain, int D_v>
__device__ void add_plain(State<D_v, 1>& state, const Weights<1>& p, const FourRows& rows) {
    const auto unit = [](const std::byte* row, uint32_t i) {
        return unit_of(reinterpret_cast<const Plain*>(row), i);
    };
#pragma unroll
    for (int step = 0; step < D_v / 16; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() / 4 * 2;
        const Pair xy = pair_of_units(unit(rows.x, i), unit(rows.y, i));
        const Pair zw = pair_of_units(unit(rows.z, i), unit(rows.w, i));
        mma(state.o[step], {xy.even, xy.odd, zw.even, zw.odd}, p.x);
    }
}

}  // namespace rotkv::cuda::decode
