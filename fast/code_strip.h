#pragma once
// Rows of a weight of codes (code_tiles.h) with some tokens, in tiles. Docs: docs/performance.md
//
//   y[row][token] = sum over blocks of a sum_i (c_i - z) x_i + b sum_i x_i
//                                      ------------------- three tile products, low terms first
//
// Tiles hold the sums of one block alone: a and b of its rows come after. Three things are done in
// turns: codes of the next blocks become bf16, tiles of these are multiplied, and sums of those
// before are scaled and added up. Between two tile instructions there is little of the others, so
// that the processor always sees some of each.

#include "fast/code_tiles.h"
#include "fast/tile_tokens.h"
#include "fast/workspace.h"

#include <algorithm>

#if ROTKV_AMX

namespace rotkv::fast {

/// Rows first .. end - 1 of the weight with up to k_most_groups groups of tokens.
template <DType type>
class CodeStrip {
  public:
    CodeStrip(const TensorView& weight, const Tokens& tokens, int64_t first, int64_t end)
        : weight_(weight), tokens_(tokens), first_(first), end_(end), memory_(own_memory()) {}

    /// False: rows are too short.
    bool multiply() {
        if (blocks_ < k_count) return false;
        Step step{first_, 0, 0, 0};
        for (int64_t unit = 0; unit < k_units; ++unit) expand(step, unit);
        Turn before{step, 0, 1};
        bool folds = false;
        while (step.row < end_) {
            const Step next = behind(step);
            for (int64_t group = 0; group < tokens_.groups(); ++group) {
                const Turn turn{step, group, 1 - before.parity};
                const bool expands = group == 0 && next.row < end_;
                if (!folds) {
                    expands ? multiply_turn<false, true>(turn, before, next)
                            : multiply_turn<false, false>(turn, before, next);
                } else {
                    expands ? multiply_turn<true, true>(turn, before, next)
                            : multiply_turn<true, false>(turn, before, next);
                }
                before = turn;
                folds = true;
            }
            step = next;
        }
        store_last_sums(memory_.sums[before.parity][k_count - 1][0]);
        for (int64_t unit = 0; unit < k_units; ++unit) fold(before, unit);
        put_all(before);
        return true;
    }

  private:
    using Blocks = CodedBlocks<type>;
    static constexpr bool k_is_super = requires { Super<type>::k_shared; };
    static constexpr bool k_has_minimum = Coded<type>::k_last > 0;
    static constexpr int64_t k_rows = 2 * k_tile;                    // of a step
    static constexpr int64_t k_count = k_is_super ? k_super_blocks : 2;  // blocks of a step
    static constexpr int64_t k_four = 4;                             // blocks of a unit
    static constexpr int64_t k_across = k_count / Blocks::k_blocks;  // units beside each other
    static constexpr int64_t k_units = k_rows * k_count / k_four;    // as many as slots

    struct Expanded {
        uint16_t codes[k_count][k_rows][k_block];
        float a[k_units][k_four], b[k_units][k_four];
    };
    struct alignas(64) Memory {
        Expanded expanded[2];
        float sums[2][k_count][k_rows][k_tile];  // of a turn and of the one before
        float totals[k_most_groups][k_rows][k_tile];
    };
    // Blocks block .. block + k_count - 1 of rows row .. row + k_rows - 1. The last step of a row
    // begins k_count blocks before its end: `seen` of them have been in the step before.
    struct Step {
        int64_t row, block, seen;
        int64_t parity;  // where it is expanded
    };
    struct Turn {  // a step with a group of tokens
        Step step;
        int64_t group, parity;  // where its sums are
    };

    static Memory& own_memory() {
        thread_local Workspace space;
        return *reinterpret_cast<Memory*>(space.reserve(sizeof(Memory) / sizeof(float)));
    }
    Step behind(const Step& step) const {
        const int64_t parity = 1 - step.parity, block = step.block + k_count;
        if (block >= blocks_) return {step.row + k_rows, 0, 0, parity};
        const int64_t seen = std::max<int64_t>(0, block + k_count - blocks_);
        return {step.row, block - seen, seen, parity};
    }
    const uint16_t* x_of(const Turn& turn) const {
        return tokens_.x + turn.group * tokens_.of_group + turn.step.block * k_x_block;
    }

    template <bool folds, bool expands>
    [[gnu::noinline]] void multiply_turn(const Turn& turn, const Turn& before, const Step& next) {
        const auto unit = [&](int64_t n) __attribute__((always_inline)) {
            if (folds) fold(before, n);
            if (expands) expand(next, n);
        };
        const uint16_t* const x = x_of(turn);
        const uint16_t* const w = memory_.expanded[turn.step.parity].codes[0][0];
        float* const to = memory_.sums[turn.parity][0][0];
        float* const last = memory_.sums[1 - turn.parity][k_count - 1][0];
        for (int64_t i = 0; i < k_count; i += 2) {
            const int64_t late = i * k_slots - 1;  // sums of the last block come with the first
            multiply_codes<0>(i == 0 ? last : to + (i - 1) * k_rows * k_tile,
                              w + i * k_rows * k_block, x + i * k_x_block,
                              [&](int64_t slot) __attribute__((always_inline)) {
                                  if (late + slot >= 0) unit(late + slot);
                              });
            multiply_codes<1>(to + i * k_rows * k_tile, w + (i + 1) * k_rows * k_block,
                              x + (i + 1) * k_x_block,
                              [&](int64_t slot) __attribute__((always_inline)) {
                                  unit(late + k_slots + slot);
                              });
        }
        unit(k_units - 1);
        if (folds) put_all(before);
    }

    // Codes and numbers of a unit. Rows past the end are the last.
    [[gnu::always_inline]] void expand(const Step& step, int64_t unit) {
        const int64_t row = unit / k_across * Blocks::k_rows;
        const int64_t block = unit % k_across * Blocks::k_blocks;
        Expanded& to = memory_.expanded[step.parity];
        for (int64_t r = 0; r < Blocks::k_rows; ++r) {
            const int64_t of_weight = std::min(step.row + row + r, end_ - 1);
            coded_.open(r, weight_.row<const std::byte>(of_weight), step.block + block);
            coded_.prefetch_ahead(r, k_rows * weight_.stride[2]);
        }
        FourNumbers numbers = coded_.numbers();
        alignas(16) int32_t offsets[k_four] = {};
        if (k_has_minimum) numbers.b = take_centres(offsets, numbers);
        _mm_store_ps(to.a[unit], numbers.a);
        if (k_has_minimum) _mm_store_ps(to.b[unit], numbers.b);
        if (step.seen > 0) forget(to, unit, step.seen);
        uint16_t* const codes = to.codes[block][row];
#pragma GCC unroll 4
        for (int64_t i = 0; i < k_four; ++i) {
            const int64_t at = i % Blocks::k_blocks * k_rows + i / Blocks::k_blocks;
            _mm512_store_si512(codes + at * k_block, coded_.values(i, offsets[i]));
        }
    }
    // The first blocks of a row's last step count nothing.
    [[gnu::noinline]] static void forget(Expanded& of, int64_t unit, int64_t seen) {
        for (int64_t i = 0; i < k_four; ++i) {
            if (unit % k_across * Blocks::k_blocks + i % Blocks::k_blocks >= seen) continue;
            of.a[unit][i] = of.b[unit][i] = 0;
        }
    }

    // z = round(-b / a) among the codes, 0 if that is no number. Returns b + a z.
    static __m128 take_centres(int32_t* offsets, const FourNumbers& of) {
        constexpr int last = Coded<type>::k_last;
        const __m128 most = _mm_set1_ps(float(last)), zero = _mm_setzero_ps();
        const __m128 nearest = _mm_round_ps(_mm_div_ps(_mm_sub_ps(zero, of.b), of.a),
                                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m128 z = _mm_min_ps(_mm_max_ps(nearest, zero), most);
        const __m128i offset = _mm_sub_epi32(_mm_set1_epi32(last), _mm_cvtps_epi32(z));
        _mm_store_si128(reinterpret_cast<__m128i*>(offsets),
                        _mm_or_si128(offset, _mm_slli_epi32(offset, 16)));
        return _mm_fmadd_ps(of.a, z, of.b);
    }

    // A unit's sums of a turn to the group's totals.
    [[gnu::always_inline]] void fold(const Turn& turn, int64_t unit) {
        const int64_t row = unit / k_across * Blocks::k_rows;
        const int64_t block = unit % k_across * Blocks::k_blocks;
        const Expanded& of = memory_.expanded[turn.step.parity];
        const float* const sums = memory_.sums[turn.parity][block][row];
        const uint16_t* const x = x_of(turn) + block * k_x_block + k_block_terms;
        const bool first = turn.step.block + block == 0;
#pragma GCC unroll 2
        for (int64_t r = 0; r < Blocks::k_rows; ++r) {
            float* const to = memory_.totals[turn.group][row + r];
            Vec total = first ? Vec(0.0f) : load(to);
#pragma GCC unroll 4
            for (int64_t i = 0; i < Blocks::k_blocks; ++i) {
                const int64_t n = r * Blocks::k_blocks + i;
                total = fma(load(sums + (i * k_rows + r) * k_tile), Vec(of.a[unit][n]), total);
                if (k_has_minimum) {
                    const float* const of_x = reinterpret_cast<const float*>(x + i * k_x_block);
                    total = fma(load(of_x), Vec(of.b[unit][n]), total);
                }
            }
            store(to, total);
        }
    }

    // Totals of rows whose last blocks a turn has seen.
    void put_all(const Turn& turn) const {
        if (turn.step.block + k_count < blocks_) return;
        const size_t t = size_t(turn.group * k_tile);
        const auto y = tokens_.y.subspan(t, std::min(size_t(k_tile), tokens_.y.size() - t));
        const int64_t row = turn.step.row;
        for (int64_t i = 0; i < k_rows && row + i < end_; i += k_tile) {
            put(y, memory_.totals[turn.group][i], row + i, std::min(k_tile, end_ - row - i));
        }
    }

    const TensorView& weight_;
    const Tokens& tokens_;
    int64_t first_, end_;
    Memory& memory_;
    CodedBlocks<type> coded_;  // that are being expanded
    const int64_t blocks_ = weight_.n[3] / k_block;
};

}  // namespace rotkv::fast

#endif
