#pragma once
// The Hadamard transform: its definition, and the butterflies that compute it.
// Docs: docs/02-hadamard.md

#include "ref/rotation.h"

#include <cstdint>
#include <vector>

namespace rotkv::ref {

/// The definition, in f64: what the butterflies must mean.
/// Math:   y_i = sum_j H_ij x_j,  H_ij = (-1)^popcount(i & j) / sqrt(n)
/// Shapes: x, result [n]; n a power of two.
/// Cost:   n^2 additions.
/// Source: Sylvester 1867.
std::vector<double> hadamard_dense(const std::vector<double>& x);

/// One block by butterflies: multiplied by `scale` first, then half-widths 1, 2, 4, ...
/// Shapes: x, y [n] f32, n a power of two; y may be x.
/// Cost:   n log2(n) additions.
/// Exact:  this order, each operation rounded on its own, is the result of every backend.
void hadamard_block(float* y, const float* x, int64_t n, float scale);

/// One head row: forward y = H S x, or with `inverse` back y = S H x, block by block.
/// Shapes: x, y [d] f32, d a multiple of the rotation's block; y may be x. Kind none copies.
void hadamard_row(float* y, const float* x, int64_t d, const Rotation& rotation, bool inverse);

}  // namespace rotkv::ref
