#pragma once
// Random matrices of sketches and rotations: the same from one seed wherever the standard library's
// logarithm and cosine are the same.
// Docs: docs/20-zoo.md

#include <cstdint>
#include <vector>

namespace rotkv::zoo {

enum class Sketch {
    gaussian,    ///< entries N(0, 1), independent
    orthogonal,  ///< sqrt(d) times orthonormal rows, d at a time: Haar's measure
};

/// S [m][d] f32, row-major. Remembered for each set of arguments; any thread may ask.
/// Math:   orthogonal: Gaussian rows, d at a time, made orthonormal one after the other (modified
///         Gram-Schmidt, twice, in f64), which is QR with a positive diagonal and so uniform.
/// Shapes: m and d positive; orthogonal: the last rows may be fewer than d.
const std::vector<float>& random_matrix(Sketch sketch, int64_t m, int64_t d, uint64_t seed);

/// The rows of such an orthogonal sketch with m = d, of length 1, in f64: a rotation by chance. Not
/// remembered.
std::vector<double> orthogonal_matrix(int64_t d, uint64_t seed);

/// Numbers from N(0, 1) by Box and Muller, two from each two outputs of SplitMix64.
std::vector<double> normal_numbers(int64_t count, uint64_t seed);

}  // namespace rotkv::zoo
