#pragma once
// Signs of a random sketch, and the vector that they stand for on the average (QJL).
// Docs: docs/20-zoo.md

#include "ref/zoo/random_matrix.h"
#include "ref/zoo/zoo.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::zoo {

/// Takes "gaussian" or "orthogonal" out of a parameter; gaussian where neither is there.
Sketch sketch_of(Parameters& words);

/// Bit i: 1 where (S x)_i < 0.
/// Shapes: x [d], S [m][d] row-major; bytes [packed_bytes(m, 1)], all 0 before.
void put_signs(std::byte* bytes, std::span<const float> x, std::span<const float> s, int64_t m);

/// sqrt(pi / 2) / m S^T signs: for Gaussian S and |x| = 1, its mean over S is x.
std::vector<float> unsketched(const std::byte* bytes, std::span<const float> s, int64_t m,
                              int64_t d);

}  // namespace rotkv::zoo
