#pragma once
// The end of a block of decode attention: the states of the warps that looked at a KV head's cells
// become the block's part of it, for combine_kernel.
// Docs: docs/05-attention.md

#include "cuda/decode_state.cuh"
#include "cuda/decode_tiles.cuh"

namespace rotkv::cuda::decode {

// What blocks' channels have in common, in the units of their sums.
template <int D_v>
__device__ void add_offsets(State<D_v, 2>& state, const CodeUnits& codes) {
#pragma unroll
    for (int b = 0; b < D_v / 32; ++b) {
        float sum = state.offset[b];
        for (unsigned h = 1; h < 4; h *= 2) sum += partner(sum, h);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float of_head = by_columns(sum, i);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                state.o[2 * b + j / 2][i + j % 2 * 2] += of_head / codes.unit[j / 2];
            }
        }
    }
}

// A warp's state in shared memory; a band's fit into a ring, whose 96 rows of a head take at least
// 9/16 of a byte a channel. 4: lanes of other heads meet in no bank.
template <int D_v>
struct alignas(16) WarpPart {
    float sums[k_most_heads][D_v + 4];
    float2 softmax[k_most_heads];  // {most, total}
};

template <int D_v, int Terms>
__device__ void store_state(WarpPart<D_v>& part, const State<D_v, Terms>& state, uint32_t heads) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float sum = state.total[i];
        for (unsigned h = 4; h < k_warp; h *= 2) sum += partner(sum, h);
        if (2 * t + i >= heads) continue;
        if (g == 0) part.softmax[2 * t + i] = {state.top[i] - k_headroom<Terms>, sum};
#pragma unroll
        for (int step = 0; step < D_v / 16; ++step) {
            *reinterpret_cast<float2*>(&part.sums[2 * t + i][16 * step + 2 * g]) = {
                state.o[step][i], state.o[step][i + 2]};
        }
    }
}

// Then the threads of a KV head take four channels of a head each.
template <int D_v, int Terms>
__device__ void merge_slices(const DecodeJob& job, const DecodePlace& at, std::byte* rings,
                             State<D_v, Terms>& state) {
    const auto part = [&](uint32_t slice) -> WarpPart<D_v>& {
        std::byte* const ring = rings + slice * job.ring_bytes();
        return reinterpret_cast<WarpPart<D_v>*>(ring)[at.head_of_band];
    };
    if constexpr (Terms == 2) add_offsets(state, job.v_codes);
    store_state(part(at.slice), state, at.heads);
    __syncthreads();
    for (uint32_t i = at.slice * k_warp + lane_of_warp(); i < at.heads * (D_v / 4);
         i += job.slices * k_warp) {
        const uint32_t g = i / (D_v / 4), four = i % (D_v / 4);
        const float unit = job.v_codes.unit[four / 4 % 2];
        float most = -FLT_MAX, all = 0;
        float4 sum = {0, 0, 0, 0};
#pragma unroll 4
        for (uint32_t s = 0; s < job.slices; ++s) most = fmaxf(most, part(s).softmax[g].x);
#pragma unroll 4
        for (uint32_t s = 0; s < job.slices; ++s) {
            const float2 softmax = part(s).softmax[g];
            const float weight = power_of_two(softmax.x - most);
            all = fmaf(weight, softmax.y, all);
            cuda::add_scaled(sum, weight * unit,
                             reinterpret_cast<const float4*>(part(s).sums[g])[four]);
        }
        const RowOf of = at.row(job, at.kv, g);
        const uint32_t row = of.t * job.all_heads + of.h;
        const int64_t index = int64_t(row) * job.parts.splits + at.split;
        job.parts.sums[index * job.parts.fours + four] = sum;
        if (four == 0) job.parts.softmax[index] = {most, all};
    }
}

}  // namespace rotkv::cuda::decode
