#pragma once
// The list of all formats, and what most of them are made of: rows cut into blocks, codes of a few
// bits, words of parameters.
// Docs: docs/20-zoo.md

#include "ref/format.h"

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv::zoo {

/// What every file ref/zoo/format_NAME.cpp defines as format_NAME(), one after the other. CMake
/// writes this function.
std::vector<FormatFamily> families_of_files();

/// A format whose rows are blocks that do not know of each other.
class BlockFormat : public Format {
  public:
    std::string refusal(int64_t d) const override;
    int64_t row_bytes(int64_t d) const override;
    void encode(std::span<std::byte> codes, std::span<const float> row,
                const RowContext& context) const override;
    void decode(std::span<float> row, std::span<const std::byte> codes,
                const RowContext& context) const override;

  protected:
    /// Blocks of `block` values; 0: a block is the head.
    BlockFormat(const std::string& name, int64_t block) : Format(name), block_(block) {}

    /// Bytes of a block of n values.
    virtual int64_t block_bytes(int64_t n) const = 0;

    /// Shapes: x, y [n] f32; bytes [block_bytes(n)], all 0 before encode_block.
    virtual void encode_block(std::byte* bytes, std::span<const float> x,
                              const RowContext& context) const = 0;
    virtual void decode_block(std::span<float> y, const std::byte* bytes,
                              const RowContext& context) const = 0;

  private:
    int64_t block_of(int64_t d) const { return block_ == 0 ? d : block_; }
    int64_t block_;
};

/// Bytes that n codes of so many bits fill, none of them shared with anything else.
constexpr int64_t packed_bytes(int64_t n, int64_t bits) { return (n * bits + 7) / 8; }

/// Code i of a packed list: bits i * bits .. of the bytes, the lowest first. put_code() fills a
/// field that was all 0.
void put_code(std::byte* bytes, int64_t i, int bits, uint32_t code);
uint32_t code_at(const std::byte* bytes, int64_t i, int bits);

/// Numbers that lie among the bytes, without any alignment.
template <class Number>
void put_number(std::byte* bytes, Number number) {
    std::memcpy(bytes, &number, sizeof number);
}
template <class Number>
Number number_at(const std::byte* bytes) {
    Number number;
    std::memcpy(&number, bytes, sizeof number);
    return number;
}

bool all_finite(std::span<const float> x);
void fill_with_nan(std::span<float> y);

/// sum_i a_i b_i, in f64.
double dot(std::span<const float> a, std::span<const float> b);

/// What stands between the dashes of a parameter, "128-lsq": numbers and words in any order.
class Parameters {
  public:
    explicit Parameters(const std::string& text);

    /// Takes the first whole number from `least` to `most` that is left; `otherwise` if none is.
    int64_t number(int64_t least, int64_t most, int64_t otherwise);

    /// Takes one of the words; the index of the first that is there, `otherwise` if none is.
    std::size_t word(const std::vector<std::string>& words, std::size_t otherwise);

    /// All that was written has been taken.
    bool empty() const { return left_.empty(); }

  private:
    std::vector<std::string> left_;
};

}  // namespace rotkv::zoo
