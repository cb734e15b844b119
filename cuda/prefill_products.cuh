#pragma once
// The two products of prefill over a tile of cells, on the tensor cores of compute capability 8.0
// and, where the code is compiled for it (sm_90a), of 9.0. Results lie in the same registers.
// Docs: docs/08-backends.md

#include "cuda/prefill_rows.cuh"
#include "cuda/prefill_wgmma.cuh"

namespace rotkv::cuda::prefill {

// The sums of one warp: C of the products of probabilities and values, and of both of the lane's
// rows, 8 j + row_of_lane<D>(), the largest score and the lane's part of the sum of probabilities.
template <int D>
struct Sums {
    float o[D / 8][4];
    float most[2], total[2];
};

template <int D>
using Scores = float[Shape<D>::cells / 8][4];

template <int D>
__device__ uint32_t row_of_lane() {
    return threadIdx.x % Shape<D>::group_threads / k_warp * 16 + lane_of_warp() / 4;
}

// Probabilities of 16 cells as A of a product.
__device__ inline void to_halves(Fragment& a, const float (*p)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = halves_of(p[i / 2][i % 2 * 2], p[i / 2][i % 2 * 2 + 1]);
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// Scores: C[row][cell] of the queries' tile and the tile of K.
template <int D>
__device__ void score(Scores<D>& s, uint32_t q, uint32_t k) {
    using S = Shape<D>;
    const uint32_t four_warps = threadIdx.x % S::group_threads / 128;
    const Operand a(q + four_warps * 64 * 128, 0), b(k, 0);
    begin_products();
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        const uint32_t panel = d / 64, byte = d % 64 * 2;  // inside a row the swizzle follows
        multiply_tiles(s, a.at(panel * S::rows * 128 + byte), b.at(panel * S::cells * 128 + byte),
                       d);
    }
    end_products();
    wait_for_products();
}

/// C[row][channel] += the probabilities times the tile of V; done after wait_for_products().
template <int D>
__device__ void start_values(Sums<D>& sums, const Scores<D>& p, uint32_t v) {
    constexpr uint32_t k_cells = Shape<D>::cells, k_panel = k_cells * 128;
    Fragment a[k_cells / 16];
#pragma unroll
    for (int c = 0; c < k_cells / 16; ++c) to_halves(a[c], &p[2 * c]);
    const Operand b(v, k_panel);
    begin_products();
#pragma unroll
    for (int c = 0; c < k_cells / 16; ++c) {
        if constexpr (D == 64) multiply_add_64(sums.o, a[c], b.at(c * 16 * 128));
#pragma unroll
        for (int d = 0; d + 128 <= D; d += 128) {
            multiply_add_128(&sums.o[d / 8], a[c], b.at(c * 16 * 128 + d / 64 * k_panel));
        }
    }
    end_products();
}

#else

template <int D>
__device__ void score(Scores<D>& s, uint32_t q, uint32_t k) {
    using S = Shape<D>;
    // Matrices of A: rows 0, 8, 0, 8 and channels 0, 0, 8, 8; of B: cells 0, 0, 8, 8, channels
    // 0, 8.
    const uint32_t lane = lane_of_warp(), cell = lane % 8 + lane / 16 * 8;
    const uint32_t row = row_of_lane<D>() - lane / 4 + lane % 16;
#pragma unroll
    for (int i = 0; i < S::cells / 2; ++i) s[i / 4][i % 4] = 0.0f;
#pragma unroll
    for (int d = 0; d < D; d += 16) {
        Fragment a;
        load_matrices(a, q + place_of(S::rows, row, d / 8 + lane / 16));
        const uint32_t at = k + place_of(S::cells, cell, d / 8 + lane / 8 % 2);
#pragma unroll
        for (int c = 0; c < S::cells; c += 16) {
            Fragment b;
            load_matrices(b, at + c * 128);
            multiply_add(s[c / 8], a, b[0], b[1]);
            multiply_add(s[c / 8 + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
__device__ void start_values(Sums<D>& sums, const Scores<D>& p, uint32_t v) {
    using S = Shape<D>;
    // Matrices of B: cells 0, 8, 0, 8 and channels 0, 0, 8, 8.
    const uint32_t cell = lane_of_warp() % 16, piece = lane_of_warp() / 16;
#pragma unroll
    for (int c = 0; c < S::cells; c += 16) {
        Fragment a;
        to_halves(a, &p[c / 8]);
#pragma unroll
        for (int d = 0; d < D; d += 16) {
            Fragment b;
            load_transposed(b, v + c * 128 + place_of(S::cells, cell, d / 8 + piece));
            multiply_add(sums.o[d / 8], a, b[0], b[1]);
            multiply_add(sums.o[d / 8 + 1], a, b[2], b[3]);
        }
    }
}

#endif

}  // namespace rotkv::cuda::prefill
