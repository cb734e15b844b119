#pragma once
// Codebooks with the least mean square error for a density (Lloyd 1957, Max 1960), solved when they
// are first asked for: no table is written down anywhere.
// Docs: docs/20-zoo.md

#include <cstdint>
#include <functional>
#include <vector>

namespace rotkv::zoo {

/// Levels, rising, and the borders half-way between neighbours.
struct Codebook {
    std::vector<double> levels;   ///< [K]
    std::vector<double> borders;  ///< [K - 1]
    double distortion = 0;        ///< E (x - level of x)^2

    /// The nearest level's index; of a value on a border the lower one's.
    uint32_t code(double x) const;
};

/// The codebook of `levels` levels for a density on [from, to], which need not be normalized.
/// Math:   Lloyd's iteration, borders half-way between levels and levels the means of their cells,
///         until no level moves by more than 1e-12 of the range. For log-concave densities, as all
///         here are, there is one fixed point, and it is the optimum.
/// Errors: cells are integrated by Gauss-Legendre on pieces no wider than `smooth`, the scale on
///         which the density changes: about 1e-12 of the range.
Codebook solve_codebook(const std::function<double(double)>& density, double from, double to,
                        double smooth, int64_t levels);

/// For one coordinate of a uniformly random unit vector of n dimensions, times sqrt(n).
/// Math:   density of t / sqrt(n): (1 - t^2 / n)^((n - 3) / 2), n >= 3.
/// Source: the marginal of the sphere; TurboQuant (arXiv 2504.19874) quantizes it.
/// Cost:   solved once for each n and number of levels, then remembered; any thread may ask.
const Codebook& sphere_codebook(int64_t n, int64_t levels);

/// For the same coordinate, what a program has that stops after so many steps of Lloyd's iteration
/// from the normal distribution's quantiles at (i + 1 / 2) / levels.
const Codebook& stopped_codebook(int64_t n, int64_t levels, int64_t steps);

/// For the standard normal distribution.
const Codebook& normal_codebook(int64_t levels);

/// For the angle of (a, b) with a, b independent lengths of Gaussian vectors of k dimensions.
/// Math:   density sin(2 x)^(k - 1) on [0, pi / 2].
/// Source: PolarQuant (arXiv 2502.02617), its recursive levels.
const Codebook& angle_codebook(int64_t k, int64_t levels);

}  // namespace rotkv::zoo
