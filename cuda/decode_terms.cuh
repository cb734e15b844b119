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

// x = high + low / `low`, of two numbers each: high is off by half a step of 11 bits, which low has
// again 11 bits for.
struct TwoTerms {
    uint32_t high, low;
};
constexpr float k_low = 0x1p11f;
__device__ inline TwoTerms two_terms(float x, float y, float low = 1) {
    const uint32_t high = halves_of(x, y);
    const float2 of = __half22float2(halves(high));
    return {high, halves_of(low * (x - of.x), low * (y - of.y))};
}

__device__ inline float largest(float most, float a, float b, float c, float d) {
    return fmaxf(fmaxf(most, fmaxf(fabsf(a), fabsf(b))), fmaxf(fabsf(c), fabsf(d)));
}

// Powers of two that bring the largest |x| of head g, over its four lanes, to 2^14 .. 2^15, for two
// sets of numbers at once. Exponents are computed in the upper halves of f32, two in a register.
class Shift {
  public:
    static constexpr float k_most_up = 0x1p126f;
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

// ---- s[cell][head] = K q ----
//
// Low terms are k_low times themselves and have sums of their own: q~ may have channels that are
// 2^29 times others, which must not be lost where K has nothing in the large ones.

template <int Steps>
__device__ void score_step(float (&sum)[4], float (&small)[4], const Query<2, Steps>& q, int step,
                           const uint32_t (&k)[4]) {
    mma(small, k, q.x[1][step]);
    mma(sum, k, q.x[0][step]);
}

template <class Block, int Steps>
__device__ void score_blocks(float (&s)[4], const Query<2, Steps>& q,
                             const CodeConstants& constants, const TwoRows& rows) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int b = 0; b < k_blocks_of<Steps>; ++b) {
        const Block &x = reinterpret_cast<const Block*>(rows.x)[b],
                    &y = reinterpret_cast<const Block*>(rows.y)[b];
        const uint32_t center[2] = {center_of(x), center_of(y)};
        const Codes of_x = centered<Block>(codes_of(x, i, x, i + 2), center[0], center[0]),
                    of_y = centered<Block>(codes_of(y, i, y, i + 2), center[1], center[1]);
        float sum[4] = {}, small[4] = {}, of_high[4] = {}, small_of_high[4] = {};
        constexpr bool counts_alike = k_high<Block> == 1;
        score_step(sum, small, q, 2 * b,
                   {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd});
        score_step(of_high, counts_alike ? small : small_of_high, q, 2 * b + 1,
                   {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd});
        if constexpr (!counts_alike) add_scaled(small, 1.0f / k_high<Block>, small_of_high);
        add_scaled(sum, 1.0f / k_high<Block>, of_high);
        add_scaled(sum, 1.0f / k_low, small);
        const float d[2] = {f16_to_f32(x.d), f16_to_f32(y.d)};
#pragma unroll
        for (int j = 0; j < 4; ++j) s[j] = fmaf(d[j / 2], sum[j], s[j]);
        if constexpr (k_has_minimum<Block>) {
            const float2 sum_of_q = constants.of_block(b);
            const float offset[2] = {fmaf(float(center[0]), d[0], f16_to_f32(x.m)),
                                     fmaf(float(center[1]), d[1], f16_to_f32(y.m))};
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
    float small[4] = {};  // of all steps: what it is cut off by is 2^-11 of the others'
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        const uint32_t i = 16 * step + lane_of_warp() % 4 * 4;
        const Pair a = pair_of_units(unit_of(x, i), unit_of(x, i + 2));
        const Pair b = pair_of_units(unit_of(y, i), unit_of(y, i + 2));
        float sum[4] = {};
        score_step(sum, small, q, step, {a.even, b.even, a.odd, b.odd});
        add_scaled(s, 1, sum);
    }
    add_scaled(s, 1.0f / k_low, small);
}

// ---- o[channel][head] += V^T p ----

// Of p or p d of the lane's cells, what two f16 hold beside the largest of its head, times `up`, as
// B; it leaves x. Below 2^-16 of the largest, the low term would be short of bits.
struct TwoWeights {
    uint32_t high[2], low[2];

    __device__ TwoWeights(float (&x)[4], float up) {
        float taken[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const float of_up = up * x[c];
            const bool stays = fabsf(of_up) < 0x1p-1f && up < Shift::k_most_up;  // not a NaN
            taken[c] = stays ? 0 : of_up;
            x[c] = stays ? x[c] : 0;
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const TwoTerms terms = two_terms(taken[2 * j], taken[2 * j + 1]);
            high[j] = terms.high;
            low[j] = terms.low;
        }
    }
};
__device__ inline bool is_left(const float (&x)[4]) {
    return x[0] != 0 || x[1] != 0 || x[2] != 0 || x[3] != 0;
}

// o of 16 channels, which takes C of one tile: in f32, and rounded, not cut off.
__device__ inline void add_tile(float (&o)[4], const uint32_t (&a)[4], const TwoWeights& p,
                                const float (&down)[2]) {
    float sum[4] = {};
    mma(sum, a, p.low);  // first: beside large ones it would be cut off
    mma(sum, a, p.high);
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

// A block's p d, and the center of each row; what its channels have in common goes to the state's
// offset.
template <class Block>
struct WeighedBlock {
    float pd[4] = {};
    uint32_t center[4] = {};

    __device__ void set(float& offset, const Weights<2>& p, const FourRows& rows, int b) {
        const std::byte* const row[4] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const Block& block = reinterpret_cast<const Block*>(row[c])[b];
            const float d = f16_to_f32(block.d);
            pd[c] = p.x[c] * d;
            center[c] = center_of(block);
            if constexpr (k_has_minimum<Block>) {
                const float common = fmaf(float(center[c]), d, f16_to_f32(block.m));
                offset = fmaf(p.x[c], common, offset);
            }
        }
    }
    __device__ float most() const { return largest(0, pd[0], pd[1], pd[2], pd[3]); }
};

template <class Block, int D_v>
__device__ void add_block(State<D_v, 2>& state, const WeighedBlock<Block>& of, const FourRows& rows,
                          int b, const TwoWeights& weights, const float (&down)[2]) {
    const uint32_t i = lane_of_warp() / 4 * 2;
    const auto codes = [&](const std::byte* x, const std::byte* y) {
        return codes_of(reinterpret_cast<const Block*>(x)[b], i,
                        reinterpret_cast<const Block*>(y)[b], i);
    };
    const Codes xy = centered<Block>(codes(rows.x, rows.y), of.center[0], of.center[1]),
                zw = centered<Block>(codes(rows.z, rows.w), of.center[2], of.center[3]);
    add_tile(state.o[2 * b], {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd}, weights, down);
    add_tile(state.o[2 * b + 1], {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd}, weights,
             down);
}

// Two blocks at a time, as often as their p d lie within what two f16 hold: nearly always once.
template <class Block, int D_v>
__device__ void add_blocks(State<D_v, 2>& state, const Weights<2>& p, const CodeConstants&,
                           const FourRows& rows) {
    constexpr int blocks = k_blocks_of<D_v / 16>;
#pragma unroll
    for (int first = 0; first < blocks; first += 2) {
        constexpr int k_last = blocks - 1;
        WeighedBlock<Block> of[2];
        of[0].set(state.offset[k_has_minimum<Block> ? first : 0], p, rows, first);
        const bool both = first < k_last;
        if (both) of[1].set(state.offset[k_has_minimum<Block> ? first + 1 : 0], p, rows, first + 1);
        bool left;
        do {
            const Shift shift(of[0].most(), of[1].most());
            left = false;
#pragma unroll
            for (int j = 0; j < (both ? 2 : 1); ++j) {
                const TwoWeights weights(of[j].pd, shift.up(j));
                left |= is_left(of[j].pd);
                add_block(state, of[j], rows, first + j, weights,
                          {shift.down(0, j), shift.down(1, j)});
            }
        } while (__any_sync(k_all_lanes, left));
    }
}

template <class Plain, int D_v>
__device__ void add_plain(State<D_v, 2>& state, const Weights<2>& p, const FourRows& rows) {
    const auto unit = [](const std::byte* row, uint32_t i) {
        return unit_of(reinterpret_cast<const Plain*>(row), i);
    };
    float x[4] = {p.x[0], p.x[1], p.x[2], p.x[3]};
    do {
        const float most = largest(0, x[0], x[1], x[2], x[3]);
        const Shift shift(most, most);
        const TwoWeights weights(x, shift.up(0));
        const float down[2] = {shift.down(0, 0), shift.down(1, 0)};
#pragma unroll
        for (int step = 0; step < D_v / 16; ++step) {
            const uint32_t i = 16 * step + lane_of_warp() / 4 * 2;
            const Pair xy = pair_of_units(unit(rows.x, i), unit(rows.y, i));
            const Pair zw = pair_of_units(unit(rows.z, i), unit(rows.w, i));
            uint32_t a[4] = {xy.even, xy.odd, zw.even, zw.odd};
            add_halves(state.o[step], a, weights, down);
        }
    } while (__any_sync(k_all_lanes, is_left(x)));
}

}  // namespace rotkv::cuda::decode
