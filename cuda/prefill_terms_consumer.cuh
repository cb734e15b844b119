#pragma once
// Prefill in f32 precision on 9.0: a group of four warps that multiplies (prefill_group.cuh), tile
// after tile: scores, softmax, values. While one group empties its accumulators the other's
// products are under way.
// Docs: docs/05-attention.md

#include "cuda/prefill_group.cuh"
#include "cuda/prefill_terms_ring.cuh"
#include "cuda/prefill_terms_wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::prefill {

template <int D>
class TermsConsumer : Group<TermsRing<D>, D, TermSums<D>> {
  public:
    using Base = Group<TermsRing<D>, D, TermSums<D>>;
    __device__ TermsConsumer(const TermsRingJob& job, const Place& at, const TermsRing<D>& memory,
                             uint32_t group)
        : Base(job, at, memory, group, false), terms_(job) {}

    // Inlined: scores and sums in the registers of a function's call would be spilled.
    __device__ __forceinline__ void run() {
        const RowView upper(job_, at_, row_), lower(job_, at_, row_ + 8);
        wait_for_earlier();  // integers come before
        load();
        begin(job_, at_, row_, false, sums_);
        sums_.units[0] = memory_.units()[row_];
        sums_.units[1] = memory_.units()[row_ + 8];
        for (uint32_t i = 0;; ++i) {
            const TileMark mark = wait_for_k(i, !terms_.k_blocks);
            if (mark.is_end()) break;
            TermScores s;
            score(s);
            release(0);
            float units[2] = {sums_.units[0], sums_.units[1]}, down[2];
            cap_terms(s, job_.cap, units);
            hide_cells(s, mark, i, upper, lower);
            softmax_terms(s, units, sums_, down);
            wait_for_v(false);
            add_values(s, down);
            release(1);
        }
        let_next_come();
        job_.parts.are_used() ? store_parts() : finish();
    }

  private:
    using Base::at_, Base::group_, Base::hide_cells, Base::job_, Base::k_stage_, Base::memory_,
        Base::release, Base::row_, Base::store_outputs, Base::sums_, Base::v_stage_,
        Base::wait_for_k, Base::wait_for_v, Base::warp_row_;
    using S = TermsShape<D>;
    const TermsRingJob& terms_;

    // 1 rotate the query: a warp its own rows.
    __device__ void load() const {
        constexpr uint32_t U = 4;
#pragma unroll 1
        for (uint32_t first = 0; first < 16; first += U) {
            float4 x[U][1];
            load_rotated(job_, at_, warp_row_ + first, x);
#pragma unroll
            for (uint32_t i = 0; i < U; ++i) {
                const uint32_t row = warp_row_ + first + i;
                store_two_terms<D>(
                    memory_.q(group_), S::q_low, row % k_tile_rows, scaled(x[i][0], job_.q_scale),
                    memory_.units() + row,
                    terms_.k_offsets ? memory_.sums_of_q() + row * (D / 32) : nullptr);
            }
        }
        publish_stores();
        wait_for_group(k_alone + group_, k_warpgroup);
    }

    // 2 score the visible cells.
    __device__ void score(TermScores& s) const {
        const uint32_t q = shared_address(memory_.q(group_)),
                       k = shared_address(memory_.tile(0, k_stage_));
        if (!terms_.k_blocks) return score_halves_on_wgmma<D>(s, q, S::q_low, k);
        const float* const sums = memory_.sums_of_q() + row_ * (D / 32);
        score_codes_on_wgmma<D>(s, q, S::q_low, k, memory_.scales(0, k_stage_),
                                terms_.k_offsets ? sums : nullptr);
    }

    // 4 sum the values, in passes (prefill_terms_wgmma.cuh): nearly always one. Tiles with halves
    // or scales that f16 has no room for beside the others are taken by each warp for itself.
    __device__ void add_values(const TermScores& p, const float (&down)[2]) {
        const uint32_t v = shared_address(memory_.tile(1, v_stage_));
        if (terms_.v_offsets) sums_.offsets.add(p, memory_.scales(1, v_stage_), down);
        terms_.v_blocks ? add_codes(p, v, down) : add_halves(p, v, down);
    }

    __device__ void add_halves(const TermScores& p, uint32_t v, const float (&down)[2]) {
        const float largest = memory_.largest(v_stage_);
        if (!(largest < k_large)) {
            add_terms<D, false, true>(sums_, p, v, {}, {}, down, 2);
            return;
        }
        const bool has_small = __any_sync(k_all_lanes, least_of(p) < k_least_term);
        const float lost = k_term_cells * k_lost_of_p * k_v_times * largest * k_enough;
        float of_rows[2] = {down[0] / k_v_times, down[1] / k_v_times};
#pragma unroll 1
        for (int pass = 0;; ++pass) {
            add_halves_on_wgmma<D>(sums_, p, v, of_rows, pass);
            if (pass == k_passes - 1) break;
            const bool is_lost = has_small && is_some_smaller<D / 8>(
                                                  sums_, 0, {lost * of_rows[0], lost * of_rows[1]});
            if (!any_of_group(k_alone + group_, k_warpgroup, is_lost)) break;
            for (float& x : of_rows) x /= k_next;
        }
    }

    __device__ void add_codes(const TermScores& p, uint32_t v, const float (&down)[2]) {
        const Scales scales = memory_.scales(1, v_stage_);
        BlockScales<D> of_blocks;
        of_blocks.find(scales);
        if (of_blocks.least < 0x1p-14f) {  // subnormal in f16
            add_terms<D, true, true>(sums_, p, v, scales, of_blocks, down, 1);
            return;
        }
        const bool has_small =
            __any_sync(k_all_lanes, least_of(p) * fminf(of_blocks.least, 1) < k_least_term);
        const float lost = k_term_cells * k_lost_of_pd * terms_.most_code * k_enough;
        float of_rows[2] = {down[0], down[1]};
#pragma unroll 1
        for (int pass = 0;; ++pass) {
            add_codes_on_wgmma<D>(sums_, p, v, scales, of_blocks, of_rows, pass);
            if (pass == k_passes - 1) break;
            bool is_lost = false;
#pragma unroll
            for (int b = 0; b < D / 32 && has_small; ++b) {
                const float of_block = lost * of_blocks.down[b];
                is_lost =
                    is_lost || is_some_smaller<4>(sums_, 32 * b,
                                                  {of_block * of_rows[0], of_block * of_rows[1]});
            }
            if (!any_of_group(k_alone + group_, k_warpgroup, is_lost)) break;
            for (float& x : of_rows) x /= k_next;
        }
    }

    __device__ void store_parts() {
        if (terms_.v_offsets) sums_.offsets.add_to(sums_);
        Base::store_parts();
    }

    // Where nobody shares the cells: outputs, and lse.
    __device__ void finish() {
        if (terms_.v_offsets) sums_.offsets.add_to(sums_);
        float factor[2];
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            const uint32_t row = row_ + 8 * j, h = at_.head(job_, row);
            const RowEnd end(job_, h, sums_.most[j], sum_of_four_lanes(sums_.total[j]));
            factor[j] = end.factor;
            if (lane_of_warp() % 4 != 0 || at_.first + row > at_.last) continue;
            store_lse(job_.task, at_.token(job_, row), h, end.most / k_log2_e, end.all);
        }
        store_outputs(factor);
    }
};

}  // namespace rotkv::cuda::prefill

#endif
