#pragma once
// Hadamard matrices of sizes that are no powers of two.
// Docs: docs/23-matrix-rotations.md

#include <cstdint>
#include <vector>

namespace rotkv::zoo {

/// Is there one of size n here: 2^k, 12 2^k or 20 2^k?
bool has_hadamard_matrix(int64_t n);

/// H [n][n] with entries +-1 / sqrt(n), row-major.
/// Math:   H_n = H_m (x) H_2^k, m = 1, 12 or 20, (A (x) B)_(i r + a, j r + b) = A_ij B_ab, r = 2^k;
///         H_2 = (1 1; 1 -1). For a prime q = 3 mod 4, m = q + 1: H_m = 1 + (0 e^T; -e Q), e all
///         ones, Q_ij = chi(i - j), chi(x) = 1 where x is a square mod q, -1 where it is none, and
///         chi(0) = 0. The second matrix is minus its transpose, and its square is -q.
/// Source: Sylvester 1867; Paley 1933.
/// Needs:  has_hadamard_matrix(n).
std::vector<double> hadamard_matrix(int64_t n);

}  // namespace rotkv::zoo
