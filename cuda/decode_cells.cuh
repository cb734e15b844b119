#pragma once
// The two products of attention with a tile of 16 cells, in every type: scores and values, from
// rows of the cache in shared memory. Which lane holds what is said in fragments.cuh, and why what
// comes of codes is too small by k_code (and k_high): scores are put right at once, sums of values
// in the end.
// Docs: docs/05-attention.md

#include "cuda/decode_tiles.cuh"

namespace rotkv::cuda::decode {

// What products with codes need besides them, in shared memory.
struct CodeConstants {
    uint4* v;   // as operands, of lower and of higher channels. Immediates would be made anew for
                // each product
    float2* k;  // of the warp's KV head: [block][t], the constant times the sum of q, for heads 2t
                // and 2t + 1

    __device__ CodeConstants(const DecodeJob& job, const DecodePlace& at, std::byte* memory)
        : v(reinterpret_cast<uint4*>(memory + job.constants_offset())),
          k(reinterpret_cast<float2*>(memory + job.sums_offset() +
                                      at.head_of_band * job.sum_bytes())) {}

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
__device__ void score_blocks(float (&s)[4], const uint32_t (&q)[Steps][2],
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
        mma(sum, {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd}, q[2 * b]);
        mma(k_high<Block> == 1 ? sum : high,
            {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd}, q[2 * b + 1]);
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
__device__ void score_plain(float (&s)[4], const uint32_t (&q)[Steps][2], const TwoRows& rows) {
    const Plain *x = reinterpret_cast<const Plain*>(rows.x),
                *y = reinterpret_cast<const Plain*>(rows.y);
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
__device__ void score_cells(DType type, bool on_words, float (&s)[4], const uint32_t (&q)[Steps][2],
                            const CodeConstants& constants, const TwoRows& rows) {
    // clang-format off
    switch (type) {
        case DType::f32: return score_plain<float>(s, q, rows);
        case DType::f16:
            return on_words ? score_plain<F16OnWords>(s, q, rows) : score_plain<F16>(s, q, rows);
        case DType::bf16:
            return on_words ? score_plain<Bf16OnWords>(s, q, rows) : score_plain<Bf16>(s, q, rows);
        case DType::q8_0: return score_blocks<BlockQ8_0>(s, q, constants, rows);
        case DType::q5_1: return score_blocks<BlockQ5_1>(s, q, constants, rows);
        case DType::q5_0: return score_blocks<BlockQ5_0>(s, q, constants, rows);
        case DType::q4_1: return score_blocks<BlockQ4_1>(s, q, constants, rows);
        case DType::q4_0: return score_blocks<BlockQ4_0>(s, q, constants, rows);
        case DType::iq4_nl: return score_blocks<BlockIq4Nl>(s, q, constants, rows);
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() has refused every other type
}

// ---- o[channel][head] += V^T p: the rows of cells 2t, 2t + 1, 2t + 8, 2t + 9 ----

template <class Block, int Steps>
__device__ void add_blocks(float (&o)[Steps][4], const uint32_t (&p)[2],
                           const CodeConstants& constants, const FourRows& rows) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const uint4 low = constants.v[0], high = constants.v[k_high<Block> == 1 ? 0 : 1];
    const auto block = [](const std::byte* row, int b) -> const Block& {
        return reinterpret_cast<const Block*>(row)[b];
    };
#pragma unroll
    for (int b = 0; b < k_blocks_of<Steps>; ++b) {
        const Block &x = block(rows.x, b), &y = block(rows.y, b), &z = block(rows.z, b),
                    &w = block(rows.w, b);
        const Codes xy = codes_of(x, i, y, i), zw = codes_of(z, i, w, i);
        const uint32_t pd[2] = {product(p[0], both(x.d, y.d)), product(p[1], both(z.d, w.d))};
        mma(o[2 * b], {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd}, pd);
        mma(o[2 * b + 1], {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd}, pd);
        uint32_t times[2] = {pd[0], pd[1]};
        if constexpr (k_has_minimum<Block>) {
            times[0] = product(p[0], both(x.m, y.m));
            times[1] = product(p[1], both(z.m, w.m));
        }
        mma(o[2 * b], {low.x, low.y, low.z, low.w}, times);
        mma(o[2 * b + 1], {high.x, high.y, high.z, high.w}, times);
    }
}

template <class Plain, int Steps>
__device__ void add_plain(float (&o)[Steps][4], const uint32_t (&p)[2], const FourRows& rows) {
    const auto unit = [](const std::byte* row, uint32_t i) {
        return unit_of(reinterpret_cast<const Plain*>(row), i);
    };
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() / 4 * 2;
        const Pair xy = pair_of_units(unit(rows.x, i), unit(rows.y, i));
        const Pair zw = pair_of_units(unit(rows.z, i), unit(rows.w, i));
        mma(o[step], {xy.even, xy.odd, zw.even, zw.odd}, p);
    }
}

template <int Steps>
__device__ void add_cells(DType type, bool on_words, float (&o)[Steps][4], const uint32_t (&p)[2],
                          const CodeConstants& constants, const FourRows& rows) {
    // clang-format off
    switch (type) {
        case DType::f32: return add_plain<float>(o, p, rows);
        case DType::f16:
            return on_words ? add_plain<F16OnWords>(o, p, rows) : add_plain<F16>(o, p, rows);
        case DType::bf16:
            return on_words ? add_plain<Bf16OnWords>(o, p, rows) : add_plain<Bf16>(o, p, rows);
        case DType::q8_0: return add_blocks<BlockQ8_0>(o, p, constants, rows);
        case DType::q5_1: return add_blocks<BlockQ5_1>(o, p, constants, rows);
        case DType::q5_0: return add_blocks<BlockQ5_0>(o, p, constants, rows);
        case DType::q4_1: return add_blocks<BlockQ4_1>(o, p, constants, rows);
        case DType::q4_0: return add_blocks<BlockQ4_0>(o, p, constants, rows);
        case DType::iq4_nl: return add_blocks<BlockIq4Nl>(o, p, constants, rows);
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() has refused every other type
}

}  // namespace rotkv::cuda::decode
