// The end of attention whose cells were split: the parts of a row become its output. A block of
// threads takes a piece of a row's channels (hadamard.cuh), as the rotation back does: groups of
// lanes add up every so many parts, and one warp adds up the groups, divides, rotates back and
// stores.
// Docs: docs/05-attention.md
#include "cuda/attention.cuh"
#include "cuda/dependent.cuh"

namespace rotkv::cuda {
namespace {

struct CombineJob {
    const float2* softmax;  // [T][H][parts] {most, total}, in powers of two
    const float4* sums;     // [T][H][parts][fours]
    uint32_t parts, fours, heads;
    const float* sinks;  // null: none
    Pieces cut;
    std::byte* dst;
    int64_t dst_token, dst_head;
};

// Of all parts and the sink: {most, what p adds up to}, by each warp for itself.
__device__ float2 softmax_of(const float2* softmax, uint32_t parts, const float* sink_of) {
    const float sink = sink_of != nullptr ? *sink_of * k_log2_e : -INFINITY;
    float most = fmaxf(sink, -FLT_MAX), total = lane_of_warp() == 0 ? power_of_two(sink - most) : 0;
    constexpr uint32_t batch = 3;  // loads under way together
    for (uint32_t first = lane_of_warp(); first < parts; first += batch * k_warp) {
        float2 one[batch];
#pragma unroll
        for (uint32_t b = 0; b < batch; ++b) {
            const uint32_t s = first + b * k_warp;
            one[b] = s < parts ? __ldcg(softmax + s) : float2{-INFINITY, 0};
        }
#pragma unroll
        for (const float2& x : one) {
            const float larger = fmaxf(most, x.x);
            total = total * power_of_two(most - larger) + x.y * power_of_two(x.x - larger);
            most = larger;
        }
    }
    const float of_all = warp_max(most);
    return {of_all, warp_sum(total * power_of_two(most - of_all))};
}

// Parts first, first + step ..., so many that their loads are under way together.
template <int R>
struct SomeParts {
    static constexpr uint32_t count = 8 / R;
    float4 sums[count][R];
    float most[count];

    // Of a row; its sums from the lane's first channel on.
    __device__ void load(const CombineJob& job, const float2* softmax, const float4* sums_of,
                         uint32_t first, uint32_t step, uint32_t begin) {
#pragma unroll
        for (uint32_t b = 0; b < count; ++b) {
            const uint32_t s = first + b * step;
            most[b] = s < job.parts ? __ldcg(&softmax[s].x) : -INFINITY;
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const uint32_t four = begin / 4 + job.cut.lanes * j;
                const bool is_there = s < job.parts && four < job.fours;
                sums[b][j] = is_there ? __ldcg(sums_of + s * job.fours + job.cut.lanes * j)
                                      : float4{0, 0, 0, 0};
            }
        }
    }
    __device__ void add_to(float4 (&sum)[1][R], float top) const {
#pragma unroll
        for (uint32_t b = 0; b < count; ++b) {
            const float weight = power_of_two(most[b] - top);
#pragma unroll
            for (int j = 0; j < R; ++j) add_scaled(sum[0][j], weight, sums[b][j]);
        }
    }
};

template <int R>
__global__ void __launch_bounds__(k_combine_threads)
    combine_kernel(const __grid_constant__ CombineJob job) {
    __shared__ float4 of_groups[R][k_combine_threads];  // [group][lane]
    const Pieces& cut = job.cut;
    const uint32_t row = blockIdx.x, lane = threadIdx.x & (cut.lanes - 1);
    const uint32_t group = threadIdx.x >> cut.lane_bits,
                   groups = k_combine_threads >> cut.lane_bits;
    const uint32_t begin[1] = {blockIdx.y * cut.width + 4 * lane};
    const float2* const softmax_of_row = job.softmax + int64_t(row) * job.parts;
    const float4* const sums_of_row =
        job.sums + int64_t(row) * job.parts * job.fours + begin[0] / 4;
    const float* const sink = job.sinks != nullptr ? job.sinks + row % job.heads : nullptr;
    float* const dst = reinterpret_cast<float*>(job.dst + row / job.heads * job.dst_token +
                                                row % job.heads * job.dst_head);
    let_next_come();
    wait_for_earlier();  // the parts are there

    float4 sum[1][R] = {};
    SomeParts<R> parts;
    parts.load(job, softmax_of_row, sums_of_row, group, groups, begin[0]);
    const float2 softmax = softmax_of(softmax_of_row, job.parts, sink);
    parts.add_to(sum, softmax.x);
    const uint32_t at_once = parts.count * groups;
    for (uint32_t first = group + at_once; first < job.parts; first += at_once) {
        parts.load(job, softmax_of_row, sums_of_row, first, groups, begin[0]);
        parts.add_to(sum, softmax.x);
    }
#pragma unroll
    for (int j = 0; j < R; ++j) of_groups[j][threadIdx.x] = sum[0][j];
    __syncthreads();
    if (threadIdx.x >= k_warp) return;
    // 3 divide, 5 rotate back, store; lanes beyond the piece only take part.
    const float scale = softmax.y == 0 ? 0.0f : 1 / softmax.y;  // 0: nothing was seen
#pragma unroll
    for (int j = 0; j < R; ++j) {
        sum[0][j] = {0, 0, 0, 0};
#pragma unroll 8
        for (uint32_t g = 0; g < groups; ++g) {
            add_scaled(sum[0][j], scale, of_groups[j][g * cut.lanes + lane]);
        }
    }
    rotate(sum, cut, begin, true);
    if (group != 0) return;
    const bool vectors = reinterpret_cast<uintptr_t>(dst) % 16 == 0;
#pragma unroll
    for (int j = 0; j < R; ++j) {
        store4(dst, begin[0] + 4 * cut.lanes * j, cut.d, vectors, sum[0][j]);
    }
}

}  // namespace

void combine_parts(const AttentionArgs& args, const Parts& parts, Stream stream) {
    const CombineJob job{parts.softmax,
                         parts.sums,
                         parts.splits,
                         parts.fours,
                         uint32_t(args.q.n[2]),
                         args.sinks.empty() ? nullptr : args.sinks.row<const float>(0),
                         Pieces(args.v_rotation, args.dst.n[3]),
                         args.dst.data,
                         args.dst.stride[1],
                         args.dst.stride[2]};
    launch_dependent(job.cut.registers == 1 ? combine_kernel<1> : combine_kernel<2>,
                     dim3(uint32_t(args.q.n[1] * args.q.n[2]), job.cut.per_row.d),
                     dim3(k_combine_threads), 0, stream, job);
}

}  // namespace rotkv::cuda
