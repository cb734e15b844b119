#pragma once
// Rows of a packed weight times a few tokens, which matvec and expert_matmul have in common: a row
// is shared by 1, 2 or 4 warps of a block of threads; a lane owns four times four neighbouring
// elements at a time and multiplies them with those of every token. The order of all sums follows
// from the shapes. Docs: docs/08-backends.md

#include "cuda/dequant_weight.cuh"

#include <cstdlib>

namespace rotkv::cuda {

constexpr unsigned k_warps = 4;   // of a block; with act_mul, twice as many
constexpr uint32_t k_fours = 4;   // of a lane: so many loads of the weight are on their way at once
constexpr uint32_t k_line = 128;  // bytes that come from memory at once

// Blocks of a kernel for one token that a processor holds at once: 40 registers for a thread.
constexpr unsigned k_resident = 6;

__device__ inline float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

/// What this thread computes: part `part` of `parts` of row `o`.
struct Place {
    uint32_t o, part, parts;
};

/// That part of row `w`, of `in` elements, times `tokens` tokens, of which there are at most
/// `most`; row_of(t) is the first activation of one, on 16 bytes if `vectors`.
template <DType type, uint32_t most, class RowOf>
__device__ __forceinline__ void multiply(float (&sum)[most], const std::byte* w, uint32_t in,
                                         uint32_t tokens, const RowOf& row_of, bool vectors,
                                         const Place& place) {
    const uint32_t step = 4 * k_warp * place.parts;
    for (uint32_t i = 4 * (place.part * k_warp + threadIdx.x); i < in; i += k_fours * step) {
        float4 four[k_fours];
#pragma unroll
        for (uint32_t u = 0; u < k_fours; ++u) four[u] = weight4(type, w, i + u * step, in);
#pragma unroll
        for (uint32_t t = 0; t < most; ++t) {
            if (t >= tokens) break;
            const float* x = row_of(t);
#pragma unroll
            for (uint32_t u = 0; u < k_fours; ++u) {
                sum[t] = dot(four[u], load4(x, i + u * step, in, vectors), sum[t]);
            }
        }
    }
}

/// A warp's sums, for the block to see: of_warp[warp][t]. A barrier must follow.
template <uint32_t most>
__device__ __forceinline__ void share_sums(float (*of_warp)[most], float (&sum)[most],
                                           uint32_t tokens) {
#pragma unroll
    for (uint32_t t = 0; t < most; ++t) {
        if (t >= tokens) break;
        for (unsigned h = k_warp / 2; h > 0; h /= 2) sum[t] += partner(sum[t], h);
        if (threadIdx.x == 0) of_warp[threadIdx.y][t] = sum[t];
    }
}

/// The sum for token `t` of the row that begins at `warp`.
template <uint32_t most>
__device__ float total(const float (*of_warp)[most], uint32_t warp, uint32_t parts, uint32_t t) {
    float y = of_warp[warp][t];
    for (uint32_t next = 1; next < parts; ++next) y += of_warp[warp + next][t];
    return y;
}

/// 2^split warps to a row: enough to keep the device busy, as long as each has more left than the
/// loads that are on their way at once. out: of all products that run at the same time.
inline uint32_t split_of(int64_t out, int64_t in) {
    constexpr int64_t k_busy = 8192;  // warps: 64 for each of 128 processors
    constexpr int64_t k_at_once = 4 * k_fours * k_warp;
    uint32_t split = 0;
    while ((1u << split) < k_warps && out << split < k_busy && in > k_at_once << split) ++split;
    return split;
}

/// launch.operator()<type>() of a weight's type, which is a parameter of its kernel.
template <class Launch>
void with_weight_type(DType type, const Launch& launch) {
    // clang-format off
    switch (type) {
        case DType::f32: return launch.template operator()<DType::f32>();
        case DType::f16: return launch.template operator()<DType::f16>();
        case DType::bf16: return launch.template operator()<DType::bf16>();
        case DType::q8_0: return launch.template operator()<DType::q8_0>();
        case DType::q5_1: return launch.template operator()<DType::q5_1>();
        case DType::q5_0: return launch.template operator()<DType::q5_0>();
        case DType::q4_1: return launch.template operator()<DType::q4_1>();
        case DType::q4_0: return launch.template operator()<DType::q4_0>();
        case DType::iq4_nl: return launch.template operator()<DType::iq4_nl>();
        case DType::q2_k: return launch.template operator()<DType::q2_k>();
        case DType::q3_k: return launch.template operator()<DType::q3_k>();
        case DType::q4_k: return launch.template operator()<DType::q4_k>();
        case DType::q5_k: return launch.template operator()<DType::q5_k>();
        case DType::q6_k: return launch.template operator()<DType::q6_k>();
        case DType::iq4_xs: return launch.template operator()<DType::iq4_xs>();
        case DType::mxfp4: return launch.template operator()<DType::mxfp4>();
        case DType::i32: case DType::f64: std::abort();  // check() has refused these
    }
    // clang-format on
}

}  // namespace rotkv::cuda
