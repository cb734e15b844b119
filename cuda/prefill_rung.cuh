#pragma once
// What versions 1 to 4 of prefill share, so that each of their files shows how tiles lie, come and
// are multiplied, and nothing else: which rows a block of threads owns, queries, softmax, the end.
//
// ROWS are pairs (token, query head) of one KV head, row = token * group + head, so that a tile of
// 64 cells in shared memory serves all query heads of its KV head. A block of threads owns 64 rows,
// each of its four warps 16 (FlashAttention-2: Dao 2023), of which lane l, g = l / 4, t = l % 4,
// holds
//
//     scores   s[n][0..1], s[n][2..3]   rows g, g + 8; cells 8 n + 2 t and the next one
//     sums     o[n][0..1], o[n][2..3]   rows g, g + 8; channels 8 n + 2 t and the next one
//
// which is how tensor cores leave C, and, two neighbouring n rounded to f16, how they take A: p
// goes from the softmax into the second product without leaving its registers.
//
// All cells of the stream are visited, seen or not; the query's position masks scores. One stream.
// Docs: docs/05-attention.md

#include "cuda/prefill_mma.cuh"
#include "cuda/rung.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_rung_rows = 64, k_rung_cells = 64, k_rung_threads = 128;

inline bool prefill_rung_takes(const AttentionArgs& args) {
    return rung_takes_halves(args) && args.k_cache.n[0] == 1;
}

/// The rows of a block of threads: `count` of KV head `kv`, from `first` on.
struct RowBlock {
    const Task& task;
    uint32_t kv, first, count, used;

    explicit __device__ RowBlock(const Task& all)
        : task(all),
          kv(blockIdx.y),
          first(blockIdx.x * k_rung_rows),
          count(min(k_rung_rows, all.tokens * all.group - first)),
          used(uint32_t(all.used[0])) {}

    static dim3 grid(const Task& task, const AttentionArgs& args) {
        return dim3(blocks_for(int64_t(task.tokens) * task.group, k_rung_rows),
                    unsigned(args.k_cache.n[2]));
    }
    __device__ uint32_t token(uint32_t row) const { return (first + row) / task.group; }
    __device__ uint32_t head(uint32_t row) const {
        return kv * task.group + (first + row) % task.group;
    }
    __device__ Seen seen_by(uint32_t row) const {
        return task.sight.of(task.q_position[token(min(row, count - 1))]);
    }
    __device__ const std::byte* k() const { return task.k.data + kv * task.k.head; }
    __device__ const std::byte* v() const { return task.v.data + kv * task.v.head; }
    __device__ const int32_t* positions() const {
        return reinterpret_cast<const int32_t*>(task.position);
    }
};

/// The first row of this lane, of 64; its second is 8 further on.
__device__ inline uint32_t lane_row() { return threadIdx.x / k_warp * 16 + lane_of_warp() / 4; }

/// 1 rotate the queries, a warp its own 16 rows. put(row, i, halves): channels i, i + 1.
template <int D, class Put>
__device__ void load_queries(const RowBlock& rows, float* scratch, const Put& put) {
    const Task& task = rows.task;
    const uint32_t warp_row = threadIdx.x / k_warp * 16;
#pragma unroll 1
    for (uint32_t row = warp_row; row < warp_row + 16; ++row) {
        const bool is_row = row < rows.count;
        const std::byte* const from =
            task.q + rows.token(row) * task.q_token + rows.head(row) * task.q_head;
        for (uint32_t i = lane_of_warp(); i < D; i += k_warp) {
            scratch[i] = is_row ? reinterpret_cast<const float*>(from)[i] : 0.0f;
        }
        __syncwarp();
        rotate_row(scratch, task.k_cut, false);
        for (uint32_t i = 2 * lane_of_warp(); i < D; i += 2 * k_warp) {
            put(row, i, halves_of(scratch[i], scratch[i + 1]));
        }
        __syncwarp();
    }
}

/// A tile of K or V by all 128 threads. put(r, i, x): channels i .. i + 7 of cell r; behind the
/// used cells 0.
template <int D, class Put>
__device__ void load_tile(const std::byte* rows, int64_t of_cell, uint32_t first, uint32_t used,
                          const Put& put) {
    constexpr uint32_t k_units = D / 8;  // of 16 bytes, of a row
#pragma unroll
    for (uint32_t j = 0; j < k_rung_cells * k_units / k_rung_threads; ++j) {
        const uint32_t item = j * k_rung_threads + threadIdx.x;
        const uint32_t r = item / k_units, i = item % k_units * 8;
        uint4 x = {0, 0, 0, 0};
        if (first + r < used) {
            x = *reinterpret_cast<const uint4*>(rows + (first + r) * of_cell + i * 2);
        }
        put(r, i, x);
    }
}

/// The softmax of a lane's two rows as it runs (online softmax: Milakov, Gimelshein 2018), and
/// their sums of values.
template <int D>
struct RowSums {
    float o[D / 8][4] = {};
    float most[2] = {-FLT_MAX, -FLT_MAX}, total[2] = {};
    Seen seen[2];

    explicit __device__ RowSums(const RowBlock& rows)
        : seen{rows.seen_by(lane_row()), rows.seen_by(lane_row() + 8)} {}

    /// 3 softmax of a tile: scores, times to_power powers of two, become p. position[64]: of its
    /// cells, of which `left` are used.
    __device__ void take(float (&s)[8][4], const int32_t* position, uint32_t left, float to_power) {
        float top[2] = {most[0], most[1]};
#pragma unroll
        for (uint32_t i = 0; i < 32; ++i) {
            const uint32_t cell = i / 4 * 8 + lane_of_warp() % 4 * 2 + i % 2, j = i / 2 % 2;
            const bool is_seen = cell < left && seen[j].holds(position[cell]);
            const float marked = fmaf(s[i / 4][i % 4], 0.0f, s[i / 4][i % 4]);  // infinite: a NaN
            s[i / 4][i % 4] = is_seen ? marked * to_power : -INFINITY;
            top[j] = fmaxf(top[j], s[i / 4][i % 4]);
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            top[j] = fmaxf(top[j], partner(top[j], 1));  // four lanes share a row
            top[j] = fmaxf(top[j], partner(top[j], 2));
            const float shrink = power_of_two(most[j] - top[j]);
            most[j] = top[j];
            total[j] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                o[n][2 * j] *= shrink;
                o[n][2 * j + 1] *= shrink;
            }
        }
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            s[i / 4][i % 4] = power_of_two(s[i / 4][i % 4] - most[i / 2 % 2]);
            total[i / 2 % 2] += s[i / 4][i % 4];
        }
    }
};

/// p of cells 16 c .. 16 c + 15, rounded to f16, as A of a product.
__device__ inline void to_operand(Fragment& a, const float (&p)[8][4], int c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        a[i] = halves_of(p[2 * c + i / 2][i % 2 * 2], p[2 * c + i / 2][i % 2 * 2 + 1]);
    }
}

/// The end, a warp its own 16 rows: sums to shared memory, as rows [64][D]; 5 rotate back, store.
/// What lay there before has been read by all.
template <int D>
__device__ void end_rows(const RowBlock& rows, RowSums<D>& sums, float* out, float* scratch) {
    const uint32_t lane = lane_of_warp(), warp_row = threadIdx.x / k_warp * 16;
#pragma unroll
    for (float& total : sums.total) {
        total += partner(total, 1);
        total += partner(total, 2);
    }
#pragma unroll
    for (int i = 0; i < D / 2; ++i) {
        const uint32_t row = lane_row() + i / 2 % 2 * 8;
        out[row * D + i / 4 * 8 + lane % 4 * 2 + i % 2] = sums.o[i / 4][i % 4];
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t r = 0; r < 16 && warp_row + r < rows.count; ++r) {
        const int owner = int(r % 8 * 4);
        const bool lower = r >= 8;
        const float most = __shfl_sync(k_all_lanes, lower ? sums.most[1] : sums.most[0], owner);
        const float total = __shfl_sync(k_all_lanes, lower ? sums.total[1] : sums.total[0], owner);
        const uint32_t row = warp_row + r;
        finish_row(rows.task, rows.token(row), rows.head(row), out + row * D, most / k_log2_e,
                   total, scratch);
    }
}

}  // namespace rotkv::cuda::prefill
