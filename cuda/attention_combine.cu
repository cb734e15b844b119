// The end of attention whose cells were split: the parts of a row become its output. A block of
// threads takes a piece of a row's channels (hadamard.cuh), as the rotation back does: groups of
// lanes add up every so many parts, and one warp adds up the groups, divides, rotates back and
// stores.
// Docs: docs/05-attention.md
#include "cuda/attention_plain.cuh"
#include "cuda/dependent.cuh"

namespace rotkv::cuda {
namespace {

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
    __device__ void load(const Task& task, const float2* softmax, const float4* sums_of,
                         uint32_t first, uint32_t step, uint32_t begin) {
        const Parts& parts = task.parts;
#pragma unroll
        for (uint32_t b = 0; b < count; ++b) {
            const uint32_t s = first + b * step;
            most[b] = s < parts.splits ? __ldcg(&softmax[s].x) : -INFINITY;
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const uint32_t of_lane = task.v_cut.lanes * j;
                const bool is_there = s < parts.splits && begin / 4 + of_lane < parts.fours;
                sums[b][j] =
                    is_there ? __ldcg(sums_of + s * parts.fours + of_lane) : float4{0, 0, 0, 0};
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

// Every group of lanes its parts: their sum for the row's piece, before the division.
template <int R>
__device__ float2 sum_parts(const Task& task, uint32_t row, uint32_t begin, float4 (&sum)[1][R]) {
    const uint32_t group = threadIdx.x >> task.v_cut.lane_bits,
                   groups = k_combine_threads >> task.v_cut.lane_bits;
    const int64_t index = int64_t(row) * task.parts.splits;
    const float2* const softmax_of_row = task.parts.softmax + index;
    const float4* const sums_of_row = task.parts.sums + index * task.parts.fours + begin / 4;
    const float* const sink = task.sinks != nullptr ? task.sinks + row % task.all_heads : nullptr;
    SomeParts<R> parts;
    parts.load(task, softmax_of_row, sums_of_row, group, groups, begin);
    const float2 softmax = softmax_of(softmax_of_row, task.parts.splits, sink);
    parts.add_to(sum, softmax.x);
    const uint32_t at_once = parts.count * groups;
    for (uint32_t first = group + at_once; first < task.parts.splits; first += at_once) {
        parts.load(task, softmax_of_row, sums_of_row, first, groups, begin);
        parts.add_to(sum, softmax.x);
    }
    return softmax;
}

// 3 divide: the groups' sums in shared memory become the first group's outputs.
template <int R>
__device__ void add_groups(const Pieces& cut, const float4 (&of_groups)[R][k_combine_threads],
                           float total, float4 (&sum)[1][R]) {
    const uint32_t lane = threadIdx.x & (cut.lanes - 1), groups = k_combine_threads / cut.lanes;
    const float scale = total == 0 ? 0.0f : 1 / total;  // 0: nothing was seen
#pragma unroll
    for (int j = 0; j < R; ++j) {
        sum[0][j] = {0, 0, 0, 0};
#pragma unroll 8
        for (uint32_t g = 0; g < groups; ++g) {
            add_scaled(sum[0][j], scale, of_groups[j][g * cut.lanes + lane]);
        }
    }
}

// A piece once more, cell by cell, by the first warp; what the groups have summed makes room.
// Apart: it must not cost the others registers.
template <int R>
__device__ void repair(const Task& task, uint32_t t, uint32_t h, uint32_t piece,
                       float4 (&of_groups)[R][k_combine_threads], float4 (&sum)[1][R]) {
    const Pieces& cut = task.v_cut;
    const uint32_t count = min(cut.width, cut.d - piece);
    float* const memory = reinterpret_cast<float*>(of_groups);
    const float* const out = attend_row_apart(task, t, h, piece, count, memory);
#pragma unroll
    for (int j = 0; j < R; ++j) {
        const uint32_t lane = threadIdx.x & (cut.lanes - 1);
        sum[0][j] = load4(out, 4 * (lane + cut.lanes * j), count, true);
    }
}

template <int R>
__global__ void __maxnreg__(k_combine_registers) combine_kernel(const __grid_constant__ Task task) {
    __shared__ float4 of_groups[R][k_combine_threads];  // [group][lane]
    const Pieces& cut = task.v_cut;
    const uint32_t row = blockIdx.x, t = row / task.all_heads, h = row - t * task.all_heads;
    const uint32_t piece = blockIdx.y * cut.width, lane = threadIdx.x & (cut.lanes - 1);
    const uint32_t begin[1] = {piece + 4 * lane};
    float* const dst = reinterpret_cast<float*>(task.dst + t * task.dst_token + h * task.dst_head);
    let_next_come();
    wait_for_earlier();  // the parts are there

    float4 sum[1][R] = {};
    const float2 softmax = sum_parts(task, row, begin[0], sum);
#pragma unroll
    for (int j = 0; j < R; ++j) of_groups[j][threadIdx.x] = sum[0][j];
    __syncthreads();
    if (piece == 0 && threadIdx.x == 0) store_lse(task, t, h, softmax.x / k_log2_e, softmax.y);
    if (threadIdx.x >= k_warp) return;
    add_groups(cut, of_groups, softmax.y, sum);
    bool is_good = softmax.y > 0;
#pragma unroll
    for (int j = 0; j < R; ++j) is_good = is_good && is_finite(sum[0][j]);
    if (!__all_sync(k_all_lanes, is_good)) repair(task, t, h, piece, of_groups, sum);
    // 5 rotate back, store; lanes beyond the piece only take part.
    rotate(sum, cut, begin, true);
    if (threadIdx.x >= cut.lanes) return;
    const bool vectors = reinterpret_cast<uintptr_t>(dst) % 16 == 0;
#pragma unroll
    for (int j = 0; j < R; ++j) {
        store4(dst, begin[0] + 4 * cut.lanes * j, cut.d, vectors, sum[0][j]);
    }
}

}  // namespace

void combine_parts(const AttentionArgs& args, const Parts& parts, Stream stream) {
    Task task(args);
    task.parts = parts;
    launch_dependent(task.v_cut.registers == 1 ? combine_kernel<1> : combine_kernel<2>,
                     dim3(task.tokens * task.all_heads, task.v_cut.per_row.d),
                     dim3(k_combine_threads), 0, stream, task);
}

}  // namespace rotkv::cuda
