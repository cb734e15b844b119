#pragma once
// Rows of a weight as terms of bf16 with some tokens, in tiles. Docs: docs/performance.md

#include "fast/row_blocks.h"
#include "fast/tile_tokens.h"
#include "fast/workspace.h"

#include <algorithm>
#include <bit>

#if ROTKV_AMX

namespace rotkv::fast {

constexpr int64_t k_ahead = 2048;  // bytes

// Of x and w that are not 0: a product of terms is then either a normal number or less than
// u / 8 of |w x|. Types with scales in f16 have no smaller values than 2^-24.
constexpr float k_least_x = 0x1p-60f, k_most_x = 0x1p60f, k_least_w = 0x1p-38f;
constexpr bool has_tiny_values(DType type) {
    return type == DType::f32 || type == DType::bf16 || type == DType::mxfp4;
}

// The smallest magnitude that is not 0, and the largest, by their bits.
class Magnitudes {
  public:
    void add(__m512 v) {
        const __m512i bits =
            _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF));
        least_ = _mm512_min_epu32(least_, _mm512_sub_epi32(bits, _mm512_set1_epi32(1)));
        most_ = _mm512_max_epu32(most_, bits);
    }
    bool below(float least) const {
        return _mm512_reduce_min_epu32(least_) < std::bit_cast<uint32_t>(least) - 1;
    }
    bool above(float most) const {  // NaN and infinities are above every number
        return _mm512_reduce_max_epu32(most_) > std::bit_cast<uint32_t>(most);
    }

  private:
    __m512i least_ = _mm512_set1_epi32(-1), most_ = _mm512_setzero_si512();
};

inline uint16_t* reserve_terms(Workspace& space, int64_t count) {
    return reinterpret_cast<uint16_t*>(space.reserve((count + 1) / 2));
}

// Rows first .. end - 1 of the weight with some tokens. Terms of the next blocks are made while
// tiles of those before are multiplied: two units of the processor, which take turns in the program
// so that it sees work for both. A step is k_count blocks of `height` tiles of rows.
template <DType type, int64_t height>
class TermStrip {
  public:
    TermStrip(const TensorView& weight, const Tokens& tokens, int64_t first, int64_t end)
        : weight_(weight), tokens_(tokens), first_(first), end_(end) {
        thread_local Workspace space;
        terms_ = reserve_terms(space, 2 * k_count * k_of_block);
    }

    // Not right, perhaps: some weight is too small for terms, or there is none.
    Results multiply() {
        if (blocks_ == 0) return {false, true};
        const MultiplyBlock multiply_block = k_multiply[tokens_.groups() - 1];
        const int64_t all = (end_ - first_ + k_rows - 1) / k_rows * steps_;
        for (int64_t step = 0; step <= all; ++step) {
            const int64_t before = step - 1, block = before % steps_ * k_count;
            for (int64_t i = 0; i < k_count; ++i) {
                if (step < all) expand(step, i);
                if (step == 0 || block + i >= blocks_) continue;
                multiply_block(terms_of(before) + i * k_of_block,
                               tokens_.x + (block + i) * k_x_block, tokens_.of_group);
            }
            if (step > 0 && step % steps_ == 0) put_all(row_of(before));
        }
        return {!seen_.below(k_least_w), finite_};
    }

  private:
    static constexpr bool k_is_super = requires { Super<type>::k_shared; };
    static constexpr int64_t k_count = k_is_super ? k_super_blocks : 4 / height;
    static constexpr int64_t k_rows = height * k_tile, k_of_block = height * k_block_terms;

    int64_t row_of(int64_t step) const { return first_ + step / steps_ * k_rows; }
    uint16_t* terms_of(int64_t step) const { return terms_ + step % 2 * k_count * k_of_block; }

    // One of k_count parts of a step's rows, to [blocks][terms][k_rows][k_block].
    void expand(int64_t step, int64_t part) {
        constexpr int64_t of_part = k_rows / k_count;
        const int64_t block = step % steps_ * k_count;
        const int64_t first = row_of(step) + part * of_part, end = std::min(first + of_part, end_);
        uint16_t* to = terms_of(step) + part * of_part * k_block - block * k_of_block;
        for (int64_t row = first; row < end; ++row, to += k_block) {
            const auto take = [&](int64_t b, const Vec* v) {
                if constexpr (has_tiny_values(type)) seen_.add(v[0]), seen_.add(v[1]);
                const Terms terms = split_terms(v[0], v[1]);
                uint16_t* const at = to + b * k_of_block;
                for (int64_t t = 0; t < k_terms; ++t) {
                    _mm512_store_si512(at + t * k_rows * k_block, terms.of[t]);
                }
            };
            for_each_block<type>(weight_.row<const std::byte>(row), weight_.n[3], block,
                                 std::min(block + k_count, blocks_), k_ahead, take);
        }
    }

    // The sums of rows `row` .. row + k_rows - 1.
    void put_all(int64_t row) {
        alignas(64) float sums[4 * k_tile_sums];
        take_sums(sums, tokens_.groups());
        for (int64_t g = 0; g < tokens_.groups(); ++g) {
            const auto y = tokens_.y_of(g);
            for (int64_t i = 0; i < height && row + i * k_tile < end_; ++i) {
                const int64_t at = row + i * k_tile;
                const int64_t rows = std::min(k_tile, end_ - at);
                finite_ &= put(y, sums + (g * height + i) * k_tile_sums, at, rows);
            }
        }
    }

    const TensorView& weight_;
    const Tokens& tokens_;
    int64_t first_, end_;
    const int64_t blocks_ = (weight_.n[3] + k_block - 1) / k_block;
    const int64_t steps_ = (blocks_ + k_count - 1) / k_count;  // of a tile of rows
    uint16_t* terms_;
    bool finite_ = true;  // are all results so far?
    Magnitudes seen_;     // of types that have tiny values
};

}  // namespace rotkv::fast

#endif
