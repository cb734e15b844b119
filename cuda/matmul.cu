// What multiplies with the model's weights: matmul, y[t, o] = sum_i w[o, i] x[t, i], and embed,
// y[t] = scale * w[token[t]].
//   matmul  For few tokens, matvec.cu, for some, matmul_few.cu. For more, panels of the weight are
//           expanded to f32 (or to f16 or bf16, if products may round their factors) and multiplied
//           by cuBLAS; in f32 on the tensor cores of 9.0, expanded to three bf16, by
//           split_product.cuh.
//   embed   A thread owns four neighbouring channels of one token. Must equal ref::embed bit for
//           bit. Cost: the rows' bytes and 4 bytes an element.
#include "cuda/dequant_weight.cuh"
#include "cuda/matmul_few.h"
#include "cuda/products.h"

#include <algorithm>

namespace rotkv::cuda {
namespace {

constexpr int64_t k_panel_elements = 1 << 26;

DType type_of(Precision precision) {
    if (precision == Precision::f32) return DType::f32;
    return precision == Precision::f16 ? DType::f16 : DType::bf16;
}

__global__ void __launch_bounds__(k_threads)
    embed_kernel(Rows dst, TensorView weight, const int32_t* token, float scale, uint32_t tokens,
                 Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, t = per_row.of(thread);
    if (t >= tokens) return;
    const uint32_t i = (thread - t * per_row.d) * 4;
    const std::byte* row = weight.data + int64_t(token[t]) * weight.stride[2];
    const float4 w = weight4(weight.type, row, i, d);
    store4(dst.row<float>(t), i, d, dst.vectors,
           {w.x * scale, w.y * scale, w.z * scale, w.w * scale});
}

}  // namespace

void matmul(const MatmulArgs& args, Products& products) {
    if (args.dst.empty()) return;
    const int64_t tokens = args.src.n[2], in = args.src.n[3], out = args.weight.n[2];
    if (in == 0) {  // sums of nothing, of which there are no panels
        require_success(
            cudaMemset2DAsync(args.dst.row<float>(0), size_t(args.dst.stride[2]), 0,
                              size_t(out) * sizeof(float), size_t(tokens), products.stream()),
            "clear");
        return;
    }
    // For few tokens the weight's bytes set the pace: rounding would win nothing.
    if (tokens <= k_matvec_tokens || few_takes(args)) {
        return matvec({.products = {&args, 1}}, products.stream());
    }
    const DType type = type_of(args.precision);
    const int64_t panel = std::clamp(k_panel_elements / in, int64_t(1), out);
    std::byte* const room =
        products.reserve(room_for(tokens * in, type) + products.room_for_weight(panel, in, type));
    const Matrix x = products.rows_of(args.src, type, room);
    std::byte* const panel_room = room + room_for(tokens * in, type);
    for (int64_t first = 0; first < out; first += panel) {
        const int64_t rows = std::min(panel, out - first);
        const Matrix w = products.weight_of(args.weight, first, rows, {&x, 1}, panel_room);
        products.multiply(args.dst.row<float>(0) + first,
                          args.dst.stride[2] / int64_t(sizeof(float)), x, w);
    }
}

void embed(const EmbedArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t tokens = args.dst.n[2], d = args.dst.n[3], per_row = (d + 3) / 4;
    embed_kernel<<<blocks_for(tokens * per_row, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), args.weight, args.token.row<const int32_t>(0), args.scale, uint32_t(tokens),
        Divisor(per_row), uint32_t(d));
    require_launched("embed");
}

}  // namespace rotkv::cuda
