// The nine cache types. Beside ref, loops run over the 16 bytes of a block's nibbles and handle
// code j and code j + 16 together, which leaves nothing in them that a vector cannot do. The
// products and sums are ref's, one by one, and so are the bytes.
//
// One quantize_block and one dequantize_block per format, in ref's order; rows and the operations
// below. Codes of iq4_nl and mxfp4 pick levels, in registers (packed.h); the other formats that
// only weights use have one implementation, ref::dequantize_row.
#include "ref/quant.h"

#include "fast/kernels.h"
#include "fast/packed.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace rotkv::fast {
namespace {

uint32_t magnitude_bits(float x) { return std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu; }

// Positive floats are ordered like their bits, NaN and inf above all others.
bool finite_bits(uint32_t magnitude) { return magnitude < 0x7F800000u; }
bool finite_f16(uint16_t h) { return (h & 0x7C00u) != 0x7C00u; }

uint32_t largest_magnitude(const float* x) {
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < k_block; ++j) largest = std::max(largest, magnitude_bits(x[j]));
    return largest;
}

// The first element that has the largest magnitude, with its sign; +0 for a block of zeros.
float first_peak(const float* x, uint32_t largest) {
    if (largest == 0) return 0.0f;
    int32_t first = k_block;
#pragma omp simd reduction(min : first)
    for (int32_t j = 0; j < int32_t(k_block); ++j) {
        first = std::min(first, magnitude_bits(x[j]) == largest ? j : int32_t(k_block));
    }
    return x[first];
}

struct Range {
    float min, max;
};

// Of zeros of both signs, the first gives the minimum its sign; and the maximum, where all are
// zeros: their difference is then +0.
Range min_max(const float* x) {
    Vec lowest = load(x), highest = lowest;
    for (int64_t j = k_lanes; j < k_block; j += k_lanes) {
        lowest = min(lowest, load(x + j));
        highest = max(highest, load(x + j));
    }
    float lows[k_lanes], highs[k_lanes];
    store(lows, fold_lanes(lowest, [](const Vec& a, const Vec& b) { return min(a, b); }));
    store(highs, fold_lanes(highest, [](const Vec& a, const Vec& b) { return max(a, b); }));
    const float least = lows[0] == 0.0f ? *std::find(x, x + k_block, 0.0f) : lows[0];
    return {least, highs[0] == least ? least : highs[0]};
}

// A step d as it is stored and as codes use it; both 0 where 1 / d overflows.
struct Step {
    uint16_t scale;
    float inverse;
};

Step block_step(float d) {
    const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    if (std::isinf(inverse)) return {0, 0.0f};
    return {f16_bits(d), inverse};
}

// min(highest, trunc((x - offset) * inverse + rounding)) of all elements
struct Coding {
    float offset, inverse, rounding;
    int32_t highest;

    uint32_t operator()(float x) const {
        return uint32_t(std::min(highest, int32_t((x - offset) * inverse + rounding)));
    }
};

// Code j in the low nibble of byte j, code j + 16 in the high one.
void put_nibbles(uint8_t* qs, const float* x, const Coding& code) {
#pragma omp simd
    for (int64_t j = 0; j < 16; ++j) {
        qs[j] = uint8_t((code(x[j]) & 15u) | (code(x[j + 16]) & 15u) << 4);
    }
}

// Bit 4 of code j in bit j of qh, little endian.
void put_fifth_bits(uint8_t* qh, const float* x, const Coding& code) {
    uint32_t bits = 0;
#pragma omp simd reduction(| : bits)
    for (uint32_t j = 0; j < uint32_t(k_block); ++j) bits |= (code(x[j]) >> 4 & 1u) << j;
    for (int i = 0; i < 4; ++i) qh[i] = uint8_t(bits >> 8 * i);
}

uint32_t fifth_bits(const uint8_t* qh) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= uint32_t(qh[i]) << 8 * i;
    return bits;
}

// y_j = value(low four bits of code j, j)
template <class Value>
void expand(float* y, const uint8_t* qs, Value value) {
#pragma omp simd
    for (int32_t j = 0; j < 16; ++j) {
        y[j] = value(qs[j] & 15, j);
        y[j + 16] = value(qs[j] >> 4, j + 16);
    }
}

// round(v) with halves away from zero: what truncation leaves is exact and decides.
int32_t round_away(float v) {
    const int32_t whole = int32_t(v);
    const float rest = v - float(whole);
    return whole + int32_t(rest >= 0.5f) - int32_t(rest <= -0.5f);
}

void quantize_block(BlockQ8_0& y, const float* x) {
    const uint32_t largest = largest_magnitude(x);
    const Step step = block_step(std::bit_cast<float>(largest) / 127.0f);
    if (!finite_bits(largest) || !finite_f16(step.scale)) {
        y = {k_nan_scale, {}};
        return;
    }
    y.d = step.scale;
#pragma omp simd
    for (int64_t j = 0; j < k_block; ++j) y.qs[j] = int8_t(round_away(x[j] * step.inverse));
}

void dequantize_block(float* y, const BlockQ8_0& x) {
    const float d = f16_value(x.d);
#pragma omp simd
    for (int64_t j = 0; j < k_block; ++j) y[j] = d * float(x.qs[j]);
}

void quantize_block(BlockQ5_1& y, const float* x) {
    const auto [min, max] = min_max(x);
    const Step step = block_step((max - min) / 31.0f);
    const uint16_t minimum = f16_bits(min);
    const bool finite = finite_bits(largest_magnitude(x));
    if (!finite || !finite_f16(step.scale) || !finite_f16(minimum)) {
        y = {k_nan_scale, 0, {}, {}};
        return;
    }
    y.d = step.scale;
    y.m = minimum;
    const Coding code{min, step.inverse, 0.5f, 31};
    put_nibbles(y.qs, x, code);
    put_fifth_bits(y.qh, x, code);
}

void dequantize_block(float* y, const BlockQ5_1& x) {
    const float d = f16_value(x.d), m = f16_value(x.m);
    const uint32_t fifth = fifth_bits(x.qh);
    expand(y, x.qs, [=](int32_t low, int32_t j) {
        return d * float(low | int32_t(fifth >> j & 1u) << 4) + m;
    });
}

void quantize_block(BlockQ5_0& y, const float* x) {
    const uint32_t largest = largest_magnitude(x);
    const Step step = block_step(first_peak(x, largest) / -16.0f);
    if (!finite_bits(largest) || !finite_f16(step.scale)) {
        y = {k_nan_scale, {}, {}};
        return;
    }
    y.d = step.scale;
    const Coding code{0.0f, step.inverse, 16.5f, 31};
    put_nibbles(y.qs, x, code);
    put_fifth_bits(y.qh, x, code);
}

void dequantize_block(float* y, const BlockQ5_0& x) {
    const float d = f16_value(x.d);
    const uint32_t fifth = fifth_bits(x.qh);
    expand(y, x.qs, [=](int32_t low, int32_t j) {
        return d * float((low | int32_t(fifth >> j & 1u) << 4) - 16);
    });
}

void quantize_block(BlockQ4_1& y, const float* x) {
    const auto [min, max] = min_max(x);
    const Step step = block_step((max - min) / 15.0f);
    const uint16_t minimum = f16_bits(min);
    const bool finite = finite_bits(largest_magnitude(x));
    if (!finite || !finite_f16(step.scale) || !finite_f16(minimum)) {
        y = {k_nan_scale, 0, {}};
        return;
    }
    y.d = step.scale;
    y.m = minimum;
    const Coding code{min, step.inverse, 0.5f, 15};
    put_nibbles(y.qs, x, code);
}

void dequantize_block(float* y, const BlockQ4_1& x) {
    const float d = f16_value(x.d), m = f16_value(x.m);
    expand(y, x.qs, [=](int32_t code, int32_t) { return d * float(code) + m; });
}

void quantize_block(BlockQ4_0& y, const float* x) {
    const uint32_t largest = largest_magnitude(x);
    const Step step = block_step(first_peak(x, largest) / -8.0f);
    if (!finite_bits(largest) || !finite_f16(step.scale)) {
        y = {k_nan_scale, {}};
        return;
    }
    y.d = step.scale;
    const Coding code{0.0f, step.inverse, 8.5f, 15};
    put_nibbles(y.qs, x, code);
}

void dequantize_block(float* y, const BlockQ4_0& x) {
    const float d = f16_value(x.d);
    expand(y, x.qs, [=](int32_t code, int32_t) { return d * float(code - 8); });
}

// The code of the level nearest to v is the number of midpoints between levels that v has reached.
// Midpoints are exact in f32, and so is ref's comparison of two distances near one.
uint8_t nearest_level(float v) {
    int32_t code = 0;  // as wide as v, so that a vector of v gives a vector of codes
    for (int c = 1; c < 16; ++c) {
        const float midpoint = 0.5f * float(k_iq4_levels[c - 1] + k_iq4_levels[c]);
        code += v >= midpoint ? 1 : 0;
    }
    return uint8_t(code);
}

// A block on its way: codes, and the terms whose sums give the scale.
struct Iq4Terms {
    uint32_t largest = 0;
    uint8_t codes[k_block] = {};
    float lx[k_block] = {}, ll[k_block] = {};

    bool tiny() const { return std::bit_cast<float>(largest) < k_iq4_nl_tiny; }
};

void choose_codes(Iq4Terms& terms, const float* x) {
    terms.largest = largest_magnitude(x);
    if (terms.tiny()) return;
    const float inverse = 1.0f / (first_peak(x, terms.largest) / -127.0f);
#pragma omp simd
    for (int64_t j = 0; j < k_block; ++j) terms.codes[j] = nearest_level(x[j] * inverse);
    int8_t levels[k_block];
    pick16(levels, k_iq4_levels, terms.codes);
    pick16(levels + 16, k_iq4_levels, terms.codes + 16);
#pragma omp simd
    for (int64_t j = 0; j < k_block; ++j) {
        const float level = float(levels[j]), weight = x[j] * x[j];
        terms.lx[j] = weight * level * x[j];
        terms.ll[j] = weight * level * level;
    }
}

void write_block(BlockIq4Nl& y, const Iq4Terms& terms, float scale) {
    if (terms.tiny()) {
        y.d = 0;
        std::fill_n(y.qs, 16, uint8_t(0x88));
        return;
    }
    y.d = f16_bits(scale);
    for (int64_t j = 0; j < 16; ++j) y.qs[j] = uint8_t(terms.codes[j] | terms.codes[j + 16] << 4);
    if (!finite_bits(terms.largest) || !finite_f16(y.d)) y = {k_nan_scale, {}};
}

// Two blocks at once. The sums go in index order, because the bytes must equal ggml's, and an
// addition waits for the one before it: meanwhile the other block's is under way.
void quantize_two(BlockIq4Nl* y, const float* x, int64_t count) {
    Iq4Terms a, b;
    choose_codes(a, x);
    if (count > 1) choose_codes(b, x + k_block);
    float a_lx = 0.0f, a_ll = 0.0f, b_lx = 0.0f, b_ll = 0.0f;
    for (int64_t j = 0; j < k_block; ++j) {
        a_lx += a.lx[j];
        a_ll += a.ll[j];
        b_lx += b.lx[j];
        b_ll += b.ll[j];
    }
    write_block(y[0], a, a_lx / a_ll);
    if (count > 1) write_block(y[1], b, b_lx / b_ll);
}

template <class Block>
void quantize_blocks(void* y, const float* x, int64_t n) {
    Block* blocks = static_cast<Block*>(y);
    for (int64_t b = 0; b < n / k_block; ++b) quantize_block(blocks[b], x + b * k_block);
}

void quantize_iq4_nl(void* y, const float* x, int64_t n) {
    BlockIq4Nl* blocks = static_cast<BlockIq4Nl*>(y);
    const int64_t count = n / k_block;
    for (int64_t b = 0; b < count; b += 2) quantize_two(blocks + b, x + b * k_block, count - b);
}

template <class Block>
void dequantize_blocks(float* y, const void* x, int64_t n) {
    const Block* blocks = static_cast<const Block*>(x);
    for (int64_t b = 0; b < n / k_block; ++b) dequantize_block(y + b * k_block, blocks[b]);
}

// Whose codes pick levels.
template <DType type>
void dequantize_levels(float* y, const void* x, int64_t n) {
    for (int64_t b = 0; b < n / k_block; ++b, y += k_block) {
        Vec v[k_block_vectors];
        Packed<type>::values(v, x, b, Packed<type>::number(x, b));
        for (int64_t j = 0; j < k_block_vectors; ++j) store(y + j * k_lanes, v[j]);
    }
}

void f32_to_bf16_row(uint16_t* y, const float* x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = f32_to_bf16(x[i]);
}

void bf16_to_f32_row(float* y, const uint16_t* x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = bf16_to_f32(x[i]);
}

}  // namespace

void quantize_row(DType type, void* y, const float* x, int64_t n) {
    // clang-format off
    switch (type) {
        case DType::f32: std::copy_n(x, n, static_cast<float*>(y)); return;
        case DType::f16: f32_to_f16_row(static_cast<uint16_t*>(y), x, n); return;
        case DType::bf16: f32_to_bf16_row(static_cast<uint16_t*>(y), x, n); return;
        case DType::q8_0: quantize_blocks<BlockQ8_0>(y, x, n); return;
        case DType::q5_1: quantize_blocks<BlockQ5_1>(y, x, n); return;
        case DType::q5_0: quantize_blocks<BlockQ5_0>(y, x, n); return;
        case DType::q4_1: quantize_blocks<BlockQ4_1>(y, x, n); return;
        case DType::q4_0: quantize_blocks<BlockQ4_0>(y, x, n); return;
        case DType::iq4_nl: quantize_iq4_nl(y, x, n); return;
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // check() has refused every other type
}

void dequantize_row(DType type, float* y, const void* x, int64_t n) {
    // clang-format off
    switch (type) {
        case DType::f32: std::copy_n(static_cast<const float*>(x), n, y); return;
        case DType::f16: f16_to_f32_row(y, static_cast<const uint16_t*>(x), n); return;
        case DType::bf16: bf16_to_f32_row(y, static_cast<const uint16_t*>(x), n); return;
        case DType::q8_0: dequantize_blocks<BlockQ8_0>(y, x, n); return;
        case DType::q5_1: dequantize_blocks<BlockQ5_1>(y, x, n); return;
        case DType::q5_0: dequantize_blocks<BlockQ5_0>(y, x, n); return;
        case DType::q4_1: dequantize_blocks<BlockQ4_1>(y, x, n); return;
        case DType::q4_0: dequantize_blocks<BlockQ4_0>(y, x, n); return;
        case DType::iq4_nl: dequantize_levels<DType::iq4_nl>(y, x, n); return;
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs:
            ref::dequantize_row(type, y, x, n); return;  // shared: weights only
        case DType::mxfp4: dequantize_levels<DType::mxfp4>(y, x, n); return;
        case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // check() has refused these
}

// One thread owns a whole row.
void quantize(const QuantizeArgs& args) {
    const int64_t rows = args.src.rows(), d = args.src.n[3];
#pragma omp parallel for if (rows * d >= k_parallel_from)
    for (int64_t r = 0; r < rows; ++r) {
        quantize_row(args.dst.type, row_number<std::byte>(args.dst, r),
                     row_number<const float>(args.src, r), d);
    }
}

void dequantize(const DequantizeArgs& args) {
    const int64_t rows = args.dst.rows(), d = args.dst.n[3];
#pragma omp parallel for if (rows * d >= k_parallel_from)
    for (int64_t r = 0; r < rows; ++r) {
        dequantize_row(args.src.type, row_number<float>(args.dst, r),
                       row_number<const std::byte>(args.src, r), d);
    }
}

}  // namespace rotkv::fast
