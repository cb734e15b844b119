#pragma once
// Rotations by a matrix: any orthogonal M, one for each KV head, where kernels know Hadamard
// matrices alone.   forward y = M x,  back x = M^T y
// The operation `turn` applies it before kv_store, to queries, and backwards behind attention; the
// kernels' own rotation is off then. Where matrices come from is the zoo's: ref/zoo/.
// Docs: docs/23-matrix-rotations.md

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace rotkv {

/// The matrices of one side of one layer.
class RotationMatrix {
  public:
    /// values [heads][d][d], rows of M one after the other; heads = 1: one for all KV heads.
    /// `words`: what was asked for, for people.
    RotationMatrix(std::string words, int64_t heads, int64_t d, std::vector<float> values);

    const std::string& words() const { return words_; }
    int64_t heads() const { return heads_; }
    int64_t d() const { return d_; }
    std::span<const float> values() const { return values_; }

    /// Of extents and values, not of words: what a saved cache is compared by.
    uint64_t hash() const { return hash_; }

    /// max |M^T M - 1| of one head, in f64.
    double departure(int64_t head) const;

    /// Does no channel first .. first + count meet one of the others?
    bool splits_at(int64_t first, int64_t count) const;

    /// What turns these channels alone. Precondition: splits_at(first, count).
    RotationMatrix part(int64_t first, int64_t count) const;

  private:
    float at(int64_t head, int64_t i, int64_t j) const {
        return values_[size_t((head * d_ + i) * d_ + j)];
    }

    std::string words_;
    int64_t heads_, d_;
    std::vector<float> values_;
    uint64_t hash_;
};

/// Null: none.
using MatrixPointer = std::shared_ptr<const RotationMatrix>;

/// By what they are, not where they lie.
bool same_matrix(const MatrixPointer& a, const MatrixPointer& b);

/// What a matrix is wanted for.
struct MatrixPlace {
    int64_t layer = 0, layers = 1;
    int64_t kv_heads = 1;
    std::vector<int64_t> parts{};  ///< channels that turn among themselves: {D}, or of a latent row
                                   ///< {latent, behind it}

    int64_t d() const;
};

/// What hands out matrices: a construction, or a file.
class MatrixSource {
  public:
    virtual ~MatrixSource() = default;

    /// As it was asked for: "dense:7".
    const std::string& words() const { return words_; }

    /// Throws: Error(usage) that says why there is none for that place.
    virtual MatrixPointer at(const MatrixPlace& place) const = 0;

  protected:
    explicit MatrixSource(std::string words) : words_(std::move(words)) {}

  private:
    std::string words_;
};

/// What find_matrix_source() reads, in words.
inline constexpr const char* k_matrix_choices =
    "kronecker, signed:SEED, signed:SEED:ROUNDS, dense:SEED or file:PATH.npy";

/// The source that a word names; null where it names none. A file is read here, and judged.
/// Throws: Error(usage) for such a word that goes wrong behind its ':'; Error(io), Error(bad_file)
///         that names path, layer and head for a file without orthogonal matrices.
std::shared_ptr<const MatrixSource> find_matrix_source(const std::string& text);

}  // namespace rotkv
