// Two parts of an attention made one. A warp owns a row, the outputs of one query head.
// Cost: two rows read, one written. Agrees with ref::merge within the table's rounding.
#include "cuda/device.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

// A side's outputs and the logs of its denominators.
struct Part {
    Rows outputs;
    const float* lse;
    int64_t token;  // floats from one to the next

    Part(const TensorView& x, const TensorView& logs)
        : outputs(x),
          lse(logs.row<const float>(0)),
          token(logs.stride[2] / int64_t(sizeof(float))) {}
};

__global__ void __launch_bounds__(k_threads)
    merge_kernel(const Rows dst, float* lse, int64_t lse_token, const Part a, const Part b,
                 uint32_t rows, uint32_t heads, uint32_t d) {
    const uint32_t row = (blockIdx.x * k_threads + threadIdx.x) / k_warp;
    if (row >= rows) return;
    const uint32_t t = row / heads, h = row - t * heads;
    const float lse_a = a.lse[t * a.token + h], lse_b = b.lse[t * b.token + h];
    const float unit = fmaxf(lse_a, lse_b);
    const bool is_none = lse_a == -INFINITY && lse_b == -INFINITY;
    const float exp_a = is_none ? 0.0f : expf(lse_a - unit);
    const float exp_b = is_none ? 0.0f : expf(lse_b - unit);
    const float sum = exp_a + exp_b;
    __syncwarp();  // lse may be lse_a
    if (lane_of_warp() == 0) lse[t * lse_token + h] = unit + logf(sum);
    const float *const x = a.outputs.row<const float>(row), *const y =
                                                                b.outputs.row<const float>(row);
    float* const out = dst.row<float>(row);
    for (uint32_t i = lane_of_warp(); i < d; i += k_warp) {
        out[i] = is_none ? 0.0f : (exp_a * x[i] + exp_b * y[i]) / sum;
    }
}

}  // namespace

void merge(const MergeArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t rows = args.dst.rows();
    merge_kernel<<<blocks_for(rows * k_warp, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), args.lse.row<float>(0), args.lse.stride[2] / int64_t(sizeof(float)),
        Part(args.a, args.lse_a), Part(args.b, args.lse_b), uint32_t(rows), uint32_t(args.dst.n[2]),
        uint32_t(args.dst.n[3]));
    require_launched("merge");
}

}  // namespace rotkv::cuda
