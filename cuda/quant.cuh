#pragma once
// Quantizing in registers: eight neighbouring lanes own a block of 32, lane l its elements
// 4 l + 0 .. 3 (hadamard.cuh leaves them so). A thread holds its share of M blocks at once.
//
// What is stored once a block (scale, minimum, the quotients behind them) is computed once a block:
// the lanes share the M blocks out among them, and each hears the others' results. Done by every
// lane for every block, these few numbers would cost more than all the codes.
//
// All lanes of a warp call these functions together; a block whose address is null takes part and
// is not written. Each function must equal the one of its name in ref, byte for byte: every product
// and sum rounds on its own (compiled with --fmad=false), quotients are IEEE's.
// Docs: docs/03-quantization.md

#include "cuda/codes.cuh"

namespace rotkv::cuda {

constexpr unsigned k_block_lanes = 8;

__device__ inline unsigned lane_of_block() { return threadIdx.x % k_block_lanes; }

// The log2 M low bits of x in opposite order: lane l owns block mirrored<M>(l), and back.
template <int M>
__device__ unsigned mirrored(unsigned x) {
    unsigned y = 0;
#pragma unroll
    for (int m = 1; m < M; m *= 2, x >>= 1) y = y << 1 | (x & 1);
    return y;
}

// x[block of this lane], by selection: an index known at run time would move x out of registers.
template <int M, class Value>
__device__ Value own(const Value (&x)[M]) {
    const unsigned block = mirrored<M>(lane_of_block());
    Value mine = x[0];
#pragma unroll
    for (unsigned m = 1; m < M; ++m) mine = block == m ? x[m] : mine;
    return mine;
}

// The address of this lane's block, where this lane is the one to write to it; otherwise null.
template <int M, class Block>
__device__ Block* own_to_write(Block* const (&y)[M]) {
    return lane_of_block() < M ? own(y) : nullptr;
}

/// What the owner of block m has to say of it.
template <int M, class Value>
__device__ Value from_owner(Value x, unsigned m) {
    return __shfl_sync(k_all_lanes, x, int(mirrored<M>(m)), k_block_lanes);
}

/// Combines the eight lanes' values of each of M blocks; returns the result for this lane's block.
/// combine(mine, theirs, theirs_first) is told whose elements come first. Halving the blocks with
/// each exchange takes M + 2 exchanges or fewer, where block by block it would be 3 M.
template <int M, class Value, class Combine>
__device__ Value reduce_blocks(const Value (&values)[M], const Combine& combine) {
    Value x[M];
#pragma unroll
    for (int m = 0; m < M; ++m) x[m] = values[m];
    int left = M;
#pragma unroll
    for (unsigned h = 1; h < k_block_lanes; h *= 2) {
        const bool upper = (lane_of_block() & h) != 0;
        if (left == 1) {
            x[0] = combine(x[0], __shfl_xor_sync(k_all_lanes, x[0], h), upper);
            continue;
        }
        left /= 2;
#pragma unroll
        for (int m = 0; m < M / 2; ++m) {
            if (m >= left) break;
            const Value keep = upper ? x[m + left] : x[m], give = upper ? x[m] : x[m + left];
            x[m] = combine(keep, __shfl_xor_sync(k_all_lanes, give, h), upper);
        }
    }
    return x[0];
}

// Bits of |x|: ordered as magnitudes are, and larger for NaN and inf than for what is finite.
__device__ inline uint32_t magnitude(float x) { return __float_as_uint(x) & 0x7FFFFFFFu; }

// Of each block the first element of largest magnitude, with its sign; +0 if all are zero.
template <int M>
__device__ float block_peak(const float4 (&x)[M]) {
    float peak[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        peak[m] = 0.0f;
        if (magnitude(x[m].x) > magnitude(peak[m])) peak[m] = x[m].x;
        if (magnitude(x[m].y) > magnitude(peak[m])) peak[m] = x[m].y;
        if (magnitude(x[m].z) > magnitude(peak[m])) peak[m] = x[m].z;
        if (magnitude(x[m].w) > magnitude(peak[m])) peak[m] = x[m].w;
    }
    return reduce_blocks(peak, [](float mine, float theirs, bool theirs_first) {
        const uint32_t a = magnitude(mine), b = magnitude(theirs);
        return b > a || (theirs_first && b == a) ? theirs : mine;
    });
}

// Of each block the largest magnitude, where the sign of the element does not matter.
template <int M>
__device__ float block_magnitude(const float4 (&x)[M]) {
    uint32_t largest[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        largest[m] = max(max(magnitude(x[m].x), magnitude(x[m].y)),
                         max(magnitude(x[m].z), magnitude(x[m].w)));
    }
    return __uint_as_float(
        reduce_blocks(largest, [](uint32_t a, uint32_t b, bool) { return max(a, b); }));
}

// Of each block the first least element: of -0 and +0 the one that comes first.
template <int M>
__device__ float block_min(const float4 (&x)[M]) {
    float least[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        least[m] = x[m].x;
        if (x[m].y < least[m]) least[m] = x[m].y;
        if (x[m].z < least[m]) least[m] = x[m].z;
        if (x[m].w < least[m]) least[m] = x[m].w;
    }
    return reduce_blocks(least, [](float mine, float theirs, bool theirs_first) {
        return theirs < mine || (theirs_first && theirs == mine) ? theirs : mine;
    });
}

// Of each block the greatest element; inf if any is not finite, so that the width is not, either.
template <int M>
__device__ float block_max(const float4 (&x)[M]) {
    float most[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const bool finite =
            isfinite(x[m].x) && isfinite(x[m].y) && isfinite(x[m].z) && isfinite(x[m].w);
        most[m] = finite ? fmaxf(fmaxf(x[m].x, x[m].y), fmaxf(x[m].z, x[m].w)) : INFINITY;
    }
    return reduce_blocks(most, [](float a, float b, bool) { return fmaxf(a, b); });
}

struct Step {
    uint16_t scale;
    float inverse;  // NaN where the scale is not finite: NaN times x becomes code 0
};

// Of a d that is NaN or inf, because an element is, the scale is not finite.
__device__ inline Step block_step(float d) {
    const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    if (isinf(inverse)) return {0, 0.0f};
    const uint16_t scale = f32_to_f16(d);
    return finite_f16(scale) ? Step{scale, inverse} : Step{k_nan_scale, NAN};
}

// Codes of 4 lanes in low nibbles, those of the lanes 4 further in high ones: 4 bytes each.
template <class Block>
__device__ void put_nibbles(Block* y, uint32_t codes) {
    const uint32_t low = codes & 0x0F0F0F0Fu;
    const uint32_t high = __shfl_down_sync(k_all_lanes, low, 4, k_block_lanes);
    if (y == nullptr || lane_of_block() >= 4) return;
    store_bytes(y->qs + 4 * lane_of_block(), low | high << 4);
}

// The fifth bits of the lane's four codes at their place in the block's 32.
__device__ inline uint32_t fifth_bits_of(uint32_t codes) {
    const uint32_t four =
        (codes >> 4 & 1) | (codes >> 11 & 2) | (codes >> 18 & 4) | (codes >> 25 & 8);
    return four << (4 * lane_of_block());
}

template <int M, class Block>
__device__ void put_fifth_bits(Block* const (&y)[M], const uint32_t (&codes)[M]) {
    uint32_t bits[M];
#pragma unroll
    for (int m = 0; m < M; ++m) bits[m] = fifth_bits_of(codes[m]);
    const uint32_t all = reduce_blocks(bits, [](uint32_t a, uint32_t b, bool) { return a | b; });
    if (Block* mine = own_to_write(y)) store_bytes(mine->qh, all);
}

template <class Code>
__device__ uint32_t pack_codes(const float4& x, const Code& code) {
    return pack(code(x.x), code(x.y), code(x.z), code(x.w));
}

template <int M>
__device__ void quantize_blocks(BlockQ8_0* const (&y)[M], const float4 (&x)[M]) {
    const Step step = block_step(block_magnitude(x) / 127.0f);
    if (BlockQ8_0* mine = own_to_write(y)) mine->d = step.scale;
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float inverse = from_owner<M>(step.inverse, m);
        const uint32_t codes = pack_codes(x[m], [&](float value) {
            // To nearest, halves away from zero: the sum, cut towards zero, reaches no integer
            // that the exact sum does not reach.
            const float scaled = value * inverse;
            return int(__fadd_rz(scaled, copysignf(0.5f, scaled)));
        });
        if (y[m] != nullptr) store_bytes(y[m]->qs + 4 * lane_of_block(), codes);
    }
}

// q4_0 and q5_0: levels -half .. half - 1, the element of largest magnitude at -half.
template <int M, class Block>
__device__ void quantize_signed(Block* const (&y)[M], const float4 (&x)[M], int half) {
    const Step step = block_step(block_peak(x) * (-1.0f / float(half)));  // a power of two
    if (Block* mine = own_to_write(y)) mine->d = step.scale;
    const float center = float(half) + 0.5f;
    uint32_t codes[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float inverse = from_owner<M>(step.inverse, m);
        codes[m] = pack_codes(
            x[m], [&](float value) { return min(2 * half - 1, int(value * inverse + center)); });
        put_nibbles(y[m], codes[m]);
    }
    if constexpr (sizeof(Block) == sizeof(BlockQ5_0)) put_fifth_bits(y, codes);
}

// q4_1 and q5_1: levels 0 .. top above the least element.
template <int M, class Block>
__device__ void quantize_above(Block* const (&y)[M], const float4 (&x)[M], int top) {
    const float least = block_min(x);
    Step step = block_step((block_max(x) - least) / float(top));
    uint16_t minimum = f32_to_f16(least);
    if (!finite_f16(minimum)) step = {k_nan_scale, NAN};
    if (isnan(step.inverse)) minimum = 0;
    if (Block* mine = own_to_write(y)) {
        mine->d = step.scale;
        mine->m = minimum;
    }
    uint32_t codes[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float inverse = from_owner<M>(step.inverse, m), origin = from_owner<M>(least, m);
        codes[m] = pack_codes(
            x[m], [&](float value) { return min(top, int((value - origin) * inverse + 0.5f)); });
        put_nibbles(y[m], codes[m]);
    }
    if constexpr (sizeof(Block) == sizeof(BlockQ5_1)) put_fifth_bits(y, codes);
}

template <int M>
__device__ void quantize_blocks(BlockQ5_1* const (&y)[M], const float4 (&x)[M]) {
    quantize_above(y, x, 31);
}
template <int M>
__device__ void quantize_blocks(BlockQ5_0* const (&y)[M], const float4 (&x)[M]) {
    quantize_signed(y, x, 16);
}
template <int M>
__device__ void quantize_blocks(BlockQ4_1* const (&y)[M], const float4 (&x)[M]) {
    quantize_above(y, x, 15);
}
template <int M>
__device__ void quantize_blocks(BlockQ4_0* const (&y)[M], const float4 (&x)[M]) {
    quantize_signed(y, x, 8);
}

// The code of the level nearest to x is the number of midpoints between levels that x has reached:
// midpoints are exact in f32, and so is ref's comparison of two distances near one.
__device__ inline int nearest_level(float x) {
    int code = 0;
#pragma unroll
    for (int c = 1; c < 16; ++c) {
        code += x >= 0.5f * (iq4_level(c - 1) + iq4_level(c)) ? 1 : 0;
    }
    return code;
}

// Of one block the lane's codes, packed, and sum w L x and sum w L L with w = x * x, L the level.
struct Iq4Fit {
    uint32_t codes;
    float sum_lx, sum_ll;
};

// The sums must run in index order: from lane to lane, each adding its four terms. That is why
// this format takes several times as long as the others.
__device__ inline Iq4Fit fit_levels(const float4& v, float inverse) {
    const float x[4] = {v.x, v.y, v.z, v.w};
    int code[4];
    float terms_lx[4], terms_ll[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        code[i] = inverse == 0.0f ? 8 : nearest_level(x[i] * inverse);
        const float level = iq4_level(code[i]), weight = x[i] * x[i];
        terms_lx[i] = weight * level * x[i];
        terms_ll[i] = weight * level * level;
    }
    float sum_lx = 0.0f, sum_ll = 0.0f;
#pragma unroll
    for (int lane = 0; lane < int(k_block_lanes); ++lane) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum_lx += terms_lx[i];
            sum_ll += terms_ll[i];
        }
        sum_lx = __shfl_sync(k_all_lanes, sum_lx, lane, k_block_lanes);
        sum_ll = __shfl_sync(k_all_lanes, sum_ll, lane, k_block_lanes);
    }
    return {pack(code[0], code[1], code[2], code[3]), sum_lx, sum_ll};
}

template <int M>
__device__ void quantize_blocks(BlockIq4Nl* const (&y)[M], const float4 (&x)[M]) {
    const float peak = block_peak(x);
    const bool tiny = fabsf(peak) < k_iq4_nl_tiny;
    const float inverse = tiny ? 0.0f : 1.0f / (peak / -127.0f);
    uint32_t codes[M];
    float sum_lx[M], sum_ll[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const Iq4Fit fit = fit_levels(x[m], from_owner<M>(inverse, m));
        codes[m] = fit.codes;
        sum_lx[m] = fit.sum_lx;
        sum_ll[m] = fit.sum_ll;
    }
    const uint16_t scale = tiny ? uint16_t(0) : f32_to_f16(own(sum_lx) / own(sum_ll));
    const bool good = finite_f16(scale);  // an element that is not finite has spoilt both sums
    if (BlockIq4Nl* mine = own_to_write(y)) mine->d = good ? scale : k_nan_scale;
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const bool block_good = from_owner<M>(int(good), m) != 0;
        put_nibbles(y[m], block_good ? codes[m] : 0);
    }
}

/// Channels i[m] .. i[m] + 3 of M rows of d channels into a cache type; i is 4 times the lane, plus
/// a multiple of 32. A row that is null is not written. All lanes of the warp call it together.
template <int M, class Block>
__device__ void store_fours(Block* const (&row)[M], const uint32_t (&i)[M], uint32_t d,
                            const float4 (&x)[M]) {
    Block* y[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        y[m] = row[m] != nullptr && i[m] < d ? row[m] + i[m] / uint32_t(k_block) : nullptr;
    }
    quantize_blocks(y, x);
}
template <int M>
__device__ void store_fours(float* const (&row)[M], const uint32_t (&i)[M], uint32_t d,
                            const float4 (&x)[M]) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
        if (row[m] == nullptr) continue;
        store4(row[m], i[m], d, reinterpret_cast<uintptr_t>(row[m]) % 16 == 0, x[m]);
    }
}
template <int M>
__device__ void store_fours(F16* const (&row)[M], const uint32_t (&i)[M], uint32_t d,
                            const float4 (&x)[M]) {
#pragma unroll
    for (int m = 0; m < M; ++m) store_halves(row[m], i[m], d, x[m]);
}
template <int M>
__device__ void store_fours(Bf16* const (&row)[M], const uint32_t (&i)[M], uint32_t d,
                            const float4 (&x)[M]) {
#pragma unroll
    for (int m = 0; m < M; ++m) store_halves(row[m], i[m], d, x[m]);
}

/// Calls go(E()) with the element or block of a cache type. One question for all that a thread
/// stores, so that the compiler may interleave it.
template <class Go>
__device__ void with_cache_type(DType type, const Go& go) {
    switch (type) {
        case DType::f32:
            return go(float());
        case DType::f16:
            return go(F16());
        case DType::bf16:
            return go(Bf16());
        case DType::q8_0:
            return go(BlockQ8_0());
        case DType::q5_1:
            return go(BlockQ5_1());
        case DType::q5_0:
            return go(BlockQ5_0());
        case DType::q4_1:
            return go(BlockQ4_1());
        case DType::q4_0:
            return go(BlockQ4_0());
        default:
            return go(BlockIq4Nl());
    }
}

}  // namespace rotkv::cuda
