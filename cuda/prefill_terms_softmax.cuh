#pragma once
// What surrounds the products of prefill in f32 precision: queries as two f16 terms, scores of
// blocks put together, and the softmax as it runs.
//
// A tile has a scale of its own for each row: p = 2^(s - m + 14), m the largest score rounded up,
// so that p fills f16 whatever other tiles hold. Sums are kept beside 2^top, top the largest m:
// all factors are powers of two.
// Docs: docs/05-attention.md

#include "cuda/prefill_terms_values.cuh"

namespace rotkv::cuda::prefill {

using TermScores = float[k_term_cells / 8][4];

constexpr float k_p_bits = 14;  // of the largest p of a row and tile

// 2^14 and more of the largest of a row: `up` brings it there, `down` back.
struct RowScale {
    float up, down;

    __device__ explicit RowScale(const float4& x) {
        const float most = warp_max(decode::largest(0x1p-112f, x.x, x.y, x.z, x.w));
        const uint32_t exponent = __float_as_uint(most) & 0x7F800000u;
        up = __uint_as_float((268u << 23) - exponent);
        down = __uint_as_float(exponent - (14u << 23));
    }
};

// The lane's channels of a row of q~ as two terms, in two tiles of D channels, `low` bytes apart;
// of the row, what scores are to be multiplied by; and where sums are asked for, those of its
// blocks.
template <int D>
__device__ void store_two_terms(std::byte* tile, uint32_t low, uint32_t row, const float4& x,
                                float* unit, float* sums) {
    const uint32_t lane = lane_of_warp(), channel = 4 * lane;
    const RowScale scale(x);
    const float4 z = scaled(x, scale.up);
    float sum = z.x + z.y + (z.z + z.w);
    for (unsigned h = 1; h < 8; h *= 2) sum += partner(sum, h);
    if (lane == 0) *unit = scale.down;
    if (channel >= D) return;
    const decode::TwoTerms a = decode::two_terms(z.x, z.y, decode::k_low),
                           b = decode::two_terms(z.z, z.w, decode::k_low);
    std::byte* const to = tile + place_of(k_term_rows, row, channel / 8) + channel % 8 * 2;
    *reinterpret_cast<uint2*>(to) = {a.high, b.high};
    *reinterpret_cast<uint2*>(to + low) = {a.low, b.low};
    if (sums != nullptr && lane % 8 == 0) sums[channel / 32] = sum;
}

__device__ inline void clear(TermScores& s) {
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i / 4][i % 4] = 0;
}

// Scores of one block of 32 channels, whose high and low terms are there: s += d (sum + small), and
// beside a minimum what all channels have in common.
template <int D>
__device__ void add_block_scores(TermScores& s, TermScores& sum, const TermScores& small,
                                 const Scales& scales, int b, const float* sums_of_q) {
    const uint32_t column = lane_of_warp() % 4 * 2;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const float2 d = scales.two(scales.d, b, n * 8 + column);
        decode::add_scaled(sum[n], 1.0f / decode::k_low, small[n]);
#pragma unroll
        for (int j = 0; j < 4; ++j) s[n][j] = fmaf(j % 2 == 0 ? d.x : d.y, sum[n][j], s[n][j]);
    }
    if (sums_of_q == nullptr) return;
    const float of_row[2] = {sums_of_q[b], sums_of_q[8 * (D / 32) + b]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
        const float2 offset = scales.two(scales.offset, b, n * 8 + column);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            s[n][j] = fmaf(j % 2 == 0 ? offset.x : offset.y, of_row[j / 2], s[n][j]);
        }
    }
}

// 2^n of a whole number; 0 below what is normal.
__device__ inline float whole_power(float n) {
    return __int_as_float((int(fmaxf(n, -127.0f)) + 127) << 23);
}

// Of a cap, where there is one; `units` are 1 then.
__device__ inline void cap_terms(TermScores& s, float cap, float (&units)[2]) {
    if (!(cap > 0)) return;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        float& x = s[i / 4][i % 4];
        x = cap * tanhf(x * units[i / 2 % 2]);
    }
    units[0] = units[1] = 1;
}

template <int D>
struct TermSums : Sums<D> {  // most: whole numbers
    Offsets<D> offsets;
    float units[2];
};

// 3 softmax of one tile: scores become p; what sums of the tile are to be multiplied by.
template <int D>
__device__ void softmax_terms(TermScores& s, const float (&units)[2], TermSums<D>& sums,
                              float (&down)[2]) {
    float2 shrink;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        float most = -INFINITY;
#pragma unroll
        for (int n = 0; n < 8; ++n) most = fmaxf(most, fmaxf(s[n][2 * j], s[n][2 * j + 1]));
        most = ceilf(max_of_four_lanes(most) * units[j]);
        const float base = most == -INFINITY ? 0.0f : most;  // no -inf + inf
        const float top = fmaxf(sums.most[j], most), of_sums = top == -INFINITY ? 0.0f : top;
        float total = 0;
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            float& x = s[i / 2][2 * j + i % 2];
            x = power_of_two(fmaf(x, units[j], k_p_bits - base));
            total += x;
        }
        const float before = whole_power(sums.most[j] - of_sums);
        down[j] = whole_power(most - k_p_bits - of_sums);
        sums.total[j] = fmaf(total, down[j], sums.total[j] * before);
        sums.most[j] = top;
        (j == 0 ? shrink.x : shrink.y) = before;
    }
    shrink_sums(sums, shrink);
    sums.offsets.shrink(shrink);
}

// What makes outputs of a lane's sums of row j, whose total four lanes have put together: NaN where
// nothing was seen, so that the row is computed once more (attention_plain.cuh). The sink is
// counted here.
struct RowEnd {
    float factor, most, all;

    __device__ RowEnd(const Job& job, uint32_t head, float most_of_row, float total) {
        const float sink = job.sinks != nullptr ? job.sinks[head] * k_log2_e : -INFINITY;
        most = fmaxf(fmaxf(most_of_row, sink), -FLT_MAX);
        const float weight = power_of_two(most_of_row - most);
        all = fmaf(total, weight, power_of_two(sink - most));
        factor = all > 0 ? weight / all : NAN;
    }
};

}  // namespace rotkv::cuda::prefill
