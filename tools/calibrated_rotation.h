#pragma once
// Rotations made from what a text has shown, and how far a cache type is off under any.
// Docs: docs/23-matrix-rotations.md

#include "ref/cache_type.h"
#include "ref/rotation_matrix.h"
#include "tools/calibration.h"

#include <cstdint>
#include <vector>

namespace rotkv::tools {

enum class CalibratedKind {
    pca,    ///< y = U^T x
    oscar,  ///< y = P^T H U^T x
};

/// The matrices [L][K][D][D] of one side; the identity in layers without rows of their own.
/// Math:   U: eigenvectors, one a column, by falling eigenvalue, the largest number of each
///         positive; pca: of the sums of a k k^T and a v v^T, oscar: of q q^T for K, of a v v^T for
///         V (SeenHead). H: Sylvester's Hadamard matrix, or one of `kronecker`; P: (x P)_j =
///         x_rev(j), rev the reversal of the bits of a power of two, or within each such part.
/// Source: OSCAR, arXiv 2605.17757: R = U H P for rows x R.
/// Throws: Error(unsupported) for oscar and heads that `kronecker` does not know.
std::vector<float> calibrated_matrices(const Calibration& seen, Side side, CalibratedKind kind,
                                       int64_t layers);

/// How far keys or values of one head are off in a type, as attention feels it.
/// Math:   y = decode(encode(M x)), e = M^T y - x; K: sum e^T Q e / sum x^T Q x, Q the sum of
///         q q^T: the mean square of q.e over that of q.k; V: sum |e|^2 / sum |x|^2.
/// Shapes: matrix [D][D], or empty: the identity.
double type_error(const CacheType& type, const SeenHead& seen, Side side,
                  std::span<const float> matrix);

}  // namespace rotkv::tools
