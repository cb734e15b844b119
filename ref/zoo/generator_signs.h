#pragma once
// Signs that forks draw from generators of their own: the same numbers, from the same rules.
// Docs: docs/20-zoo.md

#include <cstdint>
#include <vector>

namespace rotkv::zoo {

/// What numpy.random.default_rng(seed).choice([-1, 1], count) gives, behind `skipped` signs that
/// were drawn before.
/// Math:   PCG64: state 128 bits, LCG, output XSL-RR 128/64, each in two halves, the low one first;
///         a sign is the highest bit of a half, 1 for +1. Seeded by SeedSequence(seed).
/// Source: O'Neill 2014 (PCG), O'Neill 2015 (seed_seq), as numpy describes them.
std::vector<float> numpy_signs(uint32_t seed, int64_t skipped, int64_t count);

/// The lowest bits of xoshiro256**, 1 for +1, its state four outputs of SplitMix64 from `seed`.
/// Source: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (2018).
std::vector<float> xoshiro_signs(uint64_t seed, int64_t count);

/// -1 where bit 31 of i 0x9E3779B9 mod 2^32 is set, 2^32 divided by the golden ratio.
std::vector<float> golden_signs(int64_t count);

}  // namespace rotkv::zoo
