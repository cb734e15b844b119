// Rows into the nine cache types (quantize) and out of them and of weights (dequantize).
//   The formulas are those of ref/quant_*.cpp. A thread owns four neighbouring channels at a time,
//   eight neighbouring threads a block of 32 (quant.cuh, dequant.cuh, dequant_weight.cuh).
//   Must equal ref::quantize and ref::dequantize byte for byte.
//   Cost: 4 bytes of f32 and the type's bytes for each element, each moved once.
#include "cuda/dequant_weight.cuh"
#include "cuda/kernels.h"
#include "cuda/store.cuh"

namespace rotkv::cuda {
namespace {

// Four channels of a row: `i` begins at d where there is no such row.
struct Four {
    uint32_t row, i;
};

__device__ Four four_of(uint32_t number, uint32_t rows, const Divisor& per_row, uint32_t d) {
    const uint32_t row = per_row.of(number);
    return row < rows ? Four{row, (number - row * per_row.d) * 4} : Four{0, d};
}

constexpr int k_fours = 4;  // of a thread that quantizes: 64 bytes of loads in flight

// A row is cut as kv_store cuts it (hadamard.cuh), without a rotation: 128 channels to eight lanes.
__global__ void __launch_bounds__(k_quant_threads)
    quantize_kernel(Rows dst, Rows src, DType type, uint32_t rows, Pieces cut, uint32_t word) {
    const uint32_t lane = threadIdx.x & (cut.lanes - 1);
    const uint32_t piece = (blockIdx.x * k_quant_threads + threadIdx.x) >> cut.lane_bits;
    const uint32_t row = cut.per_row.of(piece), begin = cut.begin_of(piece, row) + 4 * lane;
    const bool is_there = row < rows;
    const float* from = src.row<const float>(is_there ? row : 0);
    float4 x[k_fours];
#pragma unroll
    for (int j = 0; j < k_fours; ++j) {
        x[j] = load4(from, begin + 4 * cut.lanes * j, is_there ? cut.d : 0, src.vectors);
    }
    store_piece(type, is_there ? dst.row<std::byte>(row) : nullptr, begin, cut, word, x);
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
    const Pieces cut = wide_pieces(Rotation{}, args.src.n[3], 32 * k_fours);
    const int64_t rows = args.src.rows(), threads = rows * cut.per_row.d * cut.lanes;
    quantize_kernel<<<blocks_for(threads, k_quant_threads), k_quant_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), args.dst.type, uint32_t(rows), cut,
        store_word(args.dst, cut));
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
