#pragma once
// The direction of a block as codes of its coordinates: what TurboQuant's formats share.
// Docs: docs/20-zoo.md

#include "ref/zoo/zoo.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::zoo {

/// sqrt(sum x^2), in f64.
double length_of(std::span<const float> x);

/// Codes of x / |x| by the Lloyd-Max codebook of a coordinate on the sphere of x's dimensions.
/// Math:   code_j = nearest level to sqrt(n) x_j / |x|. x of length 0: code 0 everywhere.
/// Shapes: x [n]; bytes [packed_bytes(n, bits)], all 0 before.
void put_direction(std::byte* bytes, std::span<const float> x, double length, int bits);

/// The levels / sqrt(n) that such codes stand for: about a unit vector, E |c|^2 = 1 - D.
std::vector<float> direction_at(const std::byte* bytes, int64_t n, int bits);

}  // namespace rotkv::zoo
