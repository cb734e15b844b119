// A rotation by a matrix. A block of threads owns a row, the channels of one head: it lies in
// shared memory, so that dst may be src.
//   forward  a warp owns a channel of the result, y_i = sum_j M_ij x_j, its lanes a row of M
//   back     a thread owns a channel of the result, y_j = sum_i M_ij x_i, its warp a row of M
// Either way neighbouring threads read neighbouring numbers of M.
// Cost: D^2 numbers of M a row, from the L2 cache; nothing here is quick.
#include "cuda/device.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

// Where the matrix of a head begins, and the floats from one of its rows to the next.
struct Matrices {
    const std::byte* data;
    int64_t stride;
    int64_t row;
    uint32_t group;  // heads that share one

    Matrices(const TensorView& matrix, int64_t heads)
        : data(matrix.data),
          stride(matrix.stride[1]),
          row(matrix.stride[2] / int64_t(sizeof(float))),
          group(uint32_t(heads / matrix.n[1])) {}

    __device__ const float* of(uint32_t head) const {
        return reinterpret_cast<const float*>(data + int64_t(head / group) * stride);
    }
};

template <bool Inverse>
__global__ void __launch_bounds__(k_threads)
    turn_kernel(const Rows dst, const Rows src, const Matrices matrices, uint32_t heads,
                uint32_t d) {
    extern __shared__ float x[];
    const uint32_t row = blockIdx.x;
    const float* const from = src.row<const float>(row);
    for (uint32_t i = threadIdx.x; i < d; i += k_threads) x[i] = from[i];
    __syncthreads();
    const float* const m = matrices.of(row % heads);
    float* const y = dst.row<float>(row);
    if constexpr (Inverse) {
        for (uint32_t j = threadIdx.x; j < d; j += k_threads) {
            float sum = 0;
            for (uint32_t i = 0; i < d; ++i) sum += m[int64_t(i) * matrices.row + j] * x[i];
            y[j] = sum;
        }
    } else {
        for (uint32_t i = threadIdx.x / k_warp; i < d; i += k_threads / k_warp) {
            const float* const of_row = m + int64_t(i) * matrices.row;
            float sum = 0;
            for (uint32_t j = lane_of_warp(); j < d; j += k_warp) sum += of_row[j] * x[j];
            for (unsigned h = 1; h < k_warp; h *= 2) sum += partner(sum, h);
            if (lane_of_warp() == 0) y[i] = sum;
        }
    }
}

}  // namespace

void turn(const TurnArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const int64_t heads = args.src.n[2], d = args.src.n[3];
    const auto kernel = args.inverse ? turn_kernel<true> : turn_kernel<false>;
    // ptxas reads the row four floats at a time and begins the last four before it knows their
    // number.
    const size_t row = (size_t(d) + 4) * sizeof(float);
    kernel<<<unsigned(args.src.rows()), k_threads, row, stream>>>(
        Rows(args.dst), Rows(args.src), Matrices(args.matrix, heads), uint32_t(heads), uint32_t(d));
    require_launched("turn");
}

}  // namespace rotkv::cuda
