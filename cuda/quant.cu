// Rows into the nine cache types (quantize) and out of them and of weights (dequantize).
//   The formulas are those of ref/quant_*.cpp. A thread owns four neighbouring channels at a time,
//   eight neighbouring threads a block of 32 (quant.cuh, dequant.cuh, dequant_weight.cuh).
//   Must equal ref::quantize and ref::dequantize byte for byte.
//   Cost: 4 bytes of f32 and the type's bytes for each element, each moved once.
#include "cuda/dequant_weight.cuh"
#include "cuda/kernels.h"
#include "cuda/quant.cuh"

namespace rotkv::cuda {
namespace {

constexpr int k_fours = 4;  // of a thread that quantizes: 64 bytes of loads in flight

// Four channels of a row: `i` begins at d where there is no such row.
struct Four {
    uint32_t row, i;
};

__device__ Four four_of(uint32_t number, uint32_t rows, const Divisor& per_row, uint32_t d) {
    const uint32_t row = per_row.of(number);
    return row < rows ? Four{row, (number - row * per_row.d) * 4} : Four{0, d};
}

// per_row is a multiple of 8, so that the lanes of a block of 32 are neighbours.
__global__ void __launch_bounds__(k_threads)
    quantize_kernel(Rows dst, Rows src, DType type, uint32_t rows, Divisor per_row, uint32_t d) {
    const uint32_t first = blockIdx.x * k_threads * k_fours + threadIdx.x;
    float4 x[k_fours];
    uint32_t row[k_fours], i[k_fours];
#pragma unroll
    for (int m = 0; m < k_fours; ++m) {
        const Four at = four_of(first + m * k_threads, rows, per_row, d);
        row[m] = at.row;
        i[m] = at.i;
        x[m] = load4(src.row<const float>(at.row), at.i, d, src.vectors);
    }
    with_cache_type(type, [&](auto element) {
        decltype(element)* y[k_fours];
#pragma unroll
        for (int m = 0; m < k_fours; ++m) {
            y[m] = i[m] < d ? dst.row<decltype(element)>(row[m]) : nullptr;
        }
        store_fours(y, i, d, x);
    });
}

__global__ void __launch_bounds__(k_threads)
    dequantize_kernel(Rows dst, Rows src, DType type, uint32_t rows, Divisor per_row, uint32_t d) {
    const Four at = four_of(blockIdx.x * k_threads + threadIdx.x, rows, per_row, d);
    if (at.i >= d) return;
    const float4 x = weight4(type, src.row<const std::byte>(at.row), at.i, d);
    store4(dst.row<float>(at.row), at.i, d, dst.vectors, x);
}

}  // namespace

void quantize(const QuantizeArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const int64_t rows = args.src.rows(), d = args.src.n[3], per_row = (d + 31) / 32 * 8;
    quantize_kernel<<<blocks_for(rows * per_row, k_threads * k_fours), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), args.dst.type, uint32_t(rows), Divisor(per_row),
        uint32_t(d));
    require_launched("quantize");
}

void dequantize(const DequantizeArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const int64_t rows = args.src.rows(), d = args.src.n[3], per_row = (d + 3) / 4;
    dequantize_kernel<<<blocks_for(rows * per_row, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), args.src.type, uint32_t(rows), Divisor(per_row),
        uint32_t(d));
    require_launched("dequantize");
}

}  // namespace rotkv::cuda
