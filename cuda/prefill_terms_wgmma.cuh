#pragma once
// The products of prefill in f32 precision on the tensor cores of compute capability 9.0, which
// read tiles from shared memory themselves (prefill_wgmma.cuh). What tensor cores add up they cut
// off (prefill_terms_values.cuh): so products are groups of 32 channels, or of 32 cells, whose
// accumulators are emptied into sums in f32, which are rounded. There are few accumulators: beside
// the sums of 128 channels, what has no register waits for memory, since tiles leave no room for a
// cache of it.
// Docs: docs/05-attention.md

#include "cuda/prefill_terms_softmax.cuh"
#include "cuda/prefill_wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::prefill {

// clang-format off
#define ROTKV_C2(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3]), \
                    "+f"(c[n + 1][0]), "+f"(c[n + 1][1]), "+f"(c[n + 1][2]), "+f"(c[n + 1][3])

/// C (+)= A B for 32 or 64 channels: A [64][16] in registers, B [16][channels] in shared memory,
/// channels innermost; add = 0: C = A B.
__device__ inline void multiply_rows(float (&c)[4][4], const Fragment& a, uint64_t b, int add) {
    asm volatile(
        "{.reg .pred add;\n setp.ne.b32 add, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, add, 1, 1, 1;}\n"
        : ROTKV_C2(0), ROTKV_C2(2)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
__device__ inline void multiply_rows(float (&c)[8][4], const Fragment& a, uint64_t b, int add) {
    asm volatile(
        "{.reg .pred add;\n setp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, 1;}\n"
        : ROTKV_C2(0), ROTKV_C2(2), ROTKV_C2(4), ROTKV_C2(6)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
#undef ROTKV_C2
// clang-format on

/// Begins sum = q~ K over channels `from` .. `to` - 1; q: a tile of terms of a group's rows.
__device__ inline void start_scores(TermScores& sum, uint32_t q, uint32_t k, int from, int to) {
    const Operand a(q, 0), b(k, 0);
    hold(sum);
    begin_products();
#pragma unroll
    for (int d = from; d < to; d += 16) {
        const uint32_t at = d / 64 * k_term_cells * 128 + d % 64 * 2;  // the swizzle follows
        multiply_tiles(sum, a.at(at), b.at(at), d != from);
    }
    end_products();
}

/// s[row][cell] = q~ K over halves. low: bytes from the high terms to the low ones, whose sums are
/// of all channels: they are cut off by 2^-11 of what the others are.
template <int D>
__device__ void score_halves_on_wgmma(TermScores& s, uint32_t q, uint32_t low, uint32_t k) {
    TermScores small, sum;  // the first part's sums are s itself
    start_scores(small, q + low, k, 0, D);
    start_scores(s, q, k, 0, 32);
#pragma unroll
    for (int d = 32; d < D; d += 32) {
        start_scores(sum, q, k, d, d + 32);
        wait_for_products<0>();
        if (d == 32) {
            hold(small);
            hold(s);
        }
        hold(sum);
#pragma unroll
        for (int n = 0; n < 8; ++n) decode::add_scaled(s[n], 1, sum[n]);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) decode::add_scaled(s[n], 1 / decode::k_low, small[n]);
}

/// The same over blocks, which are the parts. sums_of_q: as in score_codes().
template <int D>
__device__ void score_codes_on_wgmma(TermScores& s, uint32_t q, uint32_t low, uint32_t k,
                                     const Scales& scales, const float* sums_of_q) {
    clear(s);
#pragma unroll
    for (int d = 0; d < D; d += 32) {
        TermScores high, small;
        start_scores(high, q, k, d, d + 32);
        start_scores(small, q + low, k, d, d + 32);
        wait_for_products<0>();
        hold(high);
        hold(small);
        add_block_scores<D>(s, high, small, scales, d / 32, sums_of_q);
    }
}

/// Begins C = A B, or C += A B, for cells of steps `from` .. `to` - 1 of 16 and 8 N channels.
template <bool Low, int N>
__device__ void start_values(float (&c)[N][4], const TermFragment (&p)[4], uint32_t v, int channel,
                             int from, int to, bool add) {
    const Operand b(v, k_term_cells * 128);
    hold(c);
    begin_products();
#pragma unroll
    for (int step = from; step < to; ++step) {
        const uint32_t at = channel / 64 * k_term_cells * 128 + step * 16 * 128 + channel % 64 * 2;
        multiply_rows(c, Low ? p[step].low : p[step].high, b.at(at), add || step != from);
    }
    end_products();
}

// ---- Passes ----
//
// Two terms hold a number x of p or of p d to 2^-24 of itself down to 2^-12, and what is less to
// k_lost of 1: their low terms end there. Beside sums that are large enough nobody sees that. Where
// one is not, since V has zeros where p is large, another pass takes what has been lost of small x,
// k_next times; a third one takes what there is at all (p ends at 2^-126).

constexpr int k_passes = 3;
constexpr float k_next = 0x1p48f;
constexpr float k_lost_of_p = 0x1p-36f;   // half a step of 2^-11 times a subnormal f16
constexpr float k_lost_of_pd = 0x1p-34f;  // high terms are off by more, and low ones larger
// A sum that one tile has made is large enough if it is so many times what the tile may have lost:
// half a unit of 2^-24 a tile, that is 32 u of 4096 cells were every tile on the brink.
constexpr float k_enough = 0x1p25f;

// What the next pass takes of two numbers.
__device__ inline float2 rest_of(float x, float y, const decode::TwoTerms& taken) {
    const float2 high = __half22float2(decode::halves(taken.high)),
                 low = __half22float2(decode::halves(taken.low));
    const auto rest = [](float of, float high_term, float low_term) {
        if (!(fabsf(of) < k_least_term)) return 0.0f;
        return k_next * fmaf(-1 / decode::k_low, low_term, of - high_term);
    };
    return {rest(x, high.x, low.x), rest(y, high.y, low.y)};
}
// Terms of two numbers in pass number `pass`, those of the first given.
__device__ inline decode::TwoTerms terms_in_pass(int pass, float x, float y,
                                                 decode::TwoTerms terms) {
#pragma unroll 1
    for (; pass > 0; --pass) {
        const float2 rest = rest_of(x, y, terms);
        x = rest.x;
        y = rest.y;
        terms = decode::two_terms(x, y, decode::k_low);
    }
    return terms;
}

// Is a sum of the lane's two rows, of 8 N channels, smaller than `least`?
template <int N, int D>
__device__ bool is_some_smaller(const Sums<D>& sums, int channel, const float (&least)[2]) {
    float found[2] = {INFINITY, INFINITY};
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) {
        const float o = fabsf(sums.o[channel / 8 + i / 4][i % 4]);
        found[i / 2 % 2] = fminf(found[i / 2 % 2], o);
    }
    return found[0] < least[0] || found[1] < least[1];
}

/// sums += `down` p V over halves, in one pass.
template <int D>
__device__ void add_halves_on_wgmma(Sums<D>& sums, const TermScores& p, uint32_t v,
                                    const float (&down)[2], int pass) {
    constexpr int k_groups = 3 * D / 64;  // of 64 channels: high terms of 32 cells, twice; low ones
    TermFragment of_p[4];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const float* const x = &p[i / 2][i % 2 * 2];
        const decode::TwoTerms terms =
            terms_in_pass(pass, x[0], x[1], decode::two_terms(x[0], x[1], decode::k_low));
        of_p[i / 4].high[i % 4] = terms.high;
        of_p[i / 4].low[i % 4] = terms.low;
    }
    float sum[2][8][4];
    const auto start = [&](int i) {
        const int channel = i / 3 * 64;
        if (i % 3 == 2) return start_values<true>(sum[i % 2], of_p, v, channel, 0, 4, false);
        start_values<false>(sum[i % 2], of_p, v, channel, i % 3 * 2, i % 3 * 2 + 2, false);
    };
    start(0);
    start(1);
    const float of_low[2] = {down[0] / decode::k_low, down[1] / decode::k_low};
#pragma unroll
    for (int i = 0; i < k_groups; ++i) {
        i + 1 < k_groups ? wait_for_products<1>() : wait_for_products<0>();
        hold(sum[i % 2]);
        empty<D>(sums, i / 3 * 64, sum[i % 2], i % 3 == 2 ? of_low : down);
        if (i + 2 < k_groups) start(i + 2);
    }
}

/// The same over blocks; `down` without what scales were brought to 1 .. 2 by.
template <int D>
__device__ void add_codes_on_wgmma(Sums<D>& sums, const TermScores& p, uint32_t v,
                                   const Scales& scales, const BlockScales<D>& of_blocks,
                                   const float (&down)[2], int pass) {
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
        float sum[2][4][4], small[4][4];
        TermFragment of_pd[4];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
            for (int step = 2 * half; step < 2 * half + 2; ++step) {
                float d[4];
                scales_of(scales, b, step, of_blocks.up[b] * decode::k_low, d);
                Fragment halves_of_p;  // made anew: there are no registers to keep them
                to_halves(halves_of_p, &p[2 * step]);
                of_pd[step] = fragment_of(&p[2 * step], halves_of_p, d);
#pragma unroll
                for (int i = 0; i < 4 && pass > 0; ++i) {
                    const float* const x = &p[2 * step + i / 2][i % 2 * 2];
                    const float times = 1 / decode::k_low;
                    const decode::TwoTerms terms = terms_in_pass(
                        pass, x[0] * (d[i / 2 * 2] * times), x[1] * (d[i / 2 * 2 + 1] * times),
                        {of_pd[step].high[i], of_pd[step].low[i]});
                    of_pd[step].high[i] = terms.high;
                    of_pd[step].low[i] = terms.low;
                }
            }
            start_values<true>(small, of_pd, v, 32 * b, 2 * half, 2 * half + 2, half != 0);
            start_values<false>(sum[half], of_pd, v, 32 * b, 2 * half, 2 * half + 2, false);
        }
        wait_for_products<0>();
        hold(small);
        hold(sum[0]);
        hold(sum[1]);
        const float of_rows[2] = {down[0] * of_blocks.down[b], down[1] * of_blocks.down[b]};
        empty<D>(sums, 32 * b, sum[0], of_rows);
        empty<D>(sums, 32 * b, sum[1], of_rows);
        empty<D>(sums, 32 * b, small, {of_rows[0] / decode::k_low, of_rows[1] / decode::k_low});
    }
}

}  // namespace rotkv::cuda::prefill

#endif
