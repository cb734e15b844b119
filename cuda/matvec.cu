// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers.
//   y[t, o] = sum_i w[o, i] x[t, i]
// A row of the weight is shared by 1, 2 or 4 warps of a block of threads, more of them where there
// are few rows; a lane owns four times four neighbouring elements at a time and multiplies them
// with those of every token. The order of all sums follows from the shapes. One token, which is
// what generation has, gets a kernel with room for one sum: four times as many warps fit.
//   Cost: the weight's bytes, and the tokens' activations for each row, from the caches.
#include "cuda/dequant_weight.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

constexpr unsigned k_warps = 4;  // of a block of threads
constexpr uint32_t k_fours = 4;  // of a lane: so many loads of the weight are on their way at once

struct Job {
    TensorView dst, weight, src;
    uint32_t in, out, tokens;
    bool vectors;  // do the activations begin on 16 bytes?
};

__device__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// The part of row `w` that this lane owns, times all tokens, of which there are at most `most`.
template <DType type, uint32_t most>
__device__ void multiply(float (&sum)[most], const Job& job, const std::byte* w) {
    const uint32_t step = 4 * k_warp * blockDim.y;
    for (uint32_t i = 4 * (threadIdx.y * k_warp + threadIdx.x); i < job.in; i += k_fours * step) {
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

// threadIdx: lane, warp of those that share a row, row of the block.
template <DType type, uint32_t most>
__global__ void __launch_bounds__(k_warps* k_warp) matvec_kernel(const __grid_constant__ Job job) {
    __shared__ float of_warp[k_warps][most];
    const uint32_t lane = threadIdx.x, warp = threadIdx.z * blockDim.y + threadIdx.y;
    const uint32_t o = blockIdx.x * blockDim.z + threadIdx.z;
    float sum[most] = {};
    if (o < job.out) multiply<type>(sum, job, job.weight.data + o * job.weight.stride[2]);
#pragma unroll
    for (uint32_t t = 0; t < most; ++t) {
        if (t >= job.tokens) break;
        for (unsigned h = k_warp / 2; h > 0; h /= 2) sum[t] += partner(sum[t], h);
        if (lane == 0) of_warp[warp][t] = sum[t];
    }
    __syncthreads();
    if (threadIdx.y != 0 || lane >= job.tokens || o >= job.out) return;
    float y = of_warp[warp][lane];
    for (uint32_t next = 1; next < blockDim.y; ++next) y += of_warp[warp + next][lane];
    reinterpret_cast<float*>(job.dst.data + lane * job.dst.stride[2])[o] = y;
}

// Enough warps to keep the device busy, as long as each has four elements for all its lanes.
unsigned warps_to_a_row(int64_t out, int64_t in) {
    constexpr int64_t k_busy = 8192;  // warps: 64 for each of 128 processors
    unsigned warps = 1;
    while (warps < k_warps && out * warps < k_busy && in > 4 * k_warp * warps) warps *= 2;
    return warps;
}

template <DType type>
void launch(const Job& job, Stream stream) {
    const unsigned sharing = warps_to_a_row(job.out, job.in), rows = k_warps / sharing;
    const dim3 threads(k_warp, sharing, rows);
    const auto kernel =
        job.tokens == 1 ? matvec_kernel<type, 1> : matvec_kernel<type, uint32_t(k_matvec_tokens)>;
    kernel<<<blocks_for(job.out, rows), threads, 0, stream>>>(job);
}

}  // namespace

void matvec(const MatmulArgs& args, Stream stream) {
    const Job job{args.dst,
                  args.weight,
                  args.src,
                  uint32_t(args.weight.n[3]),
                  uint32_t(args.weight.n[2]),
                  uint32_t(args.src.n[2]),
                  rows_on_16_bytes(args.src)};
    // clang-format off
    switch (args.weight.type) {
        case DType::f32: launch<DType::f32>(job, stream); break;
        case DType::f16: launch<DType::f16>(job, stream); break;
        case DType::bf16: launch<DType::bf16>(job, stream); break;
        case DType::q8_0: launch<DType::q8_0>(job, stream); break;
        case DType::q5_1: launch<DType::q5_1>(job, stream); break;
        case DType::q5_0: launch<DType::q5_0>(job, stream); break;
        case DType::q4_1: launch<DType::q4_1>(job, stream); break;
        case DType::q4_0: launch<DType::q4_0>(job, stream); break;
        case DType::iq4_nl: launch<DType::iq4_nl>(job, stream); break;
        case DType::q2_k: launch<DType::q2_k>(job, stream); break;
        case DType::q3_k: launch<DType::q3_k>(job, stream); break;
        case DType::q4_k: launch<DType::q4_k>(job, stream); break;
        case DType::q5_k: launch<DType::q5_k>(job, stream); break;
        case DType::q6_k: launch<DType::q6_k>(job, stream); break;
        case DType::iq4_xs: launch<DType::iq4_xs>(job, stream); break;
        default: launch<DType::mxfp4>(job, stream);
    }
    // clang-format on
    require_launched("matvec");
}

}  // namespace rotkv::cuda
