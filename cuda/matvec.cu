// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers.
//   y[t, o] = sum_i w[o, i] x[t, i]
// A row of the weight is shared by 1, 2 or 4 warps of a block of threads, more of them where there
// are few rows; a lane owns four times four neighbouring elements at a time and multiplies them
// with those of every token. The order of all sums follows from the shapes. One token, which is
// what generation has, gets a kernel with room for one sum: four times as many warps fit.
//   Cost: the weight's bytes, and the tokens' activations for each row, from the caches.
//   Several weights that multiply the same activations are one launch, each with blocks of its own.
//   gate and up before act_mul: the same rows of both in one block, which also does act_mul.
#include "cuda/activation.cuh"
#include "cuda/dependent.cuh"
#include "cuda/dequant_weight.cuh"
#include "cuda/kernels.h"

#include <cstdlib>

namespace rotkv::cuda {
namespace {

constexpr unsigned k_warps = 4;   // of a block of threads; with act_mul, twice as many
constexpr uint32_t k_fours = 4;   // of a lane: so many loads of the weight are on their way at once
constexpr uint32_t k_line = 128;  // bytes that come from memory at once

// Blocks of the kernel for one token that a processor holds at once: 40 registers for a thread.
constexpr unsigned k_resident = 6;

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

__device__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// What this thread computes: part `part` of `parts` of row `o`.
struct Place {
    uint32_t o, part, parts;
};

// That part of row `w`, times all tokens, of which there are at most `most`.
template <DType type, uint32_t most>
__device__ void multiply(float (&sum)[most], const Job& job, const std::byte* w,
                         const Place& place) {
    const uint32_t step = 4 * k_warp * place.parts;
    for (uint32_t i = 4 * (place.part * k_warp + threadIdx.x); i < job.in; i += k_fours * step) {
        float4 four[k_fours];
#pragma unroll
        for (uint32_t u = 0; u < k_fours; ++u) four[u] = weight4(type, w, i + u * step, job.in);
#pragma unroll
        for (uint32_t t = 0; t < most; ++t) {
            if (t >= job.tokens) break;
            const float* x = reinterpret_cast<const float*>(job.src.data + t * job.src.stride[2]);
#pragma unroll
            for (uint32_t u = 0; u < k_fours; ++u) {
                sum[t] = dot(four[u], load4(x, i + u * step, job.in, job.vectors), sum[t]);
            }
        }
    }
}

// The sum for token `t` of the row that begins at `warp`.
template <uint32_t most>
__device__ float total(const float (*of_warp)[most], uint32_t warp, uint32_t parts, uint32_t t) {
    float y = of_warp[warp][t];
    for (uint32_t next = 1; next < parts; ++next) y += of_warp[warp + next][t];
    return y;
}

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
    if (there) multiply<type>(sum, job, w, place);
#pragma unroll
    for (uint32_t t = 0; t < most; ++t) {
        if (t >= job.tokens) break;
        for (unsigned h = k_warp / 2; h > 0; h /= 2) sum[t] += partner(sum[t], h);
        if (lane == 0) of_warp[warp][t] = sum[t];
    }
    __syncthreads();
    if (place.part != 0 || lane >= job.tokens || !there) return;
    float y = total(of_warp, warp, parts, lane);
    if (job.gated && row % 2 == 0) {
        y = activate(job.activation, y) * total(of_warp, warp + parts, parts, lane);
    }
    reinterpret_cast<float*>(product.dst.data + lane * product.dst.stride[2])[place.o] = y;
}

// 2^split warps to a row: enough to keep the device busy, as long as each has more left than the
// loads that are on their way at once.
uint32_t split_of(int64_t out, int64_t in) {
    constexpr int64_t k_busy = 8192;  // warps: 64 for each of 128 processors
    constexpr int64_t k_at_once = 4 * k_fours * k_warp;
    uint32_t split = 0;
    while ((1u << split) < k_warps && out << split < k_busy && in > k_at_once << split) ++split;
    return split;
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
    // clang-format off
    switch (calls[0].weight.type) {
        case DType::f32: launch<DType::f32>(job, blocks, stream); break;
        case DType::f16: launch<DType::f16>(job, blocks, stream); break;
        case DType::bf16: launch<DType::bf16>(job, blocks, stream); break;
        case DType::q8_0: launch<DType::q8_0>(job, blocks, stream); break;
        case DType::q5_1: launch<DType::q5_1>(job, blocks, stream); break;
        case DType::q5_0: launch<DType::q5_0>(job, blocks, stream); break;
        case DType::q4_1: launch<DType::q4_1>(job, blocks, stream); break;
        case DType::q4_0: launch<DType::q4_0>(job, blocks, stream); break;
        case DType::iq4_nl: launch<DType::iq4_nl>(job, blocks, stream); break;
        case DType::q2_k: launch<DType::q2_k>(job, blocks, stream); break;
        case DType::q3_k: launch<DType::q3_k>(job, blocks, stream); break;
        case DType::q4_k: launch<DType::q4_k>(job, blocks, stream); break;
        case DType::q5_k: launch<DType::q5_k>(job, blocks, stream); break;
        case DType::q6_k: launch<DType::q6_k>(job, blocks, stream); break;
        case DType::iq4_xs: launch<DType::iq4_xs>(job, blocks, stream); break;
        case DType::mxfp4: launch<DType::mxfp4>(job, blocks, stream); break;
        case DType::i32: case DType::f64: std::abort();  // check() has refused these
    }
    // clang-format on
}

}  // namespace rotkv::cuda
