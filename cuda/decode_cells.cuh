#pragma once
// The two products of attention with a tile of 16 cells, in every type: scores and values, from
// rows of the cache in shared memory. Which lane holds what is said in fragments.cuh.
// Docs: docs/05-attention.md

#include "cuda/fragments.cuh"

namespace rotkv::cuda {

// ---- s[cell][head] += K q: x and y are the rows of cells g and g + 8. Steps of 16 channels ----

template <class Block, int Steps>
__device__ void score_blocks(float (&s)[4], const uint32_t (&q)[Steps][2], const std::byte* row_x,
                             const std::byte* row_y) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int b = 0; b < Steps / 2; ++b) {
        const Block &x = reinterpret_cast<const Block*>(row_x)[b],
                    &y = reinterpret_cast<const Block*>(row_y)[b];
        const Codes of_x = codes_of(x, i, x, i + 2), of_y = codes_of(y, i, y, i + 2);
        float sum[4] = {};
        const Pair x_low = pair_of<Block>(of_x.low), y_low = pair_of<Block>(of_y.low);
        mma(sum, {x_low.even, y_low.even, x_low.odd, y_low.odd}, q[2 * b]);
        const Pair x_high = pair_of<Block>(of_x.high), y_high = pair_of<Block>(of_y.high);
        mma(sum, {x_high.even, y_high.even, x_high.odd, y_high.odd}, q[2 * b + 1]);
        const float d_x = f16_to_f32(x.d), d_y = f16_to_f32(y.d);
        s[0] = fmaf(d_x, sum[0], s[0]);
        s[1] = fmaf(d_x, sum[1], s[1]);
        s[2] = fmaf(d_y, sum[2], s[2]);
        s[3] = fmaf(d_y, sum[3], s[3]);
        if constexpr (k_has_minimum<Block>) {
            const uint32_t m_x = both(x.m, x.m), m_y = both(y.m, y.m);
            mma(s, {m_x, m_y, m_x, m_y}, q[2 * b]);
            mma(s, {m_x, m_y, m_x, m_y}, q[2 * b + 1]);
        }
    }
}

template <class Plain, int Steps>
__device__ void score_plain(float (&s)[4], const uint32_t (&q)[Steps][2], const std::byte* row_x,
                            const std::byte* row_y) {
    const Plain *x = reinterpret_cast<const Plain*>(row_x),
                *y = reinterpret_cast<const Plain*>(row_y);
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() % 4 * 4;
        const Pair a = pair_of_units(unit_of(x, i), unit_of(x, i + 2));
        const Pair b = pair_of_units(unit_of(y, i), unit_of(y, i + 2));
        mma(s, {a.even, b.even, a.odd, b.odd}, q[step]);
    }
}

// Asked once a tile: all pairs of types run at the same speed without a kernel for each.
template <int Steps>
__device__ void score_cells(DType type, float (&s)[4], const uint32_t (&q)[Steps][2],
                            const std::byte* x, const std::byte* y) {
    if constexpr (Steps % 2 == 0) {
        switch (type) {
            case DType::q8_0:
                return score_blocks<BlockQ8_0>(s, q, x, y);
            case DType::q5_1:
                return score_blocks<BlockQ5_1>(s, q, x, y);
            case DType::q5_0:
                return score_blocks<BlockQ5_0>(s, q, x, y);
            case DType::q4_1:
                return score_blocks<BlockQ4_1>(s, q, x, y);
            case DType::q4_0:
                return score_blocks<BlockQ4_0>(s, q, x, y);
            case DType::iq4_nl:
                return score_blocks<BlockIq4Nl>(s, q, x, y);
            default:
                break;
        }
    }
    if (type == DType::f32) return score_plain<float>(s, q, x, y);
    if (type == DType::f16) return score_plain<F16>(s, q, x, y);
    score_plain<Bf16>(s, q, x, y);
}

// ---- o[channel][head] += V^T p: the rows of cells 2t, 2t + 1, 2t + 8, 2t + 9 ----

struct FourRows {
    const std::byte* row[4];
};

template <class Block, int Steps>
__device__ void add_blocks(float (&o)[Steps][4], const uint32_t (&p)[2], const FourRows& rows) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const auto block = [&](int r, int b) -> const Block& {
        return reinterpret_cast<const Block*>(rows.row[r])[b];
    };
#pragma unroll
    for (int b = 0; b < Steps / 2; ++b) {
        const Block &x = block(0, b), &y = block(1, b), &z = block(2, b), &w = block(3, b);
        const Codes xy = codes_of(x, i, y, i), zw = codes_of(z, i, w, i);
        const uint32_t pd[2] = {product(p[0], both(x.d, y.d)), product(p[1], both(z.d, w.d))};
        const Pair xy_low = pair_of<Block>(xy.low), zw_low = pair_of<Block>(zw.low);
        mma(o[2 * b], {xy_low.even, xy_low.odd, zw_low.even, zw_low.odd}, pd);
        const Pair xy_high = pair_of<Block>(xy.high), zw_high = pair_of<Block>(zw.high);
        mma(o[2 * b + 1], {xy_high.even, xy_high.odd, zw_high.even, zw_high.odd}, pd);
        if constexpr (k_has_minimum<Block>) {
            constexpr uint32_t ones = 0x3C003C00;
            const uint32_t pm[2] = {product(p[0], both(x.m, y.m)), product(p[1], both(z.m, w.m))};
            mma(o[2 * b], {ones, ones, ones, ones}, pm);
            mma(o[2 * b + 1], {ones, ones, ones, ones}, pm);
        }
    }
}

template <class Plain, int Steps>
__device__ void add_plain(float (&o)[Steps][4], const uint32_t (&p)[2], const FourRows& rows) {
    const auto unit = [&](int r, uint32_t i) {
        return unit_of(reinterpret_cast<const Plain*>(rows.row[r]), i);
    };
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() / 4 * 2;
        const Pair xy = pair_of_units(unit(0, i), unit(1, i));
        const Pair zw = pair_of_units(unit(2, i), unit(3, i));
        mma(o[step], {xy.even, xy.odd, zw.even, zw.odd}, p);
    }
}

template <int Steps>
__device__ void add_cells(DType type, float (&o)[Steps][4], const uint32_t (&p)[2],
                          const FourRows& rows) {
    if constexpr (Steps % 2 == 0) {
        switch (type) {
            case DType::q8_0:
                return add_blocks<BlockQ8_0>(o, p, rows);
            case DType::q5_1:
                return add_blocks<BlockQ5_1>(o, p, rows);
            case DType::q5_0:
                return add_blocks<BlockQ5_0>(o, p, rows);
            case DType::q4_1:
                return add_blocks<BlockQ4_1>(o, p, rows);
            case DType::q4_0:
                return add_blocks<BlockQ4_0>(o, p, rows);
            case DType::iq4_nl:
                return add_blocks<BlockIq4Nl>(o, p, rows);
            default:
                break;
        }
    }
    if (type == DType::f32) return add_plain<float>(o, p, rows);
    if (type == DType::f16) return add_plain<F16>(o, p, rows);
    add_plain<Bf16>(o, p, rows);
}

}  // namespace rotkv::cuda
