#pragma once
// Inputs for tests, with a true normal distribution where laws ask for one.
// Docs: docs/CONTRIBUTING.md

#include "ref/random.h"

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace rotkv::test {

using rotkv::Random;

/// Standard normal (Box and Muller 1958).
inline double normal(Random& random) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - random.uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * random.uniform());
}

inline std::vector<float> normal_vector(int64_t n, uint64_t seed, double scale = 1.0) {
    Random random(seed);
    std::vector<float> x(static_cast<size_t>(n));
    for (float& value : x) value = float(scale * normal(random));
    return x;
}

/// Normal values of which every `every`-th channel of a row of d is `loud` times larger: what keys
/// of real models look like.
inline std::vector<float> loud_channels(int64_t rows, int64_t d, uint64_t seed, int64_t every,
                                        double loud) {
    std::vector<float> x = normal_vector(rows * d, seed);
    for (size_t i = 0; i < x.size(); ++i) {
        if (int64_t(i) % d % every == every / 2) x[i] *= float(loud);
    }
    return x;
}

}  // namespace rotkv::test
