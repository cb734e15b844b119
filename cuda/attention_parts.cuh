#pragma once
// Attention in f32 around its walk over the cells: queries into shared memory and rotated there;
// a block's part, which the block that ends last joins with the others' and rotates back.
//
// A part is, for one query head, over some of the cells,
//     most, total = sum_c exp(s_c - most), sums_j = sum_c exp(s_c - most) v_cj
// and two parts make one by bringing both to the larger `most`. The order is that of the splits,
// whichever block ends first, so that a second run gives the same bits.
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"
#include "cuda/copies.cuh"

namespace rotkv::cuda {

template <int R>
__device__ void rotate_pieces(float* x, const Pieces& cut, bool back) {
    const uint32_t lane = lane_of_warp(), groups = k_warp / cut.lanes;
    for (uint32_t piece = 0; piece < cut.per_row.d; piece += groups) {
        const uint32_t mine = piece + lane / cut.lanes;
        const uint32_t begin[1] = {mine * cut.width + 4 * (lane % cut.lanes)};
        float4 v[1][R];
#pragma unroll
        for (int j = 0; j < R; ++j) {
            v[0][j] = load4(x, begin[0] + 4 * cut.lanes * j, cut.d, cut.d % 4 == 0);
        }
        rotate(v, cut, begin, back);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            store4(x, begin[0] + 4 * cut.lanes * j, cut.d, cut.d % 4 == 0, v[0][j]);
        }
    }
}

/// y = R x on a row of shared memory by one warp: its pieces (hadamard.cuh) pass through registers.
__device__ inline void rotate_row(float* x, const Pieces& cut, bool back) {
    if (!cut.on) return;
    __syncwarp();  // other lanes have written
    if (cut.registers == 1) rotate_pieces<1>(x, cut, back);
    if (cut.registers == 2) rotate_pieces<2>(x, cut, back);
    if (cut.registers == 4) rotate_pieces<4>(x, cut, back);
    if (cut.registers == 8) rotate_pieces<8>(x, cut, back);
    __syncwarp();
}

/// A block's heads, one after another to each of its warps: first, step.
__device__ inline uint32_t first_head() { return threadIdx.x / k_warp; }
__device__ inline uint32_t head_step() { return blockDim.x / k_warp; }

/// Asks for the queries of all heads, [heads][d_k], as a group of copies.
__device__ inline void ask_for_queries(const Task& task, const Place& at, float* q) {
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        const std::byte* row = task.q + at.t * task.q_token + (at.first_head + g) * task.q_head;
        for (uint32_t i = lane_of_warp(); i < task.d_k; i += k_warp) {
            copy_float(q + g * task.d_k + i, reinterpret_cast<const float*>(row) + i);
        }
    }
    close_group();
}

/// 1 rotate the query: in place, once it is there.
__device__ inline void rotate_queries(const Task& task, const Place& at, float* q) {
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        rotate_row(q + g * task.d_k, task.k_cut, false);
    }
    __syncthreads();
}

/// A block's part, in shared memory. Nothing seen: most = -FLT_MAX or near it, total = 0.
struct Part {
    float* sums;  // [heads][d_v]
    float *most, *total;
    float* weights;  // [heads][splits], for the merge alone
};

__device__ inline int64_t part_index(const Task& task, const Place& at, uint32_t g) {
    return int64_t(at.t * task.all_heads + at.first_head + g) * task.parts.splits;
}

/// This block's part of head g, for the others.
__device__ inline void publish(const Task& task, const Place& at, const Part& part, uint32_t g) {
    const Parts& parts = task.parts;
    const int64_t index = part_index(task, at, g) + at.split;
    for (uint32_t four = lane_of_warp(); four < parts.fours; four += k_warp) {
        parts.sums[index * parts.fours + four] =
            load4(part.sums + g * task.d_v, 4 * four, task.d_v, task.d_v % 4 == 0);
    }
    if (lane_of_warp() == 0) parts.softmax[index] = {part.most[g], part.total[g]};
}

/// True in the block that ends last: it sees what all have published.
__device__ inline bool is_last(const Task& task, const Place& at) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();  // what the block has stored comes before the count
        last = atomicAdd(task.parts.arrived + at.column, 1u) == task.parts.splits - 1;
        if (last) task.parts.arrived[at.column] = 0;  // for the next launch
        __threadfence();
    }
    __syncthreads();
    return last;
}

/// The parts of all splits of head g become this block's. Loads from the L2 cache take long: many
/// are under way at a time.
__device__ inline void merge(const Task& task, const Place& at, const Part& part, uint32_t g) {
    const Parts& parts = task.parts;
    const unsigned lane = lane_of_warp();
    const int64_t index = part_index(task, at, g);
    float* const weights = part.weights + g * parts.splits;
    float top = -FLT_MAX, total = 0.0f;  // of the lane's splits
    for (uint32_t s = lane; s < parts.splits; s += k_warp) {
        const float2 one = __ldcg(parts.softmax + index + s);
        const float larger = fmaxf(top, one.x);
        total = fmaf(total, expf(top - larger), one.y * expf(one.x - larger));
        top = larger;
        weights[s] = one.x;
    }
    const float most = warp_max(top);
    total = warp_sum(total * expf(top - most));
    for (uint32_t s = lane; s < parts.splits; s += k_warp) weights[s] = expf(weights[s] - most);
    if (lane == 0) part.most[g] = most;
    if (lane == 0) part.total[g] = total;
    __syncwarp();
    for (uint32_t four = lane; four < parts.fours; four += k_warp) {
        constexpr uint32_t batch = 12;
        const float4* sums = parts.sums + index * parts.fours + four;
        float4 sum = {0, 0, 0, 0}, one[batch];
        for (uint32_t first = 0; first < parts.splits; first += batch) {
            const uint32_t count = min(batch, parts.splits - first);
#pragma unroll
            for (uint32_t s = 0; s < batch; ++s) {
                if (s < count) one[s] = __ldcg(sums + (first + s) * parts.fours);
            }
#pragma unroll
            for (uint32_t s = 0; s < batch; ++s) {
                if (s < count) add_scaled(sum, weights[first + s], one[s]);
            }
        }
        store4(part.sums + g * task.d_v, 4 * four, task.d_v, task.d_v % 4 == 0, sum);
    }
    __syncwarp();
}

/// The log of the softmax's denominator, total exp(most), if somebody asks; -inf of nothing.
__device__ inline void store_lse(const Task& task, uint32_t t, uint32_t h, float most,
                                 float total) {
    if (task.lse != nullptr) task.lse[t * task.lse_token + h] = most + logf(total);
}

/// 3 the softmax's denominator, where the sink counts, 5 rotate back, store.
__device__ inline void finish(const Task& task, const Place& at, const Part& part, uint32_t g) {
    const float sink = task.sinks != nullptr ? task.sinks[at.first_head + g] : -INFINITY;
    const float most = fmaxf(part.most[g], sink), weight = expf(part.most[g] - most);
    const float total = fmaf(part.total[g], weight, expf(sink - most));
    if (lane_of_warp() == 0) store_lse(task, at.t, at.first_head + g, most, total);
    float* const row = part.sums + g * task.d_v;
    for (uint32_t i = lane_of_warp(); i < task.d_v; i += k_warp) {
        row[i] = total == 0 ? row[i] : row[i] * weight / total;  // 0 where nothing was seen
    }
    rotate_row(row, task.v_cut, true);
    std::byte* dst = task.dst + at.t * task.dst_token + (at.first_head + g) * task.dst_head;
    for (uint32_t i = lane_of_warp(); i < task.d_v; i += k_warp) {
        reinterpret_cast<float*>(dst)[i] = row[i];
    }
}

/// What follows when a block has seen its cells: a warp owns a head, whose part lies ready for it.
__device__ inline void end(const Task& task, const Place& at, const Part& part) {
    const bool is_split = task.parts.splits > 1;
    if (is_split) {
        for (uint32_t g = first_head(); g < at.heads; g += head_step()) publish(task, at, part, g);
        if (!is_last(task, at)) return;
    }
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        if (is_split) merge(task, at, part, g);
        finish(task, at, part, g);
    }
}

}  // namespace rotkv::cuda
