#include "ref/quant.h"

#include "ref/error.h"
#include "ref/half.h"
#include "ref/kernels.h"
#include "ref/rows.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <string>

namespace rotkv::ref {
namespace {

template <class Block>
void quantize_blocks(void* y, const float* x, int64_t n) {
    assert(n % k_block == 0);
    Block* blocks = static_cast<Block*>(y);
    for (int64_t b = 0; b < n / k_block; ++b) quantize_block(blocks[b], x + b * k_block);
}

template <class Block, int64_t elements>
void dequantize_blocks(float* y, const void* x, int64_t n) {
    assert(n % elements == 0);
    const Block* blocks = static_cast<const Block*>(x);
    for (int64_t b = 0; b < n / elements; ++b) dequantize_block(y + b * elements, blocks[b]);
}

[[noreturn]] void throw_unsupported(const TypeInfo& info, const char* what) {
    throw Error(ErrorCode::unsupported, std::string("type ") + info.name + " cannot be " + what);
}

}  // namespace

void check_quantize_row(DType type, int64_t n) {
    row_bytes(type, n);  // throws if n does not fill whole blocks
    const TypeInfo& info = type_info(type);
    if (!info.cache) throw_unsupported(info, "quantized to: no cache uses it");
}

void check_dequantize_row(DType type, int64_t n) {
    row_bytes(type, n);
    const TypeInfo& info = type_info(type);
    if (info.cache || info.weight) return;
    throw_unsupported(info, "dequantized: no cache or weight uses it");
}

void quantize_row(DType type, void* y, const float* x, int64_t n) {
    uint16_t* const halves = static_cast<uint16_t*>(y);
    // clang-format off
    switch (type) {
        case DType::f32: std::copy_n(x, n, static_cast<float*>(y)); return;
        case DType::f16: std::transform(x, x + n, halves, f32_to_f16); return;
        case DType::bf16: std::transform(x, x + n, halves, f32_to_bf16); return;
        case DType::q8_0: quantize_blocks<BlockQ8_0>(y, x, n); return;
        case DType::q5_1: quantize_blocks<BlockQ5_1>(y, x, n); return;
        case DType::q5_0: quantize_blocks<BlockQ5_0>(y, x, n); return;
        case DType::q4_1: quantize_blocks<BlockQ4_1>(y, x, n); return;
        case DType::q4_0: quantize_blocks<BlockQ4_0>(y, x, n); return;
        case DType::iq4_nl: quantize_blocks<BlockIq4Nl>(y, x, n); return;
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // nobody asked check_quantize_row
}

void dequantize_row(DType type, float* y, const void* x, int64_t n) {
    const uint16_t* const halves = static_cast<const uint16_t*>(x);
    // clang-format off
    switch (type) {
        case DType::f32: std::copy_n(static_cast<const float*>(x), n, y); return;
        case DType::f16: std::transform(halves, halves + n, y, f16_to_f32); return;
        case DType::bf16: std::transform(halves, halves + n, y, bf16_to_f32); return;
        case DType::q8_0: dequantize_blocks<BlockQ8_0, k_block>(y, x, n); return;
        case DType::q5_1: dequantize_blocks<BlockQ5_1, k_block>(y, x, n); return;
        case DType::q5_0: dequantize_blocks<BlockQ5_0, k_block>(y, x, n); return;
        case DType::q4_1: dequantize_blocks<BlockQ4_1, k_block>(y, x, n); return;
        case DType::q4_0: dequantize_blocks<BlockQ4_0, k_block>(y, x, n); return;
        case DType::iq4_nl: dequantize_blocks<BlockIq4Nl, k_block>(y, x, n); return;
        case DType::mxfp4: dequantize_blocks<BlockMxfp4, k_block>(y, x, n); return;
        case DType::q2_k: dequantize_blocks<BlockQ2_K, k_super>(y, x, n); return;
        case DType::q3_k: dequantize_blocks<BlockQ3_K, k_super>(y, x, n); return;
        case DType::q4_k: dequantize_blocks<BlockQ4_K, k_super>(y, x, n); return;
        case DType::q5_k: dequantize_blocks<BlockQ5_K, k_super>(y, x, n); return;
        case DType::q6_k: dequantize_blocks<BlockQ6_K, k_super>(y, x, n); return;
        case DType::iq4_xs: dequantize_blocks<BlockIq4Xs, k_super>(y, x, n); return;
        case DType::i32: case DType::f64: break;
    }
    // clang-format on
    std::abort();  // nobody asked check_dequantize_row
}

BlockRange block_range(const float* x) {
    BlockRange range{x[0], x[0], 0.0f, true};
    for (int64_t j = 0; j < k_block; ++j) {
        if (x[j] < range.min) range.min = x[j];
        if (x[j] > range.max) range.max = x[j];
        if (std::fabs(x[j]) > std::fabs(range.peak)) range.peak = x[j];
        if (!std::isfinite(x[j])) range.finite = false;
    }
    return range;
}

Step block_step(float d) {
    const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    if (std::isinf(inverse)) return {0, 0.0f};
    return {f32_to_f16(d), inverse};
}

void quantize(const QuantizeArgs& args) {
    const int64_t d = args.src.n[3];
    for_each_row(args.src, [&](int64_t i0, int64_t i1, int64_t i2) {
        quantize_row(args.dst.type, args.dst.row<std::byte>(i0, i1, i2),
                     args.src.row<const float>(i0, i1, i2), d);
    });
}

void dequantize(const DequantizeArgs& args) {
    const int64_t d = args.src.n[3];
    for_each_row(args.src, [&](int64_t i0, int64_t i1, int64_t i2) {
        dequantize_row(args.src.type, args.dst.row<float>(i0, i1, i2),
                       args.src.row<const std::byte>(i0, i1, i2), d);
    });
}

}  // namespace rotkv::ref
