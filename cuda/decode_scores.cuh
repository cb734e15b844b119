#pragma once
// What a warp of decode attention does with the cells of its tile that are not seen, or not by all
// of its rows.
// Docs: docs/05-attention.md

#include "cuda/decode_tiles.cuh"

namespace rotkv::cuda::decode {

// Scores in units of log 2, so that p is a power of two.
__device__ inline void scale_scores(const DecodeJob& job, const float (&unit)[2], float (&s)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] *= job.to_power * unit[i % 2];
}
// One that is infinite says that f16 does not hold q~ or a key, and becomes a NaN, which stays in
// the sums: p would be 0, or that of a capped score.
__device__ inline void mark_infinite(float (&s)[4]) {
#pragma unroll
    for (float& x : s) x = fmaf(x, 0.0f, x);
}
__device__ inline void cap_scores(const DecodeJob& job, float (&s)[4]) {
#pragma unroll
    for (float& x : s) x = job.softcap * k_log2_e * tanhf(x);
}

// Nothing of cells that are not seen.
template <class Tiles>
__device__ void hide_scores(const Tiles& tiles, uint32_t first_column, float (&s)[4]) {
    const uint32_t each = tiles.seen_by_each();
    const uint32_t cell = lane_of_warp() / 4, column = first_column + lane_of_warp() % 4 * 2;
    const bool differ = each != tiles.seen();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t r = cell + i / 2 * 8;
        const bool is_seen = differ ? tiles.sees(column + i % 2, r) : (each >> r & 1) != 0;
        if (!is_seen) s[i] = -INFINITY;
    }
}

// All of that, of 8 rows each; here of scores that are scaled.
template <int Columns, class Tiles>
__device__ void finish_scores(const Tiles& tiles, float (&s)[Columns][4]) {
    const DecodeJob& job = tiles.job;
#pragma unroll
    for (int c = 0; c < Columns; ++c) mark_infinite(s[c]);
    if (job.softcap > 0) {
#pragma unroll
        for (int c = 0; c < Columns; ++c) cap_scores(job, s[c]);
    }
    if (tiles.seen_by_each() == 0xFFFFu) return;
#pragma unroll
    for (int c = 0; c < Columns; ++c) hide_scores(tiles, uint32_t(c) * k_most_heads, s[c]);
}

template <int Columns, class Tiles>
__device__ void finish_scores(const Tiles& tiles, const float (&unit)[2], float (&s)[Columns][4]) {
#pragma unroll
    for (int c = 0; c < Columns; ++c) scale_scores(tiles.job, unit, s[c]);
    finish_scores(tiles, s);
}

// What lies in a cell that is not seen may be a NaN, which 0 times is not 0.
template <class Tiles>
__device__ void clear_unseen(const Tiles& tiles) {
    for (uint32_t r = 0; r < k_cells; ++r) {
        if ((tiles.seen() >> r & 1) != 0) continue;
        uint16_t* row = reinterpret_cast<uint16_t*>(tiles.v_row(r));
        for (uint32_t i = lane_of_warp(); i < tiles.job.v_rows.row_bytes / 2; i += k_warp) {
            row[i] = 0;
        }
    }
    publish_stores();  // before copies into the same place
    __syncwarp();
}

}  // namespace rotkv::cuda::decode
