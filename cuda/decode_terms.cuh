#pragma once
// The two products of attention with a tile of 16 cells in f32 precision: q~ and p d are sums of
// two f16, codes and halves are exact in one, so that two products on tensor cores stand for one in
// f32.
//
// Tensor cores line up what they add by exponents, and a subnormal number has the exponent of the
// smallest normal one, with zeros in front, in place of which bits at the end are cut off. So codes
// are normal numbers here, not the subnormal ones that their bits are, and V's subnormal halves are
// multiplied apart.
//
// Docs: docs/05-attention.md

#include "cuda/decode_products.cuh"

namespace rotkv::cuda::decode {

// x = high + low, of two numbers each: high is off by half a step of 11 bits, which low has again
// 11 bits for.
struct TwoTerms {
    uint32_t high, low;
};
__device__ inline TwoTerms two_terms(float x, float y) {
    const uint32_t high = halves_of(x, y);
    const float2 of = __half22float2(halves(high));
    return {high, halves_of(x - of.x, y - of.y)};
}

__device__ inline float largest(float most, float a, float b, float c, float d) {
    return fmaxf(fmaxf(most, fmaxf(fabsf(a), fabsf(b))), fmaxf(fabsf(c), fabsf(d)));
}

// Powers of two that bring the largest |x| of head g, over its four lanes, to 2^14 .. 2^15, for two
// sets of numbers at once. Exponents are computed in the upper halves of f32, two in a register.
class Shift {
  public:
    // The lane's largest. 0x780: below 2^-112 nobody looks, so that both powers are normal.
    __device__ Shift(float a, float b) {
        uint32_t most = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632);
        most = larger(most, 0x07800780u);
#pragma unroll
        for (unsigned h = 1; h < 4; h *= 2) {
            most = larger(most, __shfl_xor_sync(k_all_lanes, most, h));
        }
        const uint32_t exponents = most & 0x7F807F80u;  // 2^e in bf16
        up_ = 0x86008600u - exponents;                  // 2^(14 - e)
        const uint32_t down = exponents - 0x07000700u;  // 2^(e - 14)
        down_[0] = by_columns(down, 0);
        down_[1] = by_columns(down, 1);
    }
    __device__ float up(int set) const { return one(up_, set); }
    // ... and back, for head 2t + i.
    __device__ float down(int i, int set) const { return one(down_[i], set); }

  private:
    static __device__ float one(uint32_t pair, int set) {
        return __uint_as_float(set == 0 ? pair << 16 : pair & 0xFFFF0000u);
    }
    static __device__ uint32_t larger(uint32_t x, uint32_t y) {
        uint32_t most;
        asm("max.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(x), "r"(y));
        return most;
    }

    uint32_t up_, down_[2];
};

// C of one tile, small products first: what they add up to is not cut off beside large ones.
__device__ inline void mma_terms(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&high)[2],
                                 const uint32_t (&low)[2]) {
    mma(c, a, low);
    mma(c, a, high);
}

// ---- s[cell][head] = K q ----

template <class Block, int Steps>
__device__ void score_blocks(float (&s)[4], const Query<2, Steps>& q,
                             const CodeConstants& constants, const TwoRows& rows) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int b = 0; b < k_blocks_of<Steps>; ++b) {
        const Block &x = reinterpret_cast<const Block*>(rows.x)[b],
                    &y = reinterpret_cast<const Block*>(rows.y)[b];
        const Codes of_x = centered<Block>(codes_of(x, i, x, i + 2)),
                    of_y = centered<Block>(codes_of(y, i, y, i + 2));
        const uint32_t low[4] = {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd};
        const uint32_t high[4] = {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd};
        float sum[4] = {}, of_high[4] = {};
        mma_terms(sum, low, q.x[0][2 * b], q.x[1][2 * b]);
        mma_terms(of_high, high, q.x[0][2 * b + 1], q.x[1][2 * b + 1]);
        add_scaled(sum, 1.0f / k_high<Block>, of_high);
        const float d[2] = {f16_to_f32(x.d), f16_to_f32(y.d)};
#pragma unroll
        for (int j = 0; j < 4; ++j) s[j] = fmaf(d[j / 2], sum[j], s[j]);
        if constexpr (k_has_minimum<Block>) {
            const float2 sum_of_q = constants.of_block(b);
            const float offset[2] = {fmaf(k_center<Block>, d[0], f16_to_f32(x.m)),
                                     fmaf(k_center<Block>, d[1], f16_to_f32(y.m))};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                s[j] = fmaf(offset[j / 2], j % 2 == 0 ? sum_of_q.x : sum_of_q.y, s[j]);
            }
        }
    }
}

template <class Plain, int Steps>
__device__ void score_plain(float (&s)[4], const Query<2, Steps>& q, const TwoRows& rows) {
    const Plain *x = reinterpret_cast<const Plain*>(rows.x),
                *y = reinterpret_cast<const Plain*>(rows.y);
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() % 4 * 4;
        const Pair a = pair_of_units(unit_of(x, i), unit_of(x, i + 2));
        const Pair b = pair_of_units(unit_of(y, i), unit_of(y, i + 2));
        float sum[4] = {};
        mma_terms(sum, {a.even, b.even, a.odd, b.odd}, q.x[0][step], q.x[1][step]);
        add_scaled(s, 1, sum);
    }
}

// ---- o[channel][head] += V^T p ----

// p or p d of the lane's cells, as B.
struct TwoWeights {
    uint32_t high[2], low[2];

    __device__ TwoWeights(const float (&x)[4], float up) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const TwoTerms terms = two_terms(up * x[2 * j], up * x[2 * j + 1]);
            high[j] = terms.high;
            low[j] = terms.low;
        }
    }
};

// o of 16 channels, which takes C of one tile: in f32, and rounded, not cut off.
__device__ inline void add_tile(float (&o)[4], const uint32_t (&a)[4], const TwoWeights& p,
                                const float (&down)[2]) {
    float sum[4] = {};
    mma_terms(sum, a, p.high, p.low);
#pragma unroll
    for (int j = 0; j < 4; ++j) o[j] = fmaf(down[j % 2], sum[j], o[j]);
}

// The same of halves, of which some may be subnormal.
__device__ inline void add_halves(float (&o)[4], uint32_t (&a)[4], const TwoWeights& p,
                                  const float (&down)[2]) {
    uint32_t normal[4], differ = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
        normal[j] = normal_of(a[j]);
        differ |= normal[j] ^ a[j];
    }
    if (__any_sync(k_all_lanes, differ != 0)) {
        constexpr uint32_t k_1024 = 0x64006400;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const __half2 rest = __hsub2_rn(halves(a[j]), halves(normal[j]));
            a[j] = product(bits(rest), k_1024);
        }
        add_tile(o, a, p, {down[0] / 1024, down[1] / 1024});
    }
    add_tile(o, normal, p, down);
}

// A block's p d; what its channels have in common goes to the state's offset.
template <class Block, int D_v>
__device__ void weigh(State<D_v, 2>& state, const Weights<2>& p, const FourRows& rows, int b,
                      float (&pd)[4]) {
    const std::byte* const row[4] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const Block& block = reinterpret_cast<const Block*>(row[c])[b];
        const float d = f16_to_f32(block.d);
        pd[c] = p.x[c] * d;
        if constexpr (k_has_minimum<Block>) {
            const float offset = fmaf(k_center<Block>, d, f16_to_f32(block.m));
            state.offset[b] = fmaf(p.x[c], offset, state.offset[b]);
        }
    }
}

template <class Block, int D_v>
__device__ void add_blocks(State<D_v, 2>& state, const Weights<2>& p, const CodeConstants&,
                           const FourRows& rows) {
    constexpr int blocks = k_blocks_of<D_v / 16>;
    const uint32_t i = lane_of_warp() / 4 * 2;
    const auto block = [](const std::byte* row, int b) -> const Block& {
        return reinterpret_cast<const Block*>(row)[b];
    };
#pragma unroll
    for (int first = 0; first < blocks; first += 2) {
        float pd[2][4] = {};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (first + j < blocks) weigh<Block>(state, p, rows, first + j, pd[j]);
        }
        const Shift shift(largest(0, pd[0][0], pd[0][1], pd[0][2], pd[0][3]),
                          largest(0, pd[1][0], pd[1][1], pd[1][2], pd[1][3]));
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int b = first + j;
            if (b >= blocks) break;
            const TwoWeights weights(pd[j], shift.up(j));
            const float down[2] = {shift.down(0, j), shift.down(1, j)};
            const Codes xy = centered<Block>(codes_of(block(rows.x, b), i, block(rows.y, b), i)),
                        zw = centered<Block>(codes_of(block(rows.z, b), i, block(rows.w, b), i));
            add_tile(state.o[2 * b], {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd}, weights,
                     down);
            add_tile(state.o[2 * b + 1], {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd},
                     weights, down);
        }
    }
}

template <class Plain, int D_v>
__device__ void add_plain(State<D_v, 2>& state, const Weights<2>& p, const FourRows& rows) {
    const auto unit = [](const std::byte* row, uint32_t i) {
        return unit_of(reinterpret_cast<const Plain*>(row), i);
    };
    const float most = largest(0, p.x[0], p.x[1], p.x[2], p.x[3]);
    const Shift shift(most, most);
    const TwoWeights weights(p.x, shift.up(0));
    const float down[2] = {shift.down(0, 0), shift.down(1, 0)};
#pragma unroll
    for (int step = 0; step < D_v / 16; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() / 4 * 2;
        const Pair xy = pair_of_units(unit(rows.x, i), unit(rows.y, i));
        const Pair zw = pair_of_units(unit(rows.z, i), unit(rows.w, i));
        uint32_t a[4] = {xy.even, xy.odd, zw.even, zw.odd};
        add_halves(state.o[step], a, weights, down);
    }
}

}  // namespace rotkv::cuda::decode
