#pragma once
// The end of decode attention: the parts of a row become its output. A block of threads takes a
// piece of a row's channels (hadamard.cuh), as the rotation back does: groups of lanes add up every
// so many parts, and one group adds up the groups, divides, rotates back and stores.
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"
#include "cuda/dependent.cuh"

namespace rotkv::cuda {

struct CombineJob {
    const float2* softmax;  // [T][H][parts] {most, total}, in powers of two
    const float4* sums;     // [T][H][parts][fours]
    uint32_t parts, fours, heads;
    const float* sinks;  // null: none
    Pieces cut;
    std::byte* dst;
    int64_t dst_token, dst_head;

    uint32_t bytes() const { return (parts + 2 * k_warp) * 4 + k_threads * cut.registers * 16; }
};

// The largest score of all parts, and this thread's share of what all sums are to be divided by;
// scores[s] are the parts' own, once the block has met.
__device__ inline float2 weigh(const CombineJob& job, uint32_t row, float* scores,
                               float* of_warps) {
    const float2* softmax = job.softmax + int64_t(row) * job.parts;
    constexpr float log2_e = 1.44269504f;
    const float sink = job.sinks != nullptr ? job.sinks[row % job.heads] * log2_e : -INFINITY;
    float top = fmaxf(sink, -FLT_MAX), total = 0;
    for (uint32_t s = threadIdx.x; s < job.parts; s += k_threads) {
        const float2 one = __ldcg(softmax + s);
        const float larger = fmaxf(top, one.x);
        total = total * exp2f(top - larger) + one.y * exp2f(one.x - larger);
        top = larger;
        scores[s] = one.x;
    }
    const float of_warp = warp_max(top);
    if (lane_of_warp() == 0) of_warps[threadIdx.x / k_warp] = of_warp;
    __syncthreads();
    const float most = warp_max(of_warps[lane_of_warp() % (k_threads / k_warp)]);
    total *= exp2f(top - most);
    if (threadIdx.x == 0) total += exp2f(sink - most);
    return {most, total};
}

template <int R>
__global__ void __launch_bounds__(k_threads)
    combine_kernel(const __grid_constant__ CombineJob job) {
    extern __shared__ float4 shared[];
    float4* const of_groups = shared;  // [group][R][lanes]
    float* const of_warps = reinterpret_cast<float*>(of_groups + k_threads * R);
    float* const totals = of_warps + k_warp;
    float* const scores = totals + k_warp;
    const Pieces& cut = job.cut;
    const uint32_t row = blockIdx.x, lane = threadIdx.x % cut.lanes;
    const uint32_t group = threadIdx.x / cut.lanes, groups = k_threads / cut.lanes;
    const uint32_t begin[1] = {blockIdx.y * cut.width + 4 * lane};
    let_next_come();
    wait_for_earlier();  // the parts are there

    // Parts that are asked for before their weights are known.
    constexpr uint32_t batch = 9 / R;  // 144 parts of pieces of 64
    const float4* const sums = job.sums + int64_t(row) * job.parts * job.fours;
    float4 one[batch][R], sum[1][R] = {};
    const auto load = [&](uint32_t first) {
#pragma unroll
        for (uint32_t b = 0; b < batch; ++b) {
            const uint32_t s = first + b * groups;
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const uint32_t four = begin[0] / 4 + cut.lanes * j;
                const bool is_there = s < job.parts && four < job.fours;
                one[b][j] =
                    is_there ? __ldcg(sums + int64_t(s) * job.fours + four) : float4{0, 0, 0, 0};
            }
        }
    };
    load(group);
    const float2 softmax = weigh(job, row, scores, of_warps);
    for (uint32_t first = group; first < job.parts; first += batch * groups) {
        if (first != group) load(first);
#pragma unroll
        for (uint32_t b = 0; b < batch; ++b) {
            const uint32_t s = first + b * groups;
            const float weight = s < job.parts ? exp2f(scores[s] - softmax.x) : 0.0f;
#pragma unroll
            for (int j = 0; j < R; ++j) add_scaled(sum[0][j], weight, one[b][j]);
        }
    }
#pragma unroll
    for (int j = 0; j < R; ++j) of_groups[(group * R + j) * cut.lanes + lane] = sum[0][j];
    const float of_warp = warp_sum(softmax.y);
    if (lane_of_warp() == 0) totals[threadIdx.x / k_warp] = of_warp;
    __syncthreads();
    if (threadIdx.x >= k_warp) return;
    // 3 the softmax's denominator, 5 rotate back, store; lanes beyond the group only take part.
    const float total = warp_sum(lane_of_warp() < k_threads / k_warp ? totals[lane_of_warp()] : 0);
    const float scale = total == 0 ? 0.0f : 1 / total;  // 0: nothing was seen
#pragma unroll
    for (int j = 0; j < R; ++j) {
        sum[0][j] = {0, 0, 0, 0};
#pragma unroll 8
        for (uint32_t g = 0; g < groups; ++g) {
            add_scaled(sum[0][j], scale, of_groups[(g * R + j) * cut.lanes + lane]);
        }
    }
    rotate(sum, cut, begin, true);
    if (group != 0) return;
    float* dst = reinterpret_cast<float*>(job.dst + row / job.heads * job.dst_token +
                                          row % job.heads * job.dst_head);
#pragma unroll
    for (int j = 0; j < R; ++j) {
        const bool vectors = reinterpret_cast<uintptr_t>(dst) % 16 == 0;
        store4(dst, begin[0] + 4 * cut.lanes * j, cut.d, vectors, sum[0][j]);
    }
}

}  // namespace rotkv::cuda
