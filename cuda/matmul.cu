// What reads the model's weights: so far embed, y[t] = scale * w[token[t]].
//   A thread owns four neighbouring channels of one token. Must equal ref::embed bit for bit.
//   Cost: the weight's bytes and 4 bytes an element. Products with weights (matmul) and what walks
//   the vocabulary (nll, kld, logits) are not in this room yet.
#include "cuda/dequant.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

__global__ void __launch_bounds__(k_threads)
    embed_kernel(Rows dst, TensorView weight, const int32_t* token, float scale, uint32_t tokens,
                 Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, t = per_row.of(thread);
    if (t >= tokens) return;
    const uint32_t i = (thread - t * per_row.d) * 4;
    const std::byte* row = weight.data + int64_t(token[t]) * weight.stride[2];
    const float4 w = dequantize4(weight.type, row, i, d);
    store4(dst.row<float>(t), i, d, dst.vectors,
           {w.x * scale, w.y * scale, w.z * scale, w.w * scale});
}

}  // namespace

void embed(const EmbedArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t tokens = args.dst.n[2], d = args.dst.n[3], per_row = (d + 3) / 4;
    embed_kernel<<<blocks_for(tokens * per_row, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), args.weight, args.token.row<const int32_t>(0), args.scale, uint32_t(tokens),
        Divisor(per_row), uint32_t(d));
    require_launched("embed");
}

}  // namespace rotkv::cuda
