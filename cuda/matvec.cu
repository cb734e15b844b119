// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers.
//   y[t, o] = sum_i w[o, i] x[t, i]
// A row of the weight is shared by 1, 2 or 4 warps of a block of threads, more of them where there
// are few rows; a lane owns four neighbouring elements at a time and multiplies them with those of
// every token. The order of all sums follows from the shapes.
//   Cost: the weight's bytes, and the tokens' activations for each row, from the caches.
#include "cuda/dequant_weight.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

constexpr unsigned k_warps = 4;  // of a block of threads

struct Job {
    TensorView dst, weight, src;
    uint32_t in, out, tokens;
    uint32_t sharing;  // warps to a row: 1, 2 or 4
    bool vectors;      // do the activations begin on 16 bytes?
};

__device__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// The part of row `w` that this lane owns, times all tokens.
template <DType type>
__device__ void multiply(float (&sum)[k_matvec_tokens], const Job& job, const std::byte* w,
                         uint32_t share) {
#pragma unroll 2
    for (uint32_t i = 4 * (share * k_warp + lane_of_warp()); i < job.in;
         i += 4 * k_warp * job.sharing) {
        const float4 four = weight4(type, w, i, job.in);
#pragma unroll
        for (uint32_t t = 0; t < k_matvec_tokens; ++t) {
            if (t >= job.tokens) break;
            const float* x = reinterpret_cast<const float*>(job.src.data + t * job.src.stride[2]);
            sum[t] = dot(four, load4(x, i, job.in, job.vectors), sum[t]);
        }
    }
}

template <DType type>
__global__ void __launch_bounds__(k_warps* k_warp) matvec_kernel(const __grid_constant__ Job job) {
    __shared__ float of_warp[k_warps][k_matvec_tokens];
    const uint32_t warp = threadIdx.x / k_warp, share = warp % job.sharing;
    const uint32_t o = blockIdx.x * (k_warps / job.sharing) + warp / job.sharing;
    float sum[k_matvec_tokens] = {};
    if (o < job.out) multiply<type>(sum, job, job.weight.data + o * job.weight.stride[2], share);
#pragma unroll
    for (uint32_t t = 0; t < k_matvec_tokens; ++t) {
        if (t >= job.tokens) break;
        for (unsigned h = k_warp / 2; h > 0; h /= 2) sum[t] += partner(sum[t], h);
        if (lane_of_warp() == 0) of_warp[warp][t] = sum[t];
    }
    __syncthreads();
    const uint32_t t = lane_of_warp();
    if (share != 0 || t >= job.tokens || o >= job.out) return;
    float y = of_warp[warp][t];
    for (uint32_t next = 1; next < job.sharing; ++next) y += of_warp[warp + next][t];
    reinterpret_cast<float*>(job.dst.data + t * job.dst.stride[2])[o] = y;
}

// Enough warps to keep the device busy, as long as each has four elements for all its lanes.
uint32_t warps_to_a_row(int64_t out, int64_t in) {
    constexpr int64_t k_busy = 8192;  // warps: 64 for each of 128 processors
    uint32_t warps = 1;
    while (warps < k_warps && out * warps < k_busy && in > 4 * k_warp * warps) warps *= 2;
    return warps;
}

template <DType type>
void launch(const Job& job, Stream stream) {
    const unsigned blocks = blocks_for(job.out, k_warps / job.sharing);
    matvec_kernel<type><<<blocks, k_warps * k_warp, 0, stream>>>(job);
}

}  // namespace

void matvec(const MatmulArgs& args, Stream stream) {
    const int64_t in = args.weight.n[3], out = args.weight.n[2];
    const Job job{args.dst,
                  args.weight,
                  args.src,
                  uint32_t(in),
                  uint32_t(out),
                  uint32_t(args.src.n[2]),
                  warps_to_a_row(out, in),
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
