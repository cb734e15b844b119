#pragma once
// iq4_nl, the format whose levels are uneven and whose scale is a sum in index order.
// Docs: docs/03-quantization.md

#include "cuda/quant.cuh"

#include <bit>

namespace rotkv::cuda {

// x from -128 on in 32 bins of 8: at most one midpoint between two levels lies in a bin. Its bits,
// of which the low ones are 0, and in their place the code of what is below it.
struct Iq4Bins {
    uint32_t word[k_warp];
};
constexpr Iq4Bins iq4_bins() {
    Iq4Bins bins{};
    for (int b = 0; b < int(k_warp); ++b) {
        const float first = float(8 * b - 128);
        float midpoint = 256.0f;  // above all x
        uint32_t code = 0;
        for (int c = 15; c > 0; --c) {
            const float middle = 0.5f * float(k_iq4_levels[c - 1] + k_iq4_levels[c]);
            if (middle > first && middle < first + 8) midpoint = middle;
            if (middle <= first && code == 0) code = uint32_t(c);
        }
        bins.word[b] = std::bit_cast<uint32_t>(midpoint) | code;
    }
    return bins;
}
__device__ const Iq4Bins k_iq4_bins = iq4_bins();

// The tables as lanes of a warp: looked up by shuffles.
struct Iq4Tables {
    uint32_t bin = k_iq4_bins.word[lane_of_warp()];
    float level = iq4_level(int(lane_of_warp() % 16));

    // The code, in the low 5 bits, of the level nearest to x, -128 <= x < 128: comparing with the
    // midpoint, exact in f32, is comparing distances as ref does, which is exact near a midpoint.
    __device__ uint32_t nearest(float x) const {
        const int number = __float_as_int(__fmaf_rd(x, 0.125f, 8388608.0f + 16.0f));
        const uint32_t word = __shfl_sync(k_all_lanes, bin, number);
        return word + (x >= __uint_as_float(word & ~15u) ? 1 : 0);
    }
    __device__ float level_of(uint32_t code) const {
        return __shfl_sync(k_all_lanes, level, int(code));
    }
};

// sum w L x and sum w L L of up to four blocks, w = x * x, L the level: eight sums, one for each of
// eight lanes, in index order. A row four floats longer than a block: eight lanes that read their
// rows side by side then meet in no bank.
template <int Blocks>
struct alignas(16) Iq4Terms {
    float row[2 * Blocks][k_block + 4];
};

// Writes the lane's terms of a block and returns its codes.
__device__ inline uint32_t fit_levels(const Iq4Tables& tables, float (*rows)[k_block + 4],
                                      const float4& v, float inverse) {
    const float x[4] = {v.x, v.y, v.z, v.w};
    uint32_t code[4];
    float lx[4], ll[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        code[i] = tables.nearest(x[i] * inverse);
        const float level = tables.level_of(code[i]), weight = x[i] * x[i];
        lx[i] = weight * level * x[i];
        ll[i] = weight * level * level;
    }
    const unsigned first = 4 * lane_of_block();
    *reinterpret_cast<float4*>(&rows[0][first]) = {lx[0], lx[1], lx[2], lx[3]};
    *reinterpret_cast<float4*>(&rows[1][first]) = {ll[0], ll[1], ll[2], ll[3]};
    return pack(int(code[0]), int(code[1]), int(code[2]), int(code[3]));
}

__device__ inline float sum_in_order(const float (&terms)[k_block + 4]) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < k_block; j += 4) {
        const float4 four = *reinterpret_cast<const float4*>(&terms[j]);
        sum = sum + four.x + four.y + four.z + four.w;
    }
    return sum;
}

template <int M>
__device__ void quantize_blocks(BlockIq4Nl* y, unsigned step, const float4 (&x)[M]) {
    constexpr int at_once = M < 4 ? M : 4;
    __shared__ Iq4Terms<at_once> all_terms[k_quant_threads / k_block_lanes];
    Iq4Terms<at_once>& terms = all_terms[threadIdx.x / k_block_lanes];
    const Iq4Tables tables;
    const float peak = block_peak(x);
    const bool tiny = fabsf(peak) < k_iq4_nl_tiny;
    const float inverse = tiny ? 0.0f : 1.0f / (peak / -127.0f);  // x times 0 has code 8
#pragma unroll
    for (int first = 0; first < M; first += at_once) {
        uint32_t codes[at_once];
#pragma unroll
        for (int m = 0; m < at_once; ++m) {
            codes[m] = fit_levels(tables, &terms.row[2 * m], x[first + m],
                                  from_owner<M>(inverse, first + m));
        }
        __syncwarp();
        const unsigned lane = lane_of_block(), block = lane / 2;
        const float sum = lane < 2 * at_once ? sum_in_order(terms.row[lane]) : 0.0f;
        const float sum_ll = partner(sum, 1);
        const int owner = int(mirrored<M>(first + block));
        const bool none = __shfl_sync(k_all_lanes, int(tiny), owner, k_block_lanes) != 0;
        const uint16_t scale = none ? uint16_t(0) : f32_to_f16(sum / sum_ll);
        const bool good = finite_f16(scale);  // an element that is not finite has spoilt both sums
        if (lane % 2 == 0 && lane < 2 * at_once) {
            y[(first + block) * step].d = good ? scale : k_nan_scale;
        }
#pragma unroll
        for (int m = 0; m < at_once; ++m) {
            const bool block_good = __shfl_sync(k_all_lanes, int(good), 2 * m, k_block_lanes) != 0;
            if (!block_good) codes[m] = 0;
        }
        put_nibbles(y + first * step, step, codes);
        __syncwarp();
    }
}

}  // namespace rotkv::cuda
