// Element-wise operations of the transformer: rms_norm, act_mul, add.
//   rms_norm: a block of threads owns a row and reads it twice, the second time from the caches.
//   Where the row is a sum that has yet to be made, it makes and stores it on the way.
//   act_mul, add: a thread owns four neighbouring channels of one row.
//   add must equal ref::add bit for bit; the other two agree within the table's rounding.
//   Cost: 8 bytes an element (rms_norm), 12 (act_mul; add, where b is not one row repeated).
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace rotkv::cuda {
namespace {

// The two summands of the row that is normed, where it is a sum.
struct Summands {
    Rows a, b;
};

template <bool sums>
__global__ void __launch_bounds__(k_threads)
    rms_norm_kernel(Rows dst, Rows src, Summands of, const float* weight, float epsilon,
                    uint32_t d) {
    wait_for_earlier();
    float* x = src.row<float>(blockIdx.x);
    float* y = dst.row<float>(blockIdx.x);
    const float* a = of.a.row<const float>(blockIdx.x);
    const float* b = of.b.row<const float>(blockIdx.x);
    double squares[1] = {};
    for (uint32_t i = threadIdx.x; i < d; i += k_threads) {
        if constexpr (sums) x[i] = a[i] + b[i];
        squares[0] += double(x[i]) * double(x[i]);
    }
    block_sums(squares);  // its barrier stands before the first write to y, which may be x
    const float scale = float(1.0 / sqrt(squares[0] / d + double(epsilon)));
    for (uint32_t i = threadIdx.x; i < d; i += k_threads) y[i] = x[i] * scale * weight[i];
}

template <bool sums>
void launch_rms_norm(const RmsNormArgs& args, const Summands& of, Stream stream) {
    launch_dependent(rms_norm_kernel<sums>, unsigned(args.src.rows()), k_threads, stream,
                     Rows(args.dst), Rows(args.src), of, args.weight.row<const float>(0),
                     args.epsilon, uint32_t(args.src.n[3]));
}

// x / (1 + exp(-s)) from h = exp(-|s| / 2): neither h nor its square can overflow, and for s < 0
// the two factors h keep x h^2 from vanishing before its time.
__device__ float times_sigmoid(float x, float s, float h) {
    const float part = 1.0f / (1.0f + h * h);
    return s < 0 ? (x * h) * (h * part) : x * part;
}

__device__ float silu(float x) { return times_sigmoid(x, x, expf(-0.5f * fabsf(x))); }

// x / 2 (1 + tanh(z)) = x / (1 + exp(-s)), s = 2 z = sqrt(8 / pi) (x + 0.044715 x^3). The result is
// as sensitive to s as s is large: s is f64, and what its float leaves out corrects h.
__device__ float gelu_tanh(float x) {
    constexpr double factor = 1.5957691216057308;  // sqrt(8 / pi)
    const double s = factor * (double(x) + 0.044715 * double(x) * double(x) * double(x));
    const double half = -0.5 * fabs(s);
    const float high = float(half), low = float(half - double(high));
    const float h = expf(high);
    return times_sigmoid(x, float(s), h + h * low);
}

__device__ float activate(Activation activation, float x) {
    return activation == Activation::silu ? silu(x) : gelu_tanh(x);
}

__global__ void __launch_bounds__(k_threads)
    act_mul_kernel(Rows dst, Rows gate, Rows up, Activation activation, uint32_t rows,
                   Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, row = per_row.of(thread);
    wait_for_earlier();
    if (row >= rows) return;
    const uint32_t i = (thread - row * per_row.d) * 4;
    const float4 x = load4(gate.row<const float>(row), i, d, gate.vectors);
    const float4 z = load4(up.row<const float>(row), i, d, up.vectors);
    store4(dst.row<float>(row), i, d, dst.vectors,
           {activate(activation, x.x) * z.x, activate(activation, x.y) * z.y,
            activate(activation, x.z) * z.z, activate(activation, x.w) * z.w});
}

__global__ void __launch_bounds__(k_threads)
    add_kernel(Rows dst, Rows a, Rows b, uint32_t rows, Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, row = per_row.of(thread);
    wait_for_earlier();
    if (row >= rows) return;
    const uint32_t i = (thread - row * per_row.d) * 4;
    const float4 x = load4(a.row<const float>(row), i, d, a.vectors);
    const float4 z = load4(b.row<const float>(row), i, d, b.vectors);
    store4(dst.row<float>(row), i, d, dst.vectors, {x.x + z.x, x.y + z.y, x.z + z.z, x.w + z.w});
}

}  // namespace

void rms_norm(const RmsNormArgs& args, Stream stream) {
    if (args.src.empty()) return;
    launch_rms_norm<false>(args, {Rows(args.src), Rows(args.src)}, stream);
}

void add_rms_norm(const AddArgs& sum, const RmsNormArgs& norm, Stream stream) {
    launch_rms_norm<true>(norm, {Rows(sum.a), Rows(sum.b)}, stream);
}

void act_mul(const ActMulArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t rows = args.dst.rows(), d = args.dst.n[3], per_row = (d + 3) / 4;
    launch_dependent(act_mul_kernel, blocks_for(rows * per_row, k_threads), k_threads, stream,
                     Rows(args.dst), Rows(args.gate), Rows(args.up), args.activation,
                     uint32_t(rows), Divisor(per_row), uint32_t(d));
}

void add(const AddArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t rows = args.dst.rows(), d = args.dst.n[3], per_row = (d + 3) / 4;
    launch_dependent(add_kernel, blocks_for(rows * per_row, k_threads), k_threads, stream,
                     Rows(args.dst), Rows(args.a), Rows(args.b), uint32_t(rows), Divisor(per_row),
                     uint32_t(d));
}

}  // namespace rotkv::cuda
