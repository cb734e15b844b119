#pragma once
// Prefill on 9.0: a group of four warps that multiplies, whatever its products are. It owns 64
// rows, a warp 16 of them, waits for tiles and releases them, and stores what it has summed.
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

/// Sums: what the group keeps of its rows, Sums<D_v> and perhaps more.
template <class Memory, int D_v, class Sums>
class Group {
  public:
    using S = typename Memory::S;

    __device__ Group(const RingJob& job, const Place& at, const Memory& memory, uint32_t group,
                     bool takes_turns)
        : job_(job),
          at_(at),
          memory_(memory),
          group_(group),
          takes_turns_(takes_turns),
          warp_row_(group * k_tile_rows + uniform(threadIdx.x / k_warp % 4) * 16),
          row_(warp_row_ + lane_of_warp() / 4),
          has_rows_(at.first + warp_row_ <= at.last) {}

  protected:
    const RingJob& job_;
    const Place& at_;
    const Memory& memory_;
    const uint32_t group_;
    const bool takes_turns_;
    const uint32_t warp_row_, row_;  // of the block: the warp's first, the lane's first
    const bool has_rows_;            // that are not past the last
    Sums sums_;
    uint32_t k_stage_ = 0, k_parity_ = 0, v_stage_ = 0, v_parity_ = 0;

    __device__ void take_turn() const {
        if (takes_turns_) wait_for_group(k_turn + group_, 2 * k_warpgroup);
    }
    __device__ void pass_turn() const {
        if (takes_turns_) arrive_at_group(k_turn + 1 - group_, 2 * k_warpgroup);
    }

    // copies: the tile is one of copies that nobody has waited for yet.
    __device__ TileMark wait_for_k(uint32_t i, bool copies) const {
        memory_.full(0, k_stage_).wait(k_parity_);
        if (copies) publish_stores();
        return memory_.state.marks[i % k_remembered];
    }
    __device__ void wait_for_v(bool copies) const {
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

    // Hides the cells of tile i that rows do not see.
    template <int N>
    __device__ void hide_cells(float (&s)[N][4], const TileMark& mark, uint32_t i,
                               const RowView& upper, const RowView& lower) const {
        if (mark.whole == 0) {
            const int2* const two =
                reinterpret_cast<const int2*>(memory_.state.positions[i % k_remembered]);
            mask_scores(s, upper.of(mark.stream), lower.of(mark.stream),
                        [&](int n) { return two[n * 4 + int(lane_of_warp() % 4)]; });
        } else if (upper.stream != mark.stream || lower.stream != mark.stream) {
            hide_rows(s, upper.stream != mark.stream, lower.stream != mark.stream);
        }
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

    // Sums times factors of the lane's two rows go through the queries' place in shared memory,
    // eight rows of a warp at a time: row r begins with its 2 r last pieces of four channels,
    // against conflicts.
    __device__ void store_outputs(const float (&factor)[2]) const {
        constexpr int R = D_v > 128 ? 2 : 1, U = 4;
        constexpr uint32_t k_pieces = D_v / 4;
        const uint32_t lane = lane_of_warp(), mine = lane / 4;
        float* const rows = reinterpret_cast<float*>(memory_.q(group_)) +
                            warp_row_ % k_tile_rows / 16 * k_warp_floats;
        const auto piece_of = [](uint32_t row, uint32_t piece) {
            const uint32_t shifted = piece + 2 * row;
            return row * k_pieces + (shifted < k_pieces ? shifted : shifted - k_pieces);
        };
        wait_for_group(k_alone + group_, k_warpgroup);  // the queries have been read
        bool is_good = true;
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
#pragma unroll
            for (uint32_t n = 0; n < D_v / 8; ++n) {
                const float2 two = {sums_.o[n][2 * j] * factor[j],
                                    sums_.o[n][2 * j + 1] * factor[j]};
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

  private:
    static constexpr uint32_t k_warp_floats = S::q_bytes / 4 / 4;  // of a warp's queries

    // The warp's rows once more, cell by cell; their sums have been stored.
    __device__ void repair_rows(float* memory) const {
        static_assert(plain_floats(S::d_k < D_v ? D_v : S::d_k) <= k_warp_floats);
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
