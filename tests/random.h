#pragma once
// Reproducible inputs for tests: the same numbers on every machine and library.
// Docs: docs/CONTRIBUTING.md

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace rotkv::test {

/// SplitMix64 (Steele, Lea, Flood 2014).
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t bits() {
        uint64_t z = state_ += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    /// In [0, 1), a multiple of 2^-53.
    double uniform() { return double(bits() >> 11) * 0x1p-53; }

    /// In [0, n).
    int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }

    /// Standard normal (Box and Muller 1958).
    double normal() {
        const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
        return radius * std::cos(2.0 * std::numbers::pi * uniform());
    }

  private:
    uint64_t state_;
};

inline std::vector<float> normal_vector(int64_t n, uint64_t seed, double scale = 1.0) {
    Random random(seed);
    std::vector<float> x(static_cast<size_t>(n));
    for (float& value : x) value = float(scale * random.normal());
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
