#pragma once
// Quantizing in registers: eight neighbouring lanes own a block of 32, lane l its elements
// 4 l + 0 .. 3 (hadamard.cuh leaves them so). A thread holds its share of M blocks at once, which
// go to shared memory (store.cuh): y[0], y[step], y[2 step] ...
//
// What is stored once a block (scale, minimum, the quotients behind them) is computed once a block:
// the lanes share the M blocks out among them, and each hears the others' results. Done by every
// lane for every block, these few numbers would cost more than all the codes.
//
// All lanes of a warp call these functions together. Each must equal the one of its name in ref,
// byte for byte: every product and sum rounds on its own (compiled with --fmad=false), quotients
// are IEEE's.
// Docs: docs/03-quantization.md

#include "cuda/codes.cuh"

namespace rotkv::cuda {

constexpr unsigned k_block_lanes = 8;
constexpr unsigned k_quant_threads = 128;  // of a block of threads that quantizes

__device__ inline unsigned lane_of_block() { return threadIdx.x % k_block_lanes; }

// The log2 M low bits of x in opposite order: lane l owns block mirrored<M>(l), and back.
template <int M>
__device__ unsigned mirrored(unsigned x) {
    unsigned y = 0;
#pragma unroll
    for (int m = 1; m < M; m *= 2, x >>= 1) y = y << 1 | (x & 1);
    return y;
}

// Is there a block of M that this lane is to complete, and which of y[0], y[step] ...?
template <int M>
__device__ bool owns_block() {
    return lane_of_block() < M;
}
template <int M>
__device__ unsigned own_block(unsigned step) {
    return mirrored<M>(lane_of_block()) * step;
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

// The larger one; NaN if one is NaN.
__device__ inline float larger_or_nan(float a, float b) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

// Of each block the greatest of f(element), or NaN.
template <int M, class F>
__device__ float block_max(const float4 (&x)[M], const F& f) {
    float most[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        most[m] =
            larger_or_nan(larger_or_nan(f(x[m].x), f(x[m].y)), larger_or_nan(f(x[m].z), f(x[m].w)));
    }
    return reduce_blocks(most, [](float a, float b, bool) { return larger_or_nan(a, b); });
}

// Of each block the first element of largest magnitude, with its sign; +0 if all are zero, inf if
// one is NaN.
template <int M>
__device__ float block_peak(const float4 (&x)[M]) {
    const auto larger = [](float first, float second) {
        return fabsf(second) > fabsf(first) ? second : first;
    };
    float peak[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        peak[m] = larger(larger(larger(x[m].x, x[m].y), x[m].z), x[m].w);
        // These comparisons pass NaN over, the sum does not. It may also be NaN as inf - inf: of
        // elements that are inf, or so large that the block's scale is.
        if (isnan((x[m].x + x[m].y) + (x[m].z + x[m].w))) peak[m] = INFINITY;
    }
    return 0.0f + reduce_blocks(peak, [&](float mine, float theirs, bool theirs_first) {
               return theirs_first ? larger(theirs, mine) : larger(mine, theirs);
           });
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
        const float first = theirs_first ? theirs : mine, second = theirs_first ? mine : theirs;
        return second < first ? second : first;
    });
}

struct Step {
    uint16_t scale;
    float inverse;  // NaN where the scale is not finite: NaN times x becomes code 0
};

// Of a d that is NaN or inf, because an element is, the scale is not finite.
__device__ inline Step block_step(float d) {
    const float inverse = 1.0f / d;
    const bool none = isinf(inverse);  // d is 0 or nearly so
    const uint16_t scale = none && d != 0.0f ? uint16_t(0) : f32_to_f16(d);
    const bool good = finite_f16(scale);
    return {good ? scale : k_nan_scale, none ? 0.0f : good ? inverse : NAN};
}

// The whole part of a sum x >= 0 of less than 2^22 as the low bits of a float; x may be NaN.
__device__ inline int whole(float x) { return __float_as_int(__fadd_rz(x, 8388608.0f)); }

// Codes of 4 lanes in low nibbles, those of the lanes 4 further in high ones. The upper lanes give
// theirs of one block for the lower lanes' of the next, so that all write: 4 bytes of a block each
// (M = 1: twice the same).
template <int M, class Block>
__device__ void put_nibbles(Block* y, unsigned step, const uint32_t (&codes)[M]) {
    const bool upper = lane_of_block() >= 4;
    Block* const mine = y + (M > 1 && upper ? step : 0);
#pragma unroll
    for (int m = 0; m < M; m += 2) {
        const uint32_t a = codes[m], b = codes[m + 1 < M ? m + 1 : m];
        const uint32_t theirs = __shfl_xor_sync(k_all_lanes, upper ? a : b, 4);
        const uint32_t low = upper ? theirs : a, high = upper ? b : theirs;
        store_bytes(mine[m * step].qs + 4 * (lane_of_block() % 4),
                    (low & 0x0F0F0F0Fu) | (high & 0x0F0F0F0Fu) << 4);
    }
}

// The fifth bits of the lane's four codes at their place in the block's 32: the product moves bits
// 4, 12, 20 and 28 side by side to the top.
__device__ inline uint32_t fifth_bits_of(uint32_t codes) {
    return (codes & 0x10101010u) * 0x01020408u >> 28 << (4 * lane_of_block());
}

template <int M, class Block>
__device__ void put_fifth_bits(Block* y, unsigned step, const uint32_t (&codes)[M]) {
    uint32_t bits[M];
#pragma unroll
    for (int m = 0; m < M; ++m) bits[m] = fifth_bits_of(codes[m]);
    const uint32_t all = reduce_blocks(bits, [](uint32_t a, uint32_t b, bool) { return a | b; });
    if (owns_block<M>()) store_bytes(y[own_block<M>(step)].qh, all);
}

template <class Code>
__device__ uint32_t pack_codes(const float4& x, const Code& code) {
    return pack(code(x.x), code(x.y), code(x.z), code(x.w));
}

template <int M>
__device__ void quantize_blocks(BlockQ8_0* y, unsigned step, const float4 (&x)[M]) {
    const float largest = block_max(x, [](float value) { return fabsf(value); });
    const Step mine = block_step(largest / 127.0f);
    if (owns_block<M>()) y[own_block<M>(step)].d = mine.scale;
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float inverse = from_owner<M>(mine.inverse, m);
        const uint32_t codes = pack_codes(x[m], [&](float value) {
            // To nearest, halves away from zero: the sum, cut towards zero, reaches no integer
            // that the exact sum does not reach.
            const float scaled = value * inverse;
            return int(__fadd_rz(scaled, copysignf(0.5f, scaled)));
        });
        store_bytes(y[m * step].qs + 4 * lane_of_block(), codes);
    }
}

// q4_0 and q5_0: levels -half .. half - 1, the element of largest magnitude at -half.
template <int M, class Block>
__device__ void quantize_signed(Block* y, unsigned step, const float4 (&x)[M], int half) {
    const Step mine = block_step(block_peak(x) * (-1.0f / float(half)));  // a power of two
    if (owns_block<M>()) y[own_block<M>(step)].d = mine.scale;
    const float center = float(half) + 0.5f, most = float(2 * half - 1);
    uint32_t codes[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float inverse = from_owner<M>(mine.inverse, m);
        codes[m] = pack_codes(
            x[m], [&](float value) { return whole(fminf(value * inverse + center, most)); });
        if (isnan(inverse)) codes[m] = 0;
    }
    put_nibbles(y, step, codes);
    if constexpr (sizeof(Block) == sizeof(BlockQ5_0)) put_fifth_bits(y, step, codes);
}

// q4_1 and q5_1: levels 0 .. top above the least element.
template <int M, class Block>
__device__ void quantize_above(Block* y, unsigned step, const float4 (&x)[M], int top) {
    const float least = block_min(x);
    const float width = block_max(x, [](float value) { return value; }) - least;
    Step mine = block_step(width / float(top));
    uint16_t minimum = f32_to_f16(least);
    if (!finite_f16(minimum)) mine = {k_nan_scale, NAN};
    if (isnan(mine.inverse)) minimum = 0;
    if (owns_block<M>()) {
        Block& block = y[own_block<M>(step)];
        block.d = mine.scale;
        block.m = minimum;
    }
    uint32_t codes[M];
#pragma unroll
    for (int m = 0; m < M; ++m) {
        const float inverse = from_owner<M>(mine.inverse, m), origin = from_owner<M>(least, m);
        codes[m] = pack_codes(x[m], [&](float value) {
            return whole(fminf((value - origin) * inverse + 0.5f, float(top)));
        });
        if (isnan(inverse)) codes[m] = 0;
    }
    put_nibbles(y, step, codes);
    if constexpr (sizeof(Block) == sizeof(BlockQ5_1)) put_fifth_bits(y, step, codes);
}

template <int M>
__device__ void quantize_blocks(BlockQ5_1* y, unsigned step, const float4 (&x)[M]) {
    quantize_above(y, step, x, 31);
}
template <int M>
__device__ void quantize_blocks(BlockQ5_0* y, unsigned step, const float4 (&x)[M]) {
    quantize_signed(y, step, x, 16);
}
template <int M>
__device__ void quantize_blocks(BlockQ4_1* y, unsigned step, const float4 (&x)[M]) {
    quantize_above(y, step, x, 15);
}
template <int M>
__device__ void quantize_blocks(BlockQ4_0* y, unsigned step, const float4 (&x)[M]) {
    quantize_signed(y, step, x, 8);
}

}  // namespace rotkv::cuda
