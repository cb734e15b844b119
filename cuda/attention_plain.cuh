#pragma once
// One row of outputs, cell by cell in f32, by one warp: what a kernel falls back on where its own
// sums are not finite.
//
// Kernels that multiply tiles of cells give a cell that a row does not see the probability 0, and
// 0 times a NaN or an infinite value is NaN, not 0: one bad cell would spoil rows that must not
// know of it. And f16 ends at 65504, where a cached value times its probability need not end. Both
// leave a mark that nothing erases, a sum that is not finite. So nobody looks at the cells; whoever
// stores a row looks at its sums, and computes those that are not finite once more, here, as
// ref::attention does. Rows that are NaN by right come out as NaN again, slowly.
// Docs: docs/05-attention.md

#include "cuda/attention_parts.cuh"
#include "cuda/dequant.cuh"

namespace rotkv::cuda {

/// Neither NaN nor infinite: what remains without itself is 0.
__device__ inline bool is_finite(float x) { return x - x == 0; }
__device__ inline bool is_finite(const float4& x) {
    return is_finite(x.x) && is_finite(x.y) && is_finite(x.z) && is_finite(x.w);
}

constexpr int k_own_channels = 8;  // that a lane sums, at most

/// Floats of shared memory that attend_row takes, for rows of at most d channels.
__host__ __device__ constexpr uint32_t plain_floats(uint32_t d) { return 2 * d + k_warp; }

// 2 score one cell, by one lane; q~ lies in shared memory.
__device__ inline float score_plainly(const Task& task, const float* q, const std::byte* row) {
    float s = 0;
#pragma unroll 1
    for (uint32_t i = 0; i < task.d_k; i += 4) {
        const float4 k = dequantize4(task.k.type, row, i, task.d_k);
        const float4 x = load4(q, i, task.d_k, false);  // 0 past the end, as k is
        s = fmaf(x.x, k.x, fmaf(x.y, k.y, fmaf(x.z, k.z, fmaf(x.w, k.w, s))));
    }
    s *= task.scale;
    return task.softcap > 0 ? task.softcap * tanhf(s / task.softcap) : s;
}

// 4 the values of one cell, to the sums of the lane's channels first + lane, + lane + 32 ...
__device__ inline void add_plainly(const Task& task, const std::byte* row, float weight,
                                   uint32_t first, uint32_t count, float (&sum)[k_own_channels]) {
#pragma unroll
    for (int j = 0; j < k_own_channels; ++j) {
        const uint32_t i = lane_of_warp() + j * k_warp;
        if (i >= count) break;
        const uint32_t channel = first + i;
        const float4 v = dequantize4(task.v.type, row, channel / 4 * 4, task.d_v);
        const float even = channel % 4 == 0 ? v.x : v.z, odd = channel % 4 == 1 ? v.y : v.w;
        sum[j] = fmaf(weight, channel % 2 == 0 ? even : odd, sum[j]);
    }
}

/// Steps 1 to 4 for query head h of token t, and its lse: channels first .. first + count - 1 of
/// o~, at most 256, by a whole warp. memory: plain_floats() of the warp's own. Returns where in it
/// the channels lie, from 16 bytes on if memory does; the warp's lanes may read them.
__device__ inline float* attend_row(const Task& task, uint32_t t, uint32_t h, uint32_t first,
                                    uint32_t count, float* memory) {
    float *const q = memory, *const p = memory + (task.d_k + 3) / 4 * 4, *const out = p + k_warp;
    const uint32_t lane = lane_of_warp();
    Place at;
    at.t = t;
    at.kv = h / task.group;
    at.load(task);
    const std::byte* const from = task.q + t * task.q_token + h * task.q_head;
    __syncwarp();  // what lay in memory has been read
    for (uint32_t i = lane; i < task.d_k; i += k_warp) {
        q[i] = reinterpret_cast<const float*>(from)[i];
    }
    __syncwarp();  // all channels are there, also where nothing is rotated
    rotate_row(q, task.k_cut, false);
    const float sink = task.sinks != nullptr ? task.sinks[h] : -INFINITY;
    float most = fmaxf(sink, -FLT_MAX), total = expf(sink - most);
    float sum[k_own_channels] = {};
    const int32_t* const position = positions(task, at);
    const std::byte *const k = cells_of(task.k, at), *const v = cells_of(task.v, at);
#pragma unroll 1
    for (uint32_t tile = 0; tile < at.used; tile += k_warp) {
        const uint32_t mine = tile + lane;
        const bool is_seen = mine < at.used && at.seen.holds(position[mine]);
        uint32_t seen = __ballot_sync(k_all_lanes, is_seen);
        if (seen == 0) continue;
        const float s = is_seen ? score_plainly(task, q, k + mine * task.k.cell) : -INFINITY;
        const float larger = fmaxf(most, warp_max(s)), shrink = expf(most - larger);
        most = larger;
        total *= shrink;
#pragma unroll
        for (float& x : sum) x *= shrink;
        p[lane] = expf(s - most);
        __syncwarp();
        for (; seen != 0; seen &= seen - 1) {
            const uint32_t c = uint32_t(__ffs(int(seen))) - 1;
            total += p[c];
            add_plainly(task, v + (tile + c) * task.v.cell, p[c], first, count, sum);
        }
        __syncwarp();  // p has been read
    }
#pragma unroll
    for (int j = 0; j < k_own_channels; ++j) {
        const uint32_t i = lane + j * k_warp;
        if (i < count) out[i] = total == 0 ? sum[j] : sum[j] / total;  // 0 where nothing was seen
    }
    if (lane == 0 && first == 0) store_lse(task, t, h, most, total);  // once a row
    __syncwarp();
    return out;
}

/// The same, apart: in a kernel that has no registers to spare it must not take any.
inline __device__ __noinline__ float* attend_row_apart(const Task& task, uint32_t t, uint32_t h,
                                                       uint32_t first, uint32_t count,
                                                       float* memory) {
    return attend_row(task, t, h, first, count, memory);
}

}  // namespace rotkv::cuda
