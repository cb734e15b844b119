#pragma once
// The two products of prefill in f32 precision, with a tile of 64 cells that f16 holds exactly:
// halves as they are, blocks as codes that are counted from a center (fragments.cuh), beside scales
// in f32. q~ and p are two f16 terms (decode_terms.cuh), the low ones 2^11 times themselves and in
// accumulators of their own. What tensor cores add up they cut off, so that an accumulator of high
// terms takes 32 channels, or 32 cells, and is emptied into sums in f32, which are rounded.
// Docs: docs/05-attention.md

#include "cuda/decode_terms.cuh"
#include "cuda/prefill_products.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_term_rows = 64;   // of a block of threads, 16 to a warp
constexpr uint32_t k_term_cells = 64;  // of a tile
using TermScores = float[k_term_cells / 8][4];

// Of a tile's blocks, [block][cell]: d, and beside a minimum what all channels have in common.
struct Scales {
    float *d, *offset;

    __device__ float2 two(const float* of, uint32_t block, uint32_t cell) const {
        return *reinterpret_cast<const float2*>(of + block * k_term_cells + cell);
    }
};

// ---- Blocks in the stage become codes in the tile ----

template <class Block>
__device__ void expand_codes(const Side& side, std::byte* tile, const Scales& scales,
                             const std::byte* stage, const std::byte* rows, const Member& me) {
    const uint32_t units = k_term_cells * side.units.d;
#pragma unroll 1
    for (uint32_t u = me.thread; u < units; u += me.threads) {
        const Unit unit(side, u);
        const uint32_t byte = side.in_stage(rows, unit.cell) + unit.i * uint32_t(sizeof(Block));
        const Block& block = *reinterpret_cast<const Block*>(stage + byte);
        Codes x = codes_of(static_cast<const Block*>(nullptr),
                           reinterpret_cast<const uint32_t*>(stage), byte);
        const uint32_t center = decode::center_of(block);
        x.d = both(1.0f);
        x.m = both(-0.0f);
        x.zero = both(1024.0f + float(center));
        const uint32_t at = place_of(k_term_cells, unit.cell, unit.i * 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // piece i of a block: its number's low bits are 0
            const uint2 a = expanded(x, x.u[2 * i]), b = expanded(x, x.u[2 * i + 1]);
            *reinterpret_cast<uint4*>(tile + (at ^ i * 16)) = {a.x, a.y, b.x, b.y};
        }
        const float d = f16_to_f32(block.d);
        const uint32_t scale = unit.i * k_term_cells + unit.cell;
        scales.d[scale] = d;
        if constexpr (decode::k_has_minimum<Block>) {
            scales.offset[scale] = fmaf(float(center), d, f16_to_f32(block.m));
        }
    }
}

__device__ inline void expand_exactly(const Side& side, std::byte* tile, const Scales& scales,
                                      const std::byte* stage, const std::byte* rows,
                                      const Member& me) {
    // clang-format off
    switch (side.type) {
        case DType::q8_0: return expand_codes<BlockQ8_0>(side, tile, scales, stage, rows, me);
        case DType::q5_1: return expand_codes<BlockQ5_1>(side, tile, scales, stage, rows, me);
        case DType::q5_0: return expand_codes<BlockQ5_0>(side, tile, scales, stage, rows, me);
        case DType::q4_1: return expand_codes<BlockQ4_1>(side, tile, scales, stage, rows, me);
        case DType::q4_0: return expand_codes<BlockQ4_0>(side, tile, scales, stage, rows, me);
        case DType::iq4_nl: return expand_codes<BlockIq4Nl>(side, tile, scales, stage, rows, me);
        default: break;
    }
    // clang-format on
    expand_plain(side, tile, k_term_cells, reinterpret_cast<const uint32_t*>(stage), rows,
                 k_term_cells, me);  // f16 that the copy engine does not align
}

// ---- s[row][cell] = q~ K ----

__device__ inline void add_sums(float (&x)[4], const float (&y)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] += y[j];
}

// Both terms of 16 channels, with all cells.
template <int D>
__device__ void score_step(TermScores& sum, TermScores& small, uint32_t q, uint32_t k, int d) {
    const uint32_t lane = lane_of_warp(), cell = lane % 8 + lane / 16 * 8;
    const uint32_t row = threadIdx.x / k_warp * 16 + lane % 16;
    const uint32_t at = q + place_of(k_term_rows, row, d / 8 + lane / 16);
    Fragment high, low;
    load_matrices(high, at);
    load_matrices(low, at + k_term_rows * D * 2);
    const uint32_t cells = k + place_of(k_term_cells, cell, d / 8 + lane / 8 % 2);
#pragma unroll
    for (int c = 0; c < int(k_term_cells); c += 16) {
        Fragment b;
        load_matrices(b, cells + c * 128);
        multiply_add(small[c / 8], low, b[0], b[1]);
        multiply_add(small[c / 8 + 1], low, b[2], b[3]);
        multiply_add(sum[c / 8], high, b[0], b[1]);
        multiply_add(sum[c / 8 + 1], high, b[2], b[3]);
    }
}

/// Over halves.
template <int D>
__device__ void score_halves(TermScores& s, uint32_t q, uint32_t k) {
    TermScores small = {};  // of all channels: what it is cut off by is 2^-11 of the others'
#pragma unroll
    for (int n = 0; n < 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int d = 0; d < D; d += 32) {
        TermScores sum = {};
        score_step<D>(sum, small, q, k, d);
        score_step<D>(sum, small, q, k, d + 16);
#pragma unroll
        for (int n = 0; n < 8; ++n) add_sums(s[n], sum[n]);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) decode::add_scaled(s[n], 1.0f / decode::k_low, small[n]);
}

/// Over blocks. sums_of_q: of the lane's first row, [row][block], and of what is 8 rows on; null
/// where blocks have no minimum.
template <int D>
__device__ void score_codes(TermScores& s, uint32_t q, uint32_t k, const Scales& scales,
                            const float* sums_of_q) {
    const uint32_t column = lane_of_warp() % 4 * 2;
#pragma unroll
    for (int n = 0; n < 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
        TermScores sum = {}, small = {};
        score_step<D>(sum, small, q, k, 32 * b);
        score_step<D>(sum, small, q, k, 32 * b + 16);
#pragma unroll
        for (int n = 0; n < 8; ++n) {
            const float2 d = scales.two(scales.d, b, n * 8 + column);
            decode::add_scaled(sum[n], 1.0f / decode::k_low, small[n]);
#pragma unroll
            for (int j = 0; j < 4; ++j) s[n][j] = fmaf(j % 2 == 0 ? d.x : d.y, sum[n][j], s[n][j]);
        }
        if (sums_of_q == nullptr) continue;
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
}

// ---- o[row][channel] += p V ----
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

// A of a product, twice: p of 16 rows and 16 cells.
struct TermFragment {
    Fragment high, low;
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

// What lies between 2^E and twice that, E of the largest |d| of a block in the tile.
struct BlockScale {
    float up, down;  // 2^-E, 2^E
    float least;     // |d| up, of those that are not 0

    __device__ BlockScale(const Scales& scales, uint32_t block) {
        const float* const d = scales.d + block * k_term_cells + lane_of_warp();
        const uint32_t a = __float_as_uint(d[0]) & 0x7FFFFFFFu,
                       b = __float_as_uint(d[k_warp]) & 0x7FFFFFFFu;
        const uint32_t most = __reduce_max_sync(k_all_lanes, max(a, b)) & 0x7F800000u;
        const uint32_t less = __reduce_min_sync(k_all_lanes, min(a - 1, b - 1));  // 0 is none
        const uint32_t exponent = min(max(most, 64u << 23), 254u << 23);          // all 0; inf
        up = __uint_as_float((254u << 23) - exponent);
        down = __uint_as_float(exponent);
        least = less == UINT32_MAX ? INFINITY : __uint_as_float(less + 1) * up;
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
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            float& o = sums.o[4 * block + i / 4][i % 4];
            o = fmaf(down[i / 2 % 2], sum[i / 4][i % 4], o);
        }
    }
    const float down_low[2] = {down[0] / decode::k_low, down[1] / decode::k_low};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        float& o = sums.o[4 * block + i / 4][i % 4];
        o = fmaf(down_low[i / 2 % 2], small[i / 4][i % 4], o);
    }
}

// All channels; Careful where some p d are too small, or halves subnormal, for one product.
template <int D, bool Blocks, bool Careful>
__device__ void add_terms(Sums<D>& sums, const float (&p)[8][4], uint32_t v, const Scales& scales,
                          const float (&down)[2]) {
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
        for (int part = 0; part < (Careful && !Blocks ? 2 : 1); ++part) {
#pragma unroll
            for (int b = 0; b < D / 32; ++b) {
                float up = 1, times = part == 0 ? 1 / pass.times : 1 / (1024 * pass.times);
                if constexpr (Blocks) {
                    const BlockScale scale(scales, b);
                    up = scale.up;
                    times *= scale.down;
                }
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
