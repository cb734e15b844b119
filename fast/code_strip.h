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
//
// What that is off by, in u = 2^-24 of sum |w x|. A code times a term is exact, 8 bits by 8, and x
// is the sum of its terms. A tile adds 32 products of the high term in two chains of 16 and a sum,
// 17 roundings; the other terms' are 2^-8 of that. Then two sums of tiles, scaled: below 20 times
// sum a |c - z| |x|, which is at most 2.01 sum |w x|. Sums of x have 6 roundings, times |b| <= 1.01
// |w|. Each block adds one rounding for a and one for b. At worst, all of them one way, that is 47
// + in / 16; they are not, and most sums of whole numbers times eight bits do not round at all: on
// ordinary rows one or two are seen. Nothing grows where a loud x meets a w that is 0.

#include "fast/code_tiles.h"
#include "fast/tile_tokens.h"
#include "fast/workspace.h"

#include <algorithm>
#include <limits>

#if ROTKV_AMX

namespace rotkv::fast {

/// Rows first .. end - 1 of the weight with up to k_most_groups groups of tokens.
template <DType type>
class CodeStrip {
  public:
    CodeStrip(const TensorView& weight, const Tokens& tokens, int64_t first, int64_t end)
        : weight_(weight), tokens_(tokens), first_(first), end_(end), memory_(own_memory()) {}

    /// Not right: rows are too short, or too far apart.
    Results multiply() {
        constexpr int64_t most = std::numeric_limits<int32_t>::max();
        if (blocks_ < k_count || weight_.stride[2] > most / k_rows - int64_t(sizeof(Block))) {
            return {false, true};
        }
        Step steps[3] = {{first_, 0, false, 0, 0}, {}, {}};
        open_rows(first_);
        for (int64_t unit = 0; unit < k_slots * k_count; ++unit) expand(expansion(steps[0]), unit);
        for (int64_t group = 0; group < tokens_.groups(); ++group) clear_totals(group);
        Turn turns[2] = {{nullptr, 0, 0}, {nullptr, 0, 1}};
        int64_t now = 0;  // of turns
        for (int64_t at = 0; steps[at].row < end_; at = (at + 1) % 3) {
            Step& next = steps[(at + 1) % 3];
            go_behind(steps[at], next);
            if (next.row > steps[at].row) open_rows(next.row);
            for (int64_t group = 0; group < tokens_.groups(); ++group, now = 1 - now) {
                turns[now].step = &steps[at];
                turns[now].group = group;
                take_turn(turns[now], turns[1 - now], next);
            }
        }
        const Turn& last = turns[1 - now];
        store_last_sums(memory_.sums[last.parity][k_count - 1][0]);
        for (int64_t unit = 0; unit < k_slots * k_count; ++unit) fold(folding(last), unit);
        put_all(last);
        return {true, finite_};
    }

  private:
    using Block = typename Coded<type>::Block;
    static constexpr bool k_has_minimum = Coded<type>::k_last > 0;
    static constexpr int64_t k_rows = 2 * k_tile, k_count = 2;  // rows and blocks of a step
    static constexpr int64_t k_unit_rows = 2;                   // and both blocks
    static_assert(k_slots * k_count * k_unit_rows == k_rows);

    using Codes = uint16_t[k_count][k_rows][k_block];
    struct Numbers {
        float a[k_rows][k_count], b[k_rows][k_count];
        int32_t offsets[k_rows][k_count];
    };
    struct alignas(64) Memory {
        Codes codes[2];      // of a step and of the next
        Numbers numbers[3];  // and of the one before, whose sums are not yet scaled
        float sums[2][k_count][k_rows][k_tile];  // of a turn and of the one before
        float totals[k_most_groups][k_rows][k_tile];
        int32_t places[k_rows][k_count];  // bytes behind the first row's first block of a step
    };
    // Blocks block and block + 1 of rows row .. row + k_rows - 1. The last step of a row begins two
    // blocks before its end: has the first been in the step before?
    //
    // Steps and turns stay where they are and change field by field. A copy would be read in larger
    // pieces than it has just been written in; such a read waits until everything written before
    // has left the processor, sums of tiles too, so that nothing of two turns would overlap.
    struct Step {
        int64_t row, block;
        bool seen;
        int64_t codes, numbers;  // where they are
    };
    struct Turn {  // a step with a group of tokens
        const Step* step;
        int64_t group, parity;  // where its sums are
    };

    static Memory& own_memory() {
        thread_local Workspace space;
        return *reinterpret_cast<Memory*>(space.reserve(sizeof(Memory) / sizeof(float)));
    }
    // Where blocks of a step's rows lie. Rows past the end are the last.
    void open_rows(int64_t row) {
        for (int64_t r = 0; r < k_rows && row < end_; ++r) {
            const int64_t place = std::min(r, end_ - 1 - row) * weight_.stride[2];
            memory_.places[r][0] = int32_t(place);
            memory_.places[r][1] = int32_t(place + int64_t(sizeof(Block)));
        }
    }
    void go_behind(const Step& step, Step& next) const {
        next.codes = 1 - step.codes;
        next.numbers = (step.numbers + 1) % 3;
        const int64_t block = step.block + k_count;
        const bool is_row = block < blocks_;
        next.row = is_row ? step.row : step.row + k_rows;
        next.seen = is_row && block + 1 == blocks_;
        next.block = is_row ? block - next.seen : 0;
    }
    const uint16_t* x_of(const Turn& turn) const {
        return tokens_.x + turn.group * tokens_.of_group + turn.step->block * k_x_block;
    }

    void take_turn(const Turn& turn, const Turn& before, const Step& next) {
        const bool folds = before.step != nullptr, expands = turn.group == 0 && next.row < end_;
        if (folds) {
            expands ? multiply_turn<true, true>(turn, before, next)
                    : multiply_turn<true, false>(turn, before, next);
        } else {
            expands ? multiply_turn<false, true>(turn, before, next)
                    : multiply_turn<false, false>(turn, before, next);
        }
    }

    template <bool folds, bool expands>
    [[gnu::noinline]] void multiply_turn(const Turn& turn, const Turn& before, const Step& next) {
        const Folding of_before = folds ? folding(before) : Folding();
        const Expansion of_next = expansion(next);
        const auto unit = [&](int64_t n) __attribute__((always_inline)) {
            if (folds) fold(of_before, n);
            if (expands) expand(of_next, n);
        };
        const uint16_t* const x = x_of(turn);
        const Codes& codes = memory_.codes[turn.step->codes];
        float* const to = memory_.sums[turn.parity][0][0];
        // The first block brings the last sums of the turn before, too late for its slot 0.
        multiply_codes<0>(
            memory_.sums[1 - turn.parity][1][0], codes[0][0],
            x, [&](int64_t slot) __attribute__((always_inline)) {
                if (slot > 0) unit(slot - 1);
            });
        multiply_codes<1>(
            to, codes[1][0], x + k_x_block, [&](int64_t slot) __attribute__((always_inline)) {
                unit(k_slots - 1 + slot);
            });
        unit(2 * k_slots - 1);
        if (folds) put_all(before);
    }

    // Where a step's codes come from, and where they go.
    struct Expansion {
        const std::byte* base;
        uintptr_t ahead;  // as many bytes of the next rows, in their order: an address, which may
                          // lie far past the weight's end and is only called for
        const int32_t* places;
        Codes* codes;
        Numbers* numbers;
        bool seen;
    };
    Expansion expansion(const Step& step) {
        const std::byte* const row = weight_.row<const std::byte>(std::min(step.row, end_ - 1));
        const int64_t bytes = step.block * int64_t(sizeof(Block));
        return {row + bytes,
                reinterpret_cast<uintptr_t>(row) + uintptr_t(k_rows * (weight_.stride[2] + bytes)),
                &memory_.places[0][0],
                &memory_.codes[step.codes],
                &memory_.numbers[step.numbers],
                step.seen};
    }
    [[gnu::always_inline]] static void expand(const Expansion& of, int64_t unit) {
        const int64_t row = unit * k_unit_rows;
        if (row % 8 == 0) take_numbers(of, row);
        const uintptr_t ahead = of.ahead + uintptr_t(2 * row) * sizeof(Block);
        prefetch(reinterpret_cast<const std::byte*>(ahead));
        prefetch(reinterpret_cast<const std::byte*>(ahead + 2 * sizeof(Block)));
#pragma GCC unroll 4
        for (int64_t i = 0; i < k_unit_rows * k_count; ++i) {
            const int64_t r = row + i / 2;
            const std::byte* const place = of.base + of.places[2 * r + i % 2];
            const __m512i values = CodedBlocks<type>::values(place, &of.numbers->offsets[r][i % 2]);
            _mm512_store_si512((*of.codes)[i % 2][r], values);
        }
    }
    // a and b of both blocks of eight rows. Where b is a minimum z = round(-b / a) among the codes,
    // 0 if that is no whole number of 32 bits, and b + a z takes its place. What has been seen
    // counts 0.
    [[gnu::always_inline]] static void take_numbers(const Expansion& of, int64_t row) {
        __m512 a, b;
        CodedBlocks<type>::numbers(a, b, of.base, _mm512_loadu_si512(of.places + 2 * row));
        if constexpr (k_has_minimum) {
            constexpr int last = Coded<type>::k_last;
            const __m512 nearest =
                _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), b), _mm512_rcp14_ps(a));
            const __m512i code = _mm512_min_epi32(
                _mm512_max_epi32(_mm512_cvtps_epi32(nearest), _mm512_setzero_si512()),
                _mm512_set1_epi32(last));
            const __m512 z = _mm512_cvtepi32_ps(code);
            const __m512i offset = _mm512_sub_epi32(_mm512_set1_epi32(last), code);
            _mm512_storeu_si512(&of.numbers->offsets[row][0],
                                _mm512_or_si512(offset, _mm512_slli_epi32(offset, 16)));
            b = _mm512_fmadd_ps(a, z, b);
        }
        const __mmask16 counts = of.seen ? 0xAAAA : 0xFFFF;
        _mm512_storeu_ps(&of.numbers->a[row][0], _mm512_maskz_mov_ps(counts, a));
        if (k_has_minimum) _mm512_storeu_ps(&of.numbers->b[row][0], _mm512_maskz_mov_ps(counts, b));
    }

    // What becomes of a turn's sums.
    struct Folding {
        const float* sums;  // [blocks][rows][tokens]
        const Numbers* of;
        Vec x0, x1;     // sums of the tokens' blocks
        float* totals;  // [rows][tokens]
    };
    Folding folding(const Turn& turn) {
        const uint16_t* const x = x_of(turn) + k_block_terms;
        return {memory_.sums[turn.parity][0][0], &memory_.numbers[turn.step->numbers],
                load(reinterpret_cast<const float*>(x)),
                load(reinterpret_cast<const float*>(x + k_x_block)), memory_.totals[turn.group][0]};
    }
    [[gnu::always_inline]] static void fold(const Folding& from, int64_t unit) {
#pragma GCC unroll 2
        for (int64_t r = unit * k_unit_rows; r < (unit + 1) * k_unit_rows; ++r) {
            const float *const a = from.of->a[r], *const b = from.of->b[r];
            const float* const sums = from.sums + r * k_tile;
            float* const to = from.totals + r * k_tile;
            Vec total = load(to);
            total = fma(load(sums), Vec(a[0]), total);
            total = fma(load(sums + k_rows * k_tile), Vec(a[1]), total);
            if (k_has_minimum) {
                total = fma(from.x0, Vec(b[0]), total);
                total = fma(from.x1, Vec(b[1]), total);
            }
            store(to, total);
        }
    }

    // Totals of rows whose last blocks a turn has seen; they are 0 again.
    void put_all(const Turn& turn) {
        if (turn.step->block + k_count < blocks_) return;
        const auto y = tokens_.y_of(turn.group);
        const int64_t row = turn.step->row;
        for (int64_t i = 0; i < k_rows && row + i < end_; i += k_tile) {
            const int64_t rows = std::min(k_tile, end_ - row - i);
            finite_ &= put(y, memory_.totals[turn.group][i], row + i, rows);
        }
        clear_totals(turn.group);
    }

    void clear_totals(int64_t group) const {
        std::fill_n(memory_.totals[group][0], k_rows * k_tile, 0.0f);
    }

    const TensorView& weight_;
    const Tokens& tokens_;
    int64_t first_, end_;
    Memory& memory_;
    bool finite_ = true;  // are all results so far?
    const int64_t blocks_ = weight_.n[3] / k_block;
};

}  // namespace rotkv::fast

#endif
