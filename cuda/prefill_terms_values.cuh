#pragma once
// The values' product of prefill in f32 precision: p as two f16 terms with a tile of V
// (prefill_terms.cuh).
//
// How exact it is, in u = 2^-24 of M = sum p |v| of an output. Where a product is cut off, it is by
// at most 10.5 u of the largest number that an instruction adds up (split_product.cuh), of which M
// has no smaller one over the same cells.
//
//   two terms of p, each off by half a step of 11 bits                           2 u M
//     of p d, where p and d are rounded first: 3 halves of a step, one more     12 u M
//   p d in f32                                                                   1 u M
//   2^x as one instruction (4), of an x up to 16 in f32 (5.5): in p and in
//     the total that it is divided by                                           19 u M
//   high terms of 32 cells, two instructions                                    21 u M
//   low terms of 64 cells, four instructions of 3 * 2^-11 M                    0.1 u M
//   sums in f32, to nearest: a half tile each                      walk(cells / 32) u M
//   on 9.0, what is lost of small p beside sums that are large enough
//     for nobody to see it, were every tile on the brink           cells / 128 u M
//
// walk(n) = 4/3 sqrt(n) + 2. The table allows (2 walk(cells) + 12) u M and what scores may be off
// by: more than all of this from 330 to 80000 cells. Of fewer cells it is what comes together in
// the mean, half of it and of both signs, that is less; of more, tiles are not all on the brink.
// Nothing stays in an accumulator for longer than 32 cells (64, of low terms): what it is cut off
// by always points to 0, and would add up. Docs: docs/05-attention.md

#include "cuda/prefill_terms_tile.cuh"

namespace rotkv::cuda::prefill {

// ---- p d as two terms ----
//
// p comes as 2^14 at most, the largest of its row and tile near it; d is brought to 1 .. 2 by a
// power of two of the block and tile. Two terms hold what is 2^-12 and more to a unit of f32; what
// is less, and not 0, stays for another pass, 2^26 times itself.

constexpr float k_least_term = 0x1p-12f, k_pass = 0x1p26f, k_last_pass = 0x1p100f;

// How all passes look at a number.
struct Pass {
    float times = 1;
    bool left = false;

    __device__ float taken(float x) {
        const float size = fabsf(x);
        left = left || (size < k_least_term && x != 0);
        const bool is_in = times == 1 ? !(size < k_least_term)  // a NaN too
                                      : size >= k_least_term && size < k_least_term * k_pass;
        return is_in ? x : 0;
    }
};

// p of two neighbouring products, and what the pass takes of its products with d of the lane's
// cells 0, 1, 8, 9.
__device__ inline TermFragment fragment_of(const float (*p)[4], const float (&d)[4], Pass& pass) {
    TermFragment a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float x[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            x[j] = pass.taken(p[i / 2][i % 2 * 2 + j] * pass.times * d[i / 2 * 2 + j]);
        }
        const decode::TwoTerms terms = decode::two_terms(x[0], x[1], decode::k_low);
        a.high[i] = terms.high;
        a.low[i] = terms.low;
    }
    return a;
}
// The same of p alone, all of which is taken.
__device__ inline TermFragment fragment_of(const float (*p)[4]) {
    TermFragment a;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float* const x = &p[i / 2][i % 2 * 2];
        const decode::TwoTerms terms = decode::two_terms(x[0], x[1], decode::k_low);
        a.high[i] = terms.high;
        a.low[i] = terms.low;
    }
    return a;
}
// ... and of p d: the high term is f16's product of p and d, each rounded to f16,
// which is off by 2^-11; the low one is what p d differs from it by. d comes k_low times.
__device__ inline TermFragment fragment_of(const float (*p)[4], const Fragment& halves_of_p,
                                           const float (&d)[4]) {
    TermFragment a;
    const uint32_t of_d[2] = {halves_of(d[0] / decode::k_low, d[1] / decode::k_low),
                              halves_of(d[2] / decode::k_low, d[3] / decode::k_low)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        a.high[i] = decode::product(halves_of_p[i], of_d[i / 2]);
        const float2 high = __half22float2(decode::halves(a.high[i]));
        const float* const x = &p[i / 2][i % 2 * 2];
        a.low[i] = halves_of(fmaf(-decode::k_low, high.x, x[0] * d[i / 2 * 2]),
                             fmaf(-decode::k_low, high.y, x[1] * d[i / 2 * 2 + 1]));
    }
    return a;
}

// 2^-E and 2^E of each block of a tile, with 2^E .. 2^(E + 1) its largest |d|; and the smallest
// |d| 2^-E of all that is not 0.
template <int D>
struct BlockScales {
    float up[D / 32], down[D / 32], least = INFINITY;

    __device__ void find(const Scales& scales) {
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            const float* const d = scales.d + b * k_term_cells + lane_of_warp();
            const uint32_t x = __float_as_uint(d[0]) & 0x7FFFFFFFu,
                           y = __float_as_uint(d[k_warp]) & 0x7FFFFFFFu;
            const uint32_t most = __reduce_max_sync(k_all_lanes, max(x, y)) & 0x7F800000u;
            const uint32_t less = __reduce_min_sync(k_all_lanes, min(x - 1, y - 1));  // 0 is none
            const uint32_t exponent = min(max(most, 64u << 23), 254u << 23);          // all 0; inf
            up[b] = __uint_as_float((254u << 23) - exponent);
            down[b] = __uint_as_float(exponent);
            if (less != UINT32_MAX) least = fminf(least, __uint_as_float(less + 1) * up[b]);
        }
    }
};

// d up of the lane's cells of a step of 16.
__device__ inline void scales_of(const Scales& scales, uint32_t block, uint32_t step, float up,
                                 float (&d)[4]) {
    const uint32_t cell = 16 * step + lane_of_warp() % 4 * 2;
    const float2 a = scales.two(scales.d, block, cell), b = scales.two(scales.d, block, cell + 8);
    d[0] = a.x * up;
    d[1] = a.y * up;
    d[2] = b.x * up;
    d[3] = b.y * up;
}

// Halves of V, and in the second part what is subnormal of them, 1024 times (decode_terms.cuh).
__device__ inline void keep_part(Fragment& b, int part) {
#pragma unroll
    for (uint32_t& x : b) {
        const uint32_t normal = decode::normal_of(x);
        const __half2 rest = __hsub2_rn(decode::halves(x), decode::halves(normal));
        x = part == 0 ? normal : decode::product(decode::bits(rest), 0x64006400u);
    }
}

// o += `down` times what accumulators of 8 N channels hold.
template <int D, int N>
__device__ void empty(Sums<D>& sums, int channel, const float (&sum)[N][4],
                      const float (&down)[2]) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
        float& o = sums.o[channel / 8 + i / 4][i % 4];
        o = fmaf(down[i / 2 % 2], sum[i / 4][i % 4], o);
    }
}

// 32 channels: `down` makes sums of what accumulators hold.
template <int D, bool Blocks, bool Careful>
__device__ void add_channels(Sums<D>& sums, const float (&p)[8][4], uint32_t v,
                             const Scales& scales, int block, const TermFragment (&of_p)[4],
                             float up, const float (&down)[2], Pass& pass, int part) {
    const uint32_t cell = lane_of_warp() % 16, piece = lane_of_warp() / 16;
    float small[4][4] = {};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum[4][4] = {};
#pragma unroll
        for (int step = 2 * half; step < 2 * half + 2; ++step) {
            TermFragment a = of_p[step];
            if constexpr (Blocks) {
                float d[4];
                scales_of(scales, block, step, Careful ? up : up * decode::k_low, d);
                a = Careful ? fragment_of(&p[2 * step], d, pass)
                            : fragment_of(&p[2 * step], of_p[step].high, d);
            }
#pragma unroll
            for (int n = 0; n < 4; n += 2) {
                Fragment b;
                load_transposed(
                    b, v + step * 16 * 128 + place_of(k_term_cells, cell, block * 4 + n + piece));
                if constexpr (Careful && !Blocks) keep_part(b, part);
                multiply_add(small[n], a.low, b[0], b[1]);
                multiply_add(small[n + 1], a.low, b[2], b[3]);
                multiply_add(sum[n], a.high, b[0], b[1]);
                multiply_add(sum[n + 1], a.high, b[2], b[3]);
            }
        }
        empty<D>(sums, 32 * block, sum, down);
    }
    empty<D>(sums, 32 * block, small, {down[0] / decode::k_low, down[1] / decode::k_low});
}

// All channels; Careful where some p d are too small for one pass, or halves of V are as they are:
// those take two parts. `down` makes sums of p v of the tile.
template <int D, bool Blocks, bool Careful>
__device__ void add_terms(Sums<D>& sums, const float (&p)[8][4], uint32_t v, const Scales& scales,
                          const BlockScales<D>& of_blocks, const float (&down)[2], int parts) {
    Pass pass;
    bool is_more;
    do {
        pass.left = false;
        TermFragment of_p[4];  // of blocks, fast: p alone, in f16
#pragma unroll
        for (int i = 0; i < 4 && !(Blocks && Careful); ++i) {
            const float ones[4] = {1, 1, 1, 1};
            if constexpr (Careful) {
                of_p[i] = fragment_of(&p[2 * i], ones, pass);
            } else {
                of_p[i] = fragment_of(&p[2 * i]);
            }
        }
#pragma unroll 1
        for (int part = 0; part < (Careful && !Blocks ? parts : 1); ++part) {
#pragma unroll
            for (int b = 0; b < D / 32; ++b) {
                const float up = Blocks ? of_blocks.up[b] : 1;
                const float times =
                    (Blocks ? of_blocks.down[b] : 1) / pass.times / (part == 0 ? 1 : 1024);
                const float of_rows[2] = {down[0] * times, down[1] * times};
                add_channels<D, Blocks, Careful>(sums, p, v, scales, b, of_p, up, of_rows, pass,
                                                 part);
            }
        }
        is_more = Careful && pass.times < k_last_pass && __any_sync(k_all_lanes, pass.left);
        pass.times *= k_pass;
    } while (is_more);
}

/// The smallest p of the lane that is not 0.
__device__ inline float least_of(const float (&p)[8][4]) {
    uint32_t least = UINT32_MAX;
#pragma unroll
    for (int i = 0; i < 32; ++i) least = min(least, __float_as_uint(p[i / 4][i % 4]) - 1);
    return least == UINT32_MAX ? INFINITY : __uint_as_float(least + 1);
}

// Sums of values of a lane: beside a minimum, what the channels of a block have in common.
template <int D>
struct Offsets {
    float of[D / 32][2] = {};

    __device__ void shrink(const float2& by) {
#pragma unroll
        for (float(&x)[2] : of) {
            x[0] *= by.x;
            x[1] *= by.y;
        }
    }
    __device__ void add(const float (&p)[8][4], const Scales& scales, const float (&down)[2]) {
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            float sum[2] = {};
#pragma unroll
            for (int n = 0; n < 8; ++n) {
                const float2 x = scales.two(scales.offset, b, n * 8 + lane_of_warp() % 4 * 2);
                sum[0] = fmaf(p[n][0], x.x, fmaf(p[n][1], x.y, sum[0]));
                sum[1] = fmaf(p[n][2], x.x, fmaf(p[n][3], x.y, sum[1]));
            }
            of[b][0] = fmaf(down[0], sum[0], of[b][0]);
            of[b][1] = fmaf(down[1], sum[1], of[b][1]);
        }
    }
    __device__ void add_to(Sums<D>& sums) const {
#pragma unroll
        for (int b = 0; b < D / 32; ++b) {
            const float two[2] = {sum_of_four_lanes(of[b][0]), sum_of_four_lanes(of[b][1])};
#pragma unroll
            for (int i = 0; i < 16; ++i) sums.o[4 * b + i / 4][i % 4] += two[i / 2 % 2];
        }
    }
};

}  // namespace rotkv::cuda::prefill
