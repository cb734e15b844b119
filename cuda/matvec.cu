// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers.
//   y[t, o] = sum_i w[o, i] x[t, i]
// matvec.cuh says which thread has what. One token, which is what generation has, gets a kernel
// with room for one sum: four times as many warps fit.
//   Cost: the weight's bytes, and the tokens' activations for each row, from the caches.
//   Several weights that multiply the same activations are one launch, each with blocks of its own.
//   gate and up before act_mul: the same rows of both in one block, which also does act_mul.
#include "cuda/activation.cuh"
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/matvec.cuh"

namespace rotkv::cuda {
namespace {

// One weight: its rows belong to the blocks from `first_block` on, 2^split warps share one.
struct Product {
    TensorView dst, weight;
    uint32_t out, split, first_block, row_bytes;
};

struct Job {
    Product product[k_most_products];
    TensorView src;
    uint32_t in, tokens;
    bool vectors;  // do the activations begin on 16 bytes?
    bool gated;    // are these gate and up, whose rows take turns, and is act_mul asked for?
    Activation activation;
};

// threadIdx: lane, warp of the block.
template <DType type, uint32_t most>
__global__ void __launch_bounds__(2 * k_warps * k_warp, most == 1 ? k_resident : 1)
    matvec_kernel(const __grid_constant__ Job job) {
    __shared__ float of_warp[2 * k_warps][most];
    const uint32_t lane = threadIdx.x, warp = threadIdx.y;
    const uint32_t of_block =
        (blockIdx.x >= job.product[1].first_block) + (blockIdx.x >= job.product[2].first_block);
    const uint32_t split = job.product[of_block].split, parts = 1u << split;
    const uint32_t block = blockIdx.x - job.product[of_block].first_block;
    const uint32_t row = (block * blockDim.y + warp) >> split;
    const Product& product = job.product[job.gated ? row % 2 : of_block];
    const Place place{job.gated ? row / 2 : row, warp % parts, parts};
    const std::byte* w = product.weight.data + place.o * product.weight.stride[2];
    const bool there = place.o < product.out;
    for (uint32_t i = (place.part * k_warp + lane) * k_line; there && i < product.row_bytes;
         i += parts * k_warp * k_line) {
        prefetch(w + i);
    }
    wait_for_earlier();
    let_next_come();
    float sum[most] = {};
    const auto token = [&](uint32_t t) {
        return reinterpret_cast<const float*>(job.src.data + t * job.src.stride[2]);
    };
    if (there) multiply<type>(sum, w, job.in, job.tokens, token, job.vectors, place);
    share_sums(of_warp, sum, job.tokens);
    __syncthreads();
    if (place.part != 0 || lane >= job.tokens || !there) return;
    float y = total(of_warp, warp, parts, lane);
    if (job.gated && row % 2 == 0) {
        y = gated(job.activation, y, total(of_warp, warp + parts, parts, lane));
    }
    reinterpret_cast<float*>(product.dst.data + lane * product.dst.stride[2])[place.o] = y;
}

template <DType type>
void launch(const Job& job, unsigned blocks, Stream stream) {
    const auto kernel =
        job.tokens == 1 ? matvec_kernel<type, 1> : matvec_kernel<type, uint32_t(k_matvec_tokens)>;
    const dim3 threads(k_warp, job.gated ? 2 * k_warps : k_warps);
    launch_dependent(kernel, blocks, threads, 0, stream, job);
}

// Blocks in which gate's row and up's lie side by side are as many as gate alone would have.
unsigned place_products(Job& job, std::span<const MatmulArgs> calls) {
    unsigned blocks = 0;
    for (std::size_t i = 0; i < k_most_products; ++i) {
        Product& product = job.product[i];
        product.first_block = UINT32_MAX;
        if (i >= calls.size()) continue;
        const MatmulArgs& args = calls[i];
        product.dst = args.dst;
        product.weight = args.weight;
        product.out = uint32_t(args.weight.n[2]);
        product.split = split_of(args.weight.n[2], job.in);
        product.row_bytes = uint32_t(row_bytes(args.weight.type, job.in));
        if (job.gated && i > 0) continue;
        product.first_block = blocks;
        blocks += blocks_for(args.weight.n[2] << product.split, k_warps);
    }
    return blocks;
}

}  // namespace

void matvec(std::span<const MatmulArgs> calls, const ActMulArgs* then, Stream stream) {
    const TensorView& src = calls[0].src;
    Job job{{},
            src,
            uint32_t(src.n[3]),
            uint32_t(src.n[2]),
            rows_on_16_bytes(src),
            then != nullptr,
            then != nullptr ? then->activation : Activation::silu};
    const unsigned blocks = place_products(job, calls);
    with_weight_type(calls[0].weight.type,
                     [&]<DType type>() { launch<type>(job, blocks, stream); });
}

}  // namespace rotkv::cuda
