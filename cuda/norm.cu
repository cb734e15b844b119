// Operations of the transformer on rows by themselves: rms_norm, layer_norm, scale, act_mul, add.
//   rms_norm, layer_norm: a block of threads owns a row; what its registers do not hold it reads
//   again from the caches. Where rms_norm's row is a sum that has yet to be made, it makes and
//   stores it on the way.
//   scale, act_mul, add: a thread owns four neighbouring channels of one row.
//   scale and add must equal ref's bit for bit; the others agree within the table's rounding.
//   Cost: 8 bytes an element (norms, scale), 12 (act_mul; add, where b is not one row repeated).
#include "cuda/activation.cuh"
#include "cuda/dependent.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"

namespace rotkv::cuda {
namespace {

__device__ float4 sum_of(const float4& x, const float4& z) {
    return {x.x + z.x, x.y + z.y, x.z + z.z, x.w + z.w};
}

// Four of a norm's weights, which are 1 where it has none.
__device__ float4 weights(const float* w, uint32_t i, uint32_t d, bool vectors) {
    return w == nullptr ? float4{1, 1, 1, 1} : load4(w, i, d, vectors);
}

// The two summands of the row that is normed, where it is a sum.
struct Summands {
    Rows a, b;
};

// A thread's first four channels, in most models all it has, stay in registers.
template <bool sums>
__global__ void __launch_bounds__(k_threads)
    rms_norm_kernel(Rows dst, Rows src, Summands of, Rows weight, float epsilon, uint32_t d) {
    const uint32_t first = 4 * threadIdx.x, step = 4 * k_threads;
    const float* w = weight.row<const float>(0);
    for (uint32_t i = first; w != nullptr && i < d; i += step) prefetch(w + i);
    float* x = src.row<float>(blockIdx.x);
    float* y = dst.row<float>(blockIdx.x);
    const float* a = of.a.row<const float>(blockIdx.x);
    const float* b = of.b.row<const float>(blockIdx.x);
    wait_for_earlier();
    let_next_come();
    float4 kept = {};
    double squares[1] = {};
    for (uint32_t i = first; i < d; i += step) {
        float4 v;
        if constexpr (sums) {
            v = sum_of(load4(a, i, d, of.a.vectors), load4(b, i, d, of.b.vectors));
            store4(x, i, d, src.vectors, v);
        } else {
            v = load4(x, i, d, src.vectors);
        }
        for (const float part : {v.x, v.y, v.z, v.w}) squares[0] += double(part) * double(part);
        if (i == first) kept = v;
    }
    block_sums(squares);  // its barrier stands before the first write to y, which may be x
    const float scale = float(rsqrt(squares[0] / d + double(epsilon)));
    for (uint32_t i = first; i < d; i += step) {
        const float4 v = i == first ? kept : load4(x, i, d, src.vectors);
        const float4 g = weights(w, i, d, weight.vectors);
        store4(y, i, d, dst.vectors,
               {v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w});
    }
}

// The mean first, then the squares about it: their difference from the mean is what counts, and
// f64 keeps it beside a large mean.
__global__ void __launch_bounds__(k_threads)
    layer_norm_kernel(Rows dst, Rows src, Rows weight, float epsilon, uint32_t d) {
    const uint32_t first = 4 * threadIdx.x, step = 4 * k_threads;
    const float* w = weight.row<const float>(0);
    const float* x = src.row<const float>(blockIdx.x);
    float* y = dst.row<float>(blockIdx.x);
    wait_for_earlier();
    let_next_come();
    double sum[1] = {}, squares[1] = {};
    for (uint32_t i = first; i < d; i += step) {
        const float4 v = load4(x, i, d, src.vectors);
        sum[0] += double(v.x) + double(v.y) + double(v.z) + double(v.w);  // 0 beyond the row's end
    }
    block_sums(sum);
    const double mean = sum[0] / d;
    for (uint32_t i = first; i < d; i += step) {
        const float4 v = load4(x, i, d, src.vectors);
        const float parts[4] = {v.x, v.y, v.z, v.w};
        for (uint32_t j = 0; j < 4 && i + j < d; ++j) {
            squares[0] += (double(parts[j]) - mean) * (double(parts[j]) - mean);
        }
    }
    block_sums(squares);  // its barrier stands before the first write to y, which may be x
    const double scale = rsqrt(squares[0] / d + double(epsilon));
    const auto normed = [&](float part) { return float((double(part) - mean) * scale); };
    for (uint32_t i = first; i < d; i += step) {
        const float4 v = load4(x, i, d, src.vectors), g = load4(w, i, d, weight.vectors);
        store4(y, i, d, dst.vectors,
               {normed(v.x) * g.x, normed(v.y) * g.y, normed(v.z) * g.z, normed(v.w) * g.w});
    }
}

__global__ void __launch_bounds__(k_threads)
    scale_kernel(Rows dst, Rows src, const float* factor, const int32_t* row, float scale,
                 uint32_t rows, uint32_t heads, Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, r = per_row.of(thread);
    wait_for_earlier();
    let_next_come();
    if (r >= rows) return;
    const uint32_t i = (thread - r * per_row.d) * 4;
    const float by = row == nullptr ? scale : scale * factor[row[r / heads]];
    const float4 x = load4(src.row<const float>(r), i, d, src.vectors);
    store4(dst.row<float>(r), i, d, dst.vectors, {by * x.x, by * x.y, by * x.z, by * x.w});
}

template <bool sums>
void launch_rms_norm(const RmsNormArgs& args, const Summands& of, Stream stream) {
    launch_dependent(rms_norm_kernel<sums>, unsigned(args.src.rows()), k_threads, 0, stream,
                     Rows(args.dst), Rows(args.src), of, Rows(args.weight), args.epsilon,
                     uint32_t(args.src.n[3]));
}

__global__ void __launch_bounds__(k_threads)
    act_mul_kernel(Rows dst, Rows gate, Rows up, Activation activation, uint32_t rows,
                   Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, row = per_row.of(thread);
    wait_for_earlier();
    let_next_come();
    if (row >= rows) return;
    const uint32_t i = (thread - row * per_row.d) * 4;
    const float4 x = load4(gate.row<const float>(row), i, d, gate.vectors);
    const float4 z = load4(up.row<const float>(row), i, d, up.vectors);
    store4(dst.row<float>(row), i, d, dst.vectors,
           {gated(activation, x.x, z.x), gated(activation, x.y, z.y), gated(activation, x.z, z.z),
            gated(activation, x.w, z.w)});
}

__global__ void __launch_bounds__(k_threads)
    add_kernel(Rows dst, Rows a, Rows b, uint32_t rows, Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, row = per_row.of(thread);
    wait_for_earlier();
    let_next_come();
    if (row >= rows) return;
    const uint32_t i = (thread - row * per_row.d) * 4;
    const float4 x = load4(a.row<const float>(row), i, d, a.vectors);
    const float4 z = load4(b.row<const float>(row), i, d, b.vectors);
    store4(dst.row<float>(row), i, d, dst.vectors, sum_of(x, z));
}

}  // namespace

void rms_norm(const RmsNormArgs& args, Stream stream) {
    if (args.src.empty()) return;
    launch_rms_norm<false>(args, {Rows(args.src), Rows(args.src)}, stream);
}

void add_rms_norm(const AddArgs& sum, const RmsNormArgs& norm, Stream stream) {
    launch_rms_norm<true>(norm, {Rows(sum.a), Rows(sum.b)}, stream);
}

void layer_norm(const LayerNormArgs& args, Stream stream) {
    if (args.src.empty()) return;
    launch_dependent(layer_norm_kernel, unsigned(args.src.rows()), k_threads, 0, stream,
                     Rows(args.dst), Rows(args.src), Rows(args.weight), args.epsilon,
                     uint32_t(args.src.n[3]));
}

void scale(const ScaleArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const int64_t rows = args.src.rows(), d = args.src.n[3], per_row = (d + 3) / 4;
    const bool by_row = !args.row.empty();
    launch_dependent(scale_kernel, blocks_for(rows * per_row, k_threads), k_threads, 0, stream,
                     Rows(args.dst), Rows(args.src),
                     by_row ? args.factor.row<const float>(0) : nullptr,
                     by_row ? args.row.row<const int32_t>(0) : nullptr, args.scale, uint32_t(rows),
                     uint32_t(args.src.n[2]), Divisor(per_row), uint32_t(d));
}

void act_mul(const ActMulArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t rows = args.dst.rows(), d = args.dst.n[3], per_row = (d + 3) / 4;
    launch_dependent(act_mul_kernel, blocks_for(rows * per_row, k_threads), k_threads, 0, stream,
                     Rows(args.dst), Rows(args.gate), Rows(args.up), args.activation,
                     uint32_t(rows), Divisor(per_row), uint32_t(d));
}

void add(const AddArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t rows = args.dst.rows(), d = args.dst.n[3], per_row = (d + 3) / 4;
    launch_dependent(add_kernel, blocks_for(rows * per_row, k_threads), k_threads, 0, stream,
                     Rows(args.dst), Rows(args.a), Rows(args.b), uint32_t(rows), Divisor(per_row),
                     uint32_t(d));
}

}  // namespace rotkv::cuda
