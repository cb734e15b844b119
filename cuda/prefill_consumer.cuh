#pragma once
// Prefill on 9.0 in f16: a group of four warps that multiplies (prefill_group.cuh) goes through the
// tiles in this order (FlashAttention-3: Shah et al. 2024):
//
//   scores of tile i + 1      begin
//   values of tile i          begin
//   scores of tile i + 1      are there: their softmax, while the values are still multiplied
//
// Where there are two groups, their products take turns, so that the softmax of one runs beside the
// products of the other.
// Docs: docs/05-attention.md

#include "cuda/prefill_group.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::prefill {

// copies: tiles are copies that nobody has waited for yet.
template <int D_k, int D_v, bool copies>
class Consumer : Group<RingMemory<D_k, D_v>, D_v, Sums<D_v>> {
  public:
    using Base = Group<RingMemory<D_k, D_v>, D_v, Sums<D_v>>;
    using Base::Base;
    static constexpr int k_cells = RingShape<D_k, D_v>::cells;
    using Scores = float[k_cells / 8][4];
    using Probabilities = Fragment[k_cells / 16];

    // Inlined: scores and sums in the registers of a function's call would be spilled.
    __device__ __forceinline__ void run() {
        const RowView upper(job_, at_, row_), lower(job_, at_, row_ + 8);
        wait_for_earlier();  // integers come before
        load();
        begin(job_, at_, row_, true, sums_);
        if (takes_turns_ && group_ == 1) pass_turn();
        Scores s;
        Probabilities p;
        TileMark mark = wait_for_k(0, copies);
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
                mark = wait_for_k(i, copies);
                if (mark.is_end()) break;
                take_turn();
                start_scores(s);
                wait_for_v(copies);
                start_values(p);
                pass_turn();
                wait_for_products<1>();
                hold(s);
                release(0);
                finish_values(softmax(s, mark, i, upper, lower));
                keep(p, s);
            }
            wait_for_v(copies);
            start_values(p);
            wait_for_products<0>();
            hold(sums_.o);
        }
        if (takes_turns_ && group_ == 0) take_turn();  // the last one, which nobody needs
        let_next_come();
        if (job_.parts.are_used()) return store_parts();
        float factor[2];
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            const float total = sum_of_four_lanes(sums_.total[j]);
            factor[j] = total > 0 ? 1.0f / total : 0.0f;  // 0: nothing was seen
        }
        store_outputs(factor);
    }

  private:
    using Base::at_, Base::group_, Base::has_rows_, Base::hide_cells, Base::job_, Base::k_parity_,
        Base::k_stage_, Base::memory_, Base::pass_turn, Base::release, Base::row_,
        Base::store_outputs, Base::store_parts, Base::sums_, Base::take_turn, Base::takes_turns_,
        Base::v_stage_, Base::wait_for_k, Base::wait_for_v, Base::warp_row_;

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
        hide_cells(s, mark, i, upper, lower);
        return softmax_tile(s, sums_);
    }
    __device__ static void keep(Probabilities& p, const Scores& s) {
#pragma unroll
        for (int c = 0; c < k_cells / 16; ++c) to_halves(p[c], &s[2 * c]);
    }
};

}  // namespace rotkv::cuda::prefill

#endif
