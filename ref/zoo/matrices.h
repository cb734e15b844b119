#pragma once
// Sources of rotation matrices: what stands behind the words of find_matrix_source().
// Docs: docs/23-matrix-rotations.md

#include "ref/rotation_matrix.h"

#include <memory>
#include <string>

namespace rotkv::zoo {

/// One matrix for all layers, heads and sides of a size; where parts of a row turn among
/// themselves, one for each, side by side. All in f64, rounded to f32 at the end.
///   kronecker  hadamard_matrix(D)
///   signed     H S_r ... H S_1 with H = hadamard_matrix(D), `rounds` of them; sign i of round r,
///              from 0, is rotation_sign(seed, r D + i): one round in heads of a power of two is
///              Rotation::Kind::signs with a block of D
///   dense      Haar's measure: rows of random_matrix, orthogonal
std::shared_ptr<const MatrixSource> kronecker_source(const std::string& words);
std::shared_ptr<const MatrixSource> signed_source(const std::string& words, uint64_t seed,
                                                  int64_t rounds);
std::shared_ptr<const MatrixSource> dense_source(const std::string& words, uint64_t seed);

/// An .npy file (format 1 to 3) of f32 or f64, little endian, in C order: [L][K][D][D] for each
/// layer and KV head, [L][D][D] for each layer, or [D][D] for all. Read and judged here.
/// Throws: Error(io); Error(bad_file) for what is no such file, or naming layer and head of a
///         matrix with max |M^T M - 1| above k_most_departure.
std::shared_ptr<const MatrixSource> file_source(const std::string& words, const std::string& path);

/// What rounding to f32 leaves far below.
inline constexpr double k_most_departure = 1e-5;

}  // namespace rotkv::zoo
