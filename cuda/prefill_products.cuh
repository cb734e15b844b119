#pragma once
// The two products of prefill over a tile of cells, on the tensor cores of compute capability 8.0.
// Docs: docs/05-attention.md

#include "cuda/prefill_softmax.cuh"

namespace rotkv::cuda::prefill {

template <int D>
using Scores = float[Shape<D>::cells / 8][4];

template <int D>
__device__ uint32_t row_of_lane() {
    return threadIdx.x % Shape<D>::group_threads / k_warp * 16 + lane_of_warp() / 4;
}

/// Scores: C[row][cell] of the queries' tile and the tile of K.
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

/// C[row][channel] += the probabilities times the tile of V.
template <int D>
__device__ void add_values(Sums<D>& sums, const Scores<D>& p, uint32_t v) {
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

}  // namespace rotkv::cuda::prefill
