#pragma once
// Prefill on 9.0: a group of four warps that multiplies. It owns 64 rows, a warp 16 of them, and
// goes through the tiles in this order (FlashAttention-3: Shah et al. 2024):
//
//   scores of tile i + 1      begin
//   values of tile i          begin
//   scores of tile i + 1      are there: their softmax, while the values are still multiplied
//
// Where there are two groups, their products take turns, so that the softmax of one runs beside the
// products of the other.
// Docs: docs/05-attention.md

#include "cuda/dependent.cuh"
#include "cuda/prefill_ring.cuh"
#include "cuda/prefill_softmax.cuh"
#include "cuda/prefill_wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::prefill {

/// A row of the block: its stream and what it sees of it.
struct RowView {
    int32_t stream;
    Limits limits;

    __device__ RowView(const Job& job, const Place& at, uint32_t row) {
        const uint32_t t = at.token(job, row);
        stream = job.q_stream(t);
        limits = limits_of(job, t, stream);
    }
    __device__ Limits of(int32_t other) const {
        return other == stream ? limits : Limits{INT32_MAX, -1};
    }
};

// copies: tiles are copies that nobody has waited for yet.
template <int D_k, int D_v, bool copies>
class Consumer {
  public:
    using S = RingShape<D_k, D_v>;
    static constexpr int k_cells = S::cells;
    using Scores = float[k_cells / 8][4];
    using Probabilities = Fragment[k_cells / 16];

    __device__ Consumer(const RingJob& job, const Place& at, const RingMemory<D_k, D_v>& memory,
                        uint32_t group, bool takes_turns)
        : job_(job),
          at_(at),
          memory_(memory),
          group_(group),
          takes_turns_(takes_turns),
          warp_row_(group * k_tile_rows + uniform(threadIdx.x / k_warp % 4) * 16),
          row_(warp_row_ + lane_of_warp() / 4),
          has_rows_(at.first + warp_row_ <= at.last) {}

    // Inlined: scores and sums in the registers of a function's call would be spilled.
    __device__ __forceinline__ void run() {
        const RowView upper(job_, at_, row_), lower(job_, at_, row_ + 8);
        wait_for_earlier();  // integers come before
        load();
        begin(job_, at_, row_, true, sums_);
        if (takes_turns_ && group_ == 1) pass_turn();
        Scores s;
        Probabilities p;
        TileMark mark = wait_for_k(0);
        if (!mark.is_end()) {
            take_turn();
            start_scores(s);
            pass_turn();
            wait_for_products<0>();
            hold(s);
            release(0);
            softmax(s, mark, 0, upper, lower);
            keep(p, s);
            for (uint32_t i = 1;; ++i) {
                mark = wait_for_k(i);
                if (mark.is_end()) break;
                take_turn();
                start_scores(s);
                wait_for_v();
                start_values(p);
                pass_turn();
                wait_for_products<1>();
                hold(s);
                release(0);
                finish_values(softmax(s, mark, i, upper, lower));
                keep(p, s);
            }
            wait_for_v();
            start_values(p);
            wait_for_products<0>();
            hold(sums_.o);
        }
        if (takes_turns_ && group_ == 0) take_turn();  // the last one, which nobody needs
        let_next_come();
        job_.parts.are_used() ? store_parts() : store_outputs();
    }

  private:
    const RingJob& job_;
    const Place& at_;
    const RingMemory<D_k, D_v>& memory_;
    const uint32_t group_;
    const bool takes_turns_;
    const uint32_t warp_row_, row_;  // of the block: the warp's first, the lane's first
    const bool has_rows_;            // that are not past the last
    Sums<D_v> sums_;
    uint32_t k_stage_ = 0, k_parity_ = 0, v_stage_ = 0, v_parity_ = 0;

    // 1 rotate the query: a warp its own rows.
    __device__ void load() const {
        constexpr int R = D_k > 128 ? 2 : 1, U = 8 / R;
        std::byte* const tile = memory_.q(group_);
#pragma unroll 1
        for (uint32_t row = 0; row < 16; row += U) {
            float4 x[U][R];
            load_rotated(job_, at_, warp_row_ + row, x);
#pragma unroll
            for (uint32_t u = 0; u < U; ++u) {
                const uint32_t of_tile = warp_row_ % k_tile_rows + row + u;
                store_query<D_k>(job_, tile, k_tile_rows, of_tile, x[u]);
            }
        }
        publish_stores();
        wait_for_group(k_alone + group_, k_warpgroup);
    }

    __device__ void take_turn() const {
        if (takes_turns_) wait_for_group(k_turn + group_, 2 * k_warpgroup);
    }
    __device__ void pass_turn() const {
        if (takes_turns_) arrive_at_group(k_turn + 1 - group_, 2 * k_warpgroup);
    }

    __device__ TileMark wait_for_k(uint32_t i) const {
        memory_.full(0, k_stage_).wait(k_parity_);
        if (copies) publish_stores();
        return memory_.state.marks[i % k_remembered];
    }
    __device__ void wait_for_v() const {
        memory_.full(1, v_stage_).wait(v_parity_);
        if (copies) publish_stores();
    }
    // The tile of K, or of V, is no longer read.
    __device__ void release(uint32_t side) {
        uint32_t& stage = side == 0 ? k_stage_ : v_stage_;
        uint32_t& parity = side == 0 ? k_parity_ : v_parity_;
        if (lane_of_warp() == 0) memory_.empty(side, stage).arrive();
        parity ^= stage;
        stage ^= 1;
    }

    // 2 score the visible cells.
    __device__ void start_scores(Scores& s) const {
        const Operand a(shared_address(memory_.q(group_)), 0),
            b(shared_address(memory_.tile(0, k_stage_)), 0);
        hold(s);
        begin_products();
#pragma unroll
        for (int d = 0; d < D_k; d += 16) {
            const uint32_t panel = d / 64, byte = d % 64 * 2;  // inside a row the swizzle follows
            multiply_tiles(s, a.at(panel * k_tile_rows * 128 + byte),
                           b.at(panel * k_cells * 128 + byte), d);
        }
        end_products();
    }

    // 4 sum the values.
    __device__ void start_values(const Probabilities& p) {
        const Operand b(shared_address(memory_.tile(1, v_stage_)), k_cells * 128);
        hold(sums_.o);
        begin_products();
#pragma unroll
        for (int c = 0; c < k_cells / 16; ++c) {
            const uint32_t at = c * 16 * 128;
            if constexpr (D_v == 256) {
                multiply_add(sums_.o, p[c], b.at(at), b.at(at + 2 * k_cells * 128));
            } else {
                multiply_add(sums_.o, p[c], b.at(at));
            }
        }
        end_products();
    }

    // The assembler lets arithmetic wander behind a wait for products that it needs not, and the
    // softmax would no longer run beside them: a branch keeps them apart.
    __device__ void finish_values(const float2& shrink) {
        if (!memory_.full(0, k_stage_).has_ended(k_parity_)) __nanosleep(0);
        wait_for_products<0>();
        hold(sums_.o);
        release(1);
        shrink_sums(sums_, shrink);
    }

    // 3 softmax of tile i.
    __device__ float2 softmax(Scores& s, const TileMark& mark, uint32_t i, const RowView& upper,
                              const RowView& lower) {
        if (!has_rows_) return {1, 1};  // nobody looks at what comes of these rows
        if (!copies) mark_infinite(s);  // rows of f16 hold what they hold
        if (job_.cap > 0) cap_scores(s, job_.cap);
        if (mark.whole == 0) {
            const int2* const two =
                reinterpret_cast<const int2*>(memory_.state.positions[i % k_remembered]);
            mask_scores(s, upper.of(mark.stream), lower.of(mark.stream),
                        [&](int n) { return two[n * 4 + int(lane_of_warp() % 4)]; });
        } else if (upper.stream != mark.stream || lower.stream != mark.stream) {
            hide_rows(s, upper.stream != mark.stream, lower.stream != mark.stream);
        }
        return softmax_tile(s, sums_);
    }
    __device__ static void keep(Probabilities& p, const Scores& s) {
#pragma unroll
        for (int c = 0; c < k_cells / 16; ++c) to_halves(p[c], &s[2 * c]);
    }

    // For the second kernel: sums as they are, a row's in 32 bytes of four lanes.
    __device__ void store_parts() const {
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            const uint32_t row = row_ + 8 * j;
            const float total = sum_of_four_lanes(sums_.total[j]);
            if (at_.first + row > at_.last) continue;
            const int64_t part = job_.part(at_, row);
            float2* const to =
                reinterpret_cast<float2*>(job_.parts.sums + part * job_.parts.fours) +
                lane_of_warp() % 4;
#pragma unroll
            for (int n = 0; n < D_v / 8; ++n) {
                to[n * 4] = {sums_.o[n][2 * j], sums_.o[n][2 * j + 1]};
            }
            if (lane_of_warp() % 4 == 0) job_.parts.softmax[part] = {sums_.most[j], total};
        }
    }

    // Sums over their totals go through the queries' place in shared memory, eight rows of a warp
    // at a time: row r begins with its 2 r last pieces of four channels, against conflicts.
    __device__ void store_outputs() const {
        constexpr int R = D_v > 128 ? 2 : 1, U = 4;
        constexpr uint32_t k_pieces = D_v / 4;
        const uint32_t lane = lane_of_warp(), mine = lane / 4;
        float* const rows = reinterpret_cast<float*>(memory_.q(group_) +
                                                     warp_row_ % k_tile_rows * 128 * S::k_panels);
        const auto piece_of = [](uint32_t row, uint32_t piece) {
            const uint32_t shifted = piece + 2 * row;
            return row * k_pieces + (shifted < k_pieces ? shifted : shifted - k_pieces);
        };
        wait_for_group(k_alone + group_, k_warpgroup);  // the queries have been read
        bool is_good = true;
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            const float total = sum_of_four_lanes(sums_.total[j]);
            const float factor = total > 0 ? 1.0f / total : 0.0f;  // 0: nothing was seen
#pragma unroll
            for (uint32_t n = 0; n < D_v / 8; ++n) {
                const float2 two = {sums_.o[n][2 * j] * factor, sums_.o[n][2 * j + 1] * factor};
                is_good = is_good && is_finite(two.x) && is_finite(two.y);
                float* const to = rows + 4 * piece_of(mine, 2 * n + lane % 4 / 2);
                *reinterpret_cast<float2*>(to + lane % 2 * 2) = two;
            }
            __syncwarp();
#pragma unroll 1
            for (uint32_t row = 0; row < 8; row += U) {
                float4 x[U][R];
#pragma unroll
                for (uint32_t i = 0; i < U * R; ++i) {
                    const uint32_t piece = lane + i % R * k_warp;
                    const float* from = rows + 4 * piece_of(row + i / R, piece);
                    x[i / R][i % R] =
                        piece < k_pieces ? load4(from, 0, 4, true) : float4{0, 0, 0, 0};
                }
                store_rotated_back(job_, at_, warp_row_ + 8 * j + row, x);
            }
            __syncwarp();
        }
        if (!__all_sync(k_all_lanes, is_good)) repair_rows(rows);
    }

    // The warp's rows once more, cell by cell; their sums have been stored.
    __device__ void repair_rows(float* memory) const {
        static_assert(plain_floats(D_k < D_v ? D_v : D_k) <= 16 * 32 * S::k_panels,
                      "a warp's queries");
        constexpr int R = D_v > 128 ? 2 : 1;
#pragma unroll 1
        for (uint32_t row = warp_row_; row < warp_row_ + 16; ++row) {
            if (at_.first + row > at_.last) return;
            const float* const out =
                attend_row(job_.task, at_.token(job_, row), at_.head(job_, row), 0, D_v, memory);
            float4 x[1][R];
#pragma unroll
            for (uint32_t j = 0; j < R; ++j) {
                x[0][j] = load4(out, 4 * (lane_of_warp() + j * k_warp), D_v, true);
            }
            store_rotated_back(job_, at_, row, x);
        }
    }
};

}  // namespace rotkv::cuda::prefill

#endif
