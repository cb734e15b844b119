#pragma once
// Keys of one head on their way through a cache, with every stage kept: what the playground shows.
// Each stage is a function of ref/; here they are called in the cache's order, and errors measured.
// Docs: docs/34-playground.md

#include "ref/cache_type.h"
#include "ref/rope_table.h"
#include "ref/rotation.h"
#include "ref/types.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace rotkv::playground {

/// How keys are kept, and from which position on: a multiple of a format's group.
struct Cache {
    CacheType type;
    Rotation rotation{};
    int64_t d = 0;
    int64_t first_position = 0;
};

/// The rotation of K that the policy gives such heads, and why.
struct Policy {
    Rotation rotation;
    std::string reason;
};
Policy policy(const CacheType& type, int64_t d);

/// Keys as a cache keeps them. Shapes: [n][d]; bytes [n][bytes of a row].
struct StoredKeys {
    std::vector<float> rotated;    ///< R k: what is quantized
    std::vector<std::byte> bytes;  ///< what is kept of it
    std::vector<float> cells;      ///< what the bytes stand for: what attention reads
    std::vector<float> back;       ///< R^T of that: to be held beside k
};

/// Stores keys [n][d], n a multiple of the type's group.
/// Throws: Error(unsupported) for heads that the type cannot keep, Error(bad_argument) for a
/// rotation that does not fit them or a number of keys that is none.
StoredKeys store(const Cache& cache, std::span<const float> keys);

/// One block of 32 as its bytes say.
struct StoredBlock {
    float scale = 0;
    float minimum = std::numeric_limits<float>::quiet_NaN();  ///< NaN: the type has none
    std::vector<int> codes = {};                              ///< [32]
};

/// The blocks of a row; empty for types that have none, whose codes are their own business.
std::vector<StoredBlock> blocks_of(const CacheType& type, std::span<const std::byte> row);

/// |x - exact|^2 / |exact|^2 in f64: 0 for a row of zeros that is met, NaN for one that is not.
double relative_error(std::span<const float> x, std::span<const float> exact);

/// One query over all keys.
struct Attended {
    std::vector<double> score;  ///< [n] q~ . k~ / sqrt(d), in f64
    std::vector<float> weight;  ///< [n] its softmax, by ref's attention
};

/// Shapes: q [d] not rotated, cells [n][d] as StoredKeys::cells.
Attended attend(std::span<const float> q, std::span<const float> cells, const Rotation& rotation);

/// What a change of the scores does: the largest difference, and the probability that moved,
/// sum |p - p'| / 2.
struct Change {
    double largest_score, probability;
};
Change change(const Attended& from, const Attended& to);

/// The first key at one step of a shift, beside the key that was never rounded.
struct ShiftStep {
    std::string name, what;
    std::vector<float> row, exact;  ///< [d]
    double error = 0;               ///< relative_error(row, exact)
};

/// Moves stored keys by `difference` positions, as kv_shift does: back to plain channels, turned,
/// rotated, stored again. `in_rotated_space` leaves out the way back and forth: the mistake.
/// Throws: Error(unsupported) where a group of tokens would be torn.
std::vector<ShiftStep> shift(const Cache& cache, std::span<const float> keys, int32_t difference,
                             RopePairs pairs, bool in_rotated_space);

}  // namespace rotkv::playground
