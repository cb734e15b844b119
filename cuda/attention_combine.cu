// The end of attention whose cells were split: the parts of a row become its output. A block of
// threads takes a piece of a row's channels (hadamard.cuh), as the rotation back does: groups of
// lanes add up every so many parts, and one warp adds up the groups, divides, rotates back and
// stores. Of many rows with few parts each group has a piece to itself (combine_many_kernel).
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

// ---- Many rows, few parts ----

constexpr uint32_t k_few_splits = 8, k_many_rows = 256;

// What a group of lanes makes: a piece of a row. Those behind the last repeat it.
struct Item {
    uint32_t row, t, h, piece;
    bool is_there;

    __device__ explicit Item(const Task& task) {
        const Pieces& cut = task.v_cut;
        const uint32_t number = (blockIdx.x * k_combine_threads + threadIdx.x) >> cut.lane_bits;
        const uint32_t of_all = cut.per_row.of(number), rows = task.tokens * task.all_heads;
        is_there = of_all < rows;
        row = min(of_all, rows - 1);
        t = row / task.all_heads;
        h = row - t * task.all_heads;
        piece = is_there ? cut.begin_of(number, row) : 0;
    }
};

// The item's sum over its parts, and {most, total}.
template <int R>
__device__ float2 sum_item(const Task& task, const Item& item, uint32_t begin,
                           float4 (&sum)[1][R]) {
    const uint32_t splits = task.parts.splits, fours = task.parts.fours;
    const float2* const softmax = task.parts.softmax + int64_t(item.row) * splits;
    const float4* const sums = task.parts.sums + int64_t(item.row) * splits * fours + begin / 4;
    const float sink = task.sinks != nullptr ? task.sinks[item.h] * k_log2_e : -INFINITY;
    float most = fmaxf(sink, -FLT_MAX);
    for (uint32_t s = 0; s < splits; ++s) most = fmaxf(most, __ldcg(&softmax[s].x));
    float total = power_of_two(sink - most);
#pragma unroll 4
    for (uint32_t s = 0; s < splits; ++s) {
        const float2 part = __ldcg(softmax + s);
        const float weight = power_of_two(part.x - most);
        total = fmaf(part.y, weight, total);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            const uint32_t of_lane = task.v_cut.lanes * j;
            if (begin / 4 + of_lane >= fours) continue;
            add_scaled(sum[0][j], weight, __ldcg(sums + s * fours + of_lane));
        }
    }
    return {most, total};
}

// Items of the warp that are not finite once more, one after the other.
template <int R>
__device__ void repair_items(const Task& task, const Item& item, bool is_good, float* memory,
                             float4 (&sum)[1][R]) {
    const Pieces& cut = task.v_cut;
    uint32_t bad = __ballot_sync(k_all_lanes, !is_good);
    while (bad != 0) {
        const uint32_t first = (uint32_t(__ffs(int(bad))) - 1) & ~(cut.lanes - 1);
        bad &= ~(uint32_t((uint64_t(1) << cut.lanes) - 1) << first);
        const uint32_t piece = __shfl_sync(k_all_lanes, item.piece, int(first));
        const uint32_t t = __shfl_sync(k_all_lanes, item.t, int(first));
        const uint32_t h = __shfl_sync(k_all_lanes, item.h, int(first));
        const uint32_t count = min(cut.width, cut.d - piece), lane = lane_of_warp();
        const float* const out = attend_row_apart(task, t, h, piece, count, memory);
        if (lane - first >= cut.lanes) continue;
#pragma unroll
        for (int j = 0; j < R; ++j) {
            sum[0][j] = load4(out, 4 * (lane - first + cut.lanes * j), count, true);
        }
    }
}

template <int R>
__global__ void __launch_bounds__(k_combine_threads)
    combine_many_kernel(const __grid_constant__ Task task) {
    __shared__ __align__(16) float memory[k_combine_threads / k_warp][plain_floats(256)];
    const Pieces& cut = task.v_cut;
    const Item item(task);
    const uint32_t lane = threadIdx.x & (cut.lanes - 1), begin[1] = {item.piece + 4 * lane};
    let_next_come();
    wait_for_earlier();  // the parts are there
    float4 sum[1][R] = {};
    const float2 softmax = sum_item(task, item, begin[0], sum);
    if (item.is_there && item.piece == 0 && lane == 0) {
        store_lse(task, item.t, item.h, softmax.x / k_log2_e, softmax.y);
    }
    bool is_good = softmax.y > 0 || !item.is_there;
    const float scale = softmax.y == 0 ? 0.0f : 1 / softmax.y;  // 0: nothing was seen
#pragma unroll
    for (int j = 0; j < R; ++j) {
        sum[0][j] = scaled(sum[0][j], scale);
        is_good = is_good && (is_finite(sum[0][j]) || !item.is_there);
    }
    repair_items(task, item, is_good, memory[threadIdx.x / k_warp], sum);
    rotate(sum, cut, begin, true);
    if (!item.is_there) return;
    float* const dst =
        reinterpret_cast<float*>(task.dst + item.t * task.dst_token + item.h * task.dst_head);
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
    const uint32_t rows = task.tokens * task.all_heads, pieces = task.v_cut.per_row.d;
    const bool is_one = task.v_cut.registers == 1;
    if (rows >= k_many_rows && parts.splits <= k_few_splits) {
        const int64_t lanes = int64_t(rows) * pieces * task.v_cut.lanes;
        return launch_dependent(is_one ? combine_many_kernel<1> : combine_many_kernel<2>,
                                dim3(blocks_for(lanes, k_combine_threads)), dim3(k_combine_threads),
                                0, stream, task);
    }
    launch_dependent(is_one ? combine_kernel<1> : combine_kernel<2>, dim3(rows, pieces),
                     dim3(k_combine_threads), 0, stream, task);
}

}  // namespace rotkv::cuda
