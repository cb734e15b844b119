#pragma once
// Reproducible numbers: the same on every machine and with every library.
// Docs: docs/09-proof.md

#include <cstdint>

namespace rotkv {

/// Output i, from 0, of the generator SplitMix64 started at `seed`.
/// Source: Steele, Lea, Flood 2014.
inline uint64_t splitmix64(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/// Its outputs one after the other.
class Random {
  public:
    explicit Random(uint64_t seed) : seed_(seed) {}

    uint64_t bits() { return splitmix64(seed_, next_++); }

    /// In [0, 1), a multiple of 2^-53.
    double uniform() { return double(bits() >> 11) * 0x1p-53; }

    /// In [0, n).
    int64_t below(int64_t n) { return int64_t(bits() % uint64_t(n)); }

  private:
    uint64_t seed_, next_ = 0;
};

}  // namespace rotkv
