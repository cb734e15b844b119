#pragma once
// One row of outputs, cell by cell in f32, by all threads of a block: what a kernel falls back on
// where its own sums are not finite.
//
// Kernels that multiply tiles of cells give a cell that a row does not see the probability 0, and
// 0 times a NaN or an infinite value is NaN, not 0: one bad cell would spoil rows that must not
// know of it. And f16 ends at 65504, where a cached value times its probability need not end. Both
// leave a mark that nothing erases, a sum that is not finite. So nobody looks at the cells; whoever
// stores a row looks at its sums, and computes the few that are not finite once more, here, as
// ref::attention does. Rows that are NaN by right come out as NaN again, slowly.
// Docs: docs/05-attention.md

#include "cuda/attention_parts.cuh"
#include "cuda/dequant.cuh"

namespace rotkv::cuda {

/// What remains of a row that is neither NaN nor infinite: 0.
__device__ inline bool is_finite(float x) { return x - x == 0; }
__device__ inline bool is_finite(const float4& x) {
    return is_finite(x.x) && is_finite(x.y) && is_finite(x.z) && is_finite(x.w);
}

/// Floats of shared memory that attend_row takes from a block of `threads`.
constexpr uint32_t plain_floats(uint32_t d_k, uint32_t threads) { return d_k + threads; }

constexpr uint32_t k_most_own_channels = 4;  // that a thread sums

// 2 score one cell; q~ lies in shared memory.
__device__ inline float score_plainly(const Task& task, const float* q, const std::byte* row) {
    float s = 0;
    for (uint32_t i = 0; i < task.d_k; i += 4) {
        const float4 k = dequantize4(task.k.type, row, i, task.d_k);
        const float of_four[4] = {k.x, k.y, k.z, k.w};
        for (uint32_t j = 0; j < 4 && i + j < task.d_k; ++j) s = fmaf(q[i + j], of_four[j], s);
    }
    s *= task.scale;
    return task.softcap > 0 ? task.softcap * tanhf(s / task.softcap) : s;
}

__device__ inline float value_at(const Cells& side, const std::byte* row, uint32_t i, uint32_t d) {
    const float4 v = dequantize4(side.type, row, i / 4 * 4, d);
    return i % 4 == 0 ? v.x : i % 4 == 1 ? v.y : i % 4 == 2 ? v.z : v.w;
}

/// Steps 1 to 4 for query head h of token t, and its lse: channels first .. first + count - 1 of
/// o~, at most k_most_own_channels of them for each thread of the block, all of which call this.
/// memory: plain_floats() in shared memory. out[count], in shared memory elsewhere, is complete
/// after the next __syncthreads().
inline __device__ __noinline__ void attend_row(const Task& task, uint32_t t, uint32_t h,
                                               uint32_t first, uint32_t count, float* memory,
                                               float* out) {
    float *const q = memory, *const p = memory + task.d_k;
    Place at;
    at.t = t;
    at.kv = h / task.group;
    at.load(task);
    const std::byte* const from = task.q + t * task.q_token + h * task.q_head;
    __syncthreads();  // what lay in memory has been read
    for (uint32_t i = threadIdx.x; i < task.d_k; i += blockDim.x) {
        q[i] = reinterpret_cast<const float*>(from)[i];
    }
    __syncthreads();
    if (threadIdx.x < k_warp) rotate_row(q, task.k_cut, false);
    const float sink = task.sinks != nullptr ? task.sinks[h] : -INFINITY;
    float most = fmaxf(sink, -FLT_MAX), total = expf(sink - most);
    float sum[k_most_own_channels] = {};
    const int32_t* const position = positions(task, at);
    const std::byte *const k = cells_of(task.k, at), *const v = cells_of(task.v, at);
    for (uint32_t tile = 0; tile < at.used; tile += blockDim.x) {
        const uint32_t mine = tile + threadIdx.x;
        const bool is_seen = mine < at.used && at.seen.holds(position[mine]);
        __syncthreads();  // q~ is there, the last tile's p has been read
        p[threadIdx.x] = is_seen ? score_plainly(task, q, k + mine * task.k.cell) : -INFINITY;
        if (!__syncthreads_or(is_seen)) continue;
        const uint32_t cells = min(blockDim.x, at.used - tile);
        float larger = most;
        for (uint32_t c = 0; c < cells; ++c) larger = fmaxf(larger, p[c]);
        const float shrink = expf(most - larger);
        most = larger;
        total *= shrink;
#pragma unroll
        for (float& x : sum) x *= shrink;
        for (uint32_t c = 0; c < cells; ++c) {
            if (!at.seen.holds(position[tile + c])) continue;
            const float weight = expf(p[c] - most);
            total += weight;
            const std::byte* const row = v + (tile + c) * task.v.cell;
#pragma unroll
            for (uint32_t j = 0; j < k_most_own_channels; ++j) {
                const uint32_t i = threadIdx.x + j * blockDim.x;
                if (i >= count) break;
                sum[j] = fmaf(weight, value_at(task.v, row, first + i, task.d_v), sum[j]);
            }
        }
    }
#pragma unroll
    for (uint32_t j = 0; j < k_most_own_channels; ++j) {
        const uint32_t i = threadIdx.x + j * blockDim.x;
        if (i < count) out[i] = total == 0 ? 0.0f : sum[j] / total;  // 0: nothing was seen
    }
    if (threadIdx.x == 0) store_lse(task, t, h, most, total);
}

}  // namespace rotkv::cuda
