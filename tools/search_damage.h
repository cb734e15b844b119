#pragma once
// What a cache is expected to cost, from what its parts cost alone:
//   KLD = sum over sides and groups of layers  share(side, group) KLD(side, rotation, type)
// KLD(side, rotation, type): the whole side in this type, the other exact; measured. share: the
// group's part of the sum of its side's typical damages, measured in one type and taken for that of
// all.
// Docs: docs/26-search.md

#include "ref/measure/metrics.h"
#include "tools/compare/cache_words.h"
#include "tools/rotation_flags.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One side of a cache in all that it may be.
struct SideModel {
    /// [rotation][type][window] mean KLD of this side alone; no windows: it cannot be.
    std::vector<std::vector<std::vector<double>>> kld;
    std::vector<double> share;                ///< [group], at least 0, sum 1
    std::vector<std::vector<int64_t>> bytes;  ///< [group][type] of a token
};

struct DamageModel {
    std::vector<CacheType> types;
    std::vector<AskedRotation> rotations;
    std::vector<std::vector<int64_t>> groups;  ///< layers that have their types together
    std::vector<SideModel> sides;              ///< K and V; one where V lies in K
};

/// A cache that a model has: a rotation for each side, a type for each side and group.
struct Mix {
    std::vector<std::size_t> rotation;           ///< [side]
    std::vector<std::vector<std::size_t>> type;  ///< [side][group]

    /// Each side in one type.
    bool is_pair() const;
    bool operator==(const Mix&) const = default;
};

/// The layers with rows of their own in at most `most` groups of neighbours, as equal as they can
/// be.
std::vector<std::vector<int64_t>> layer_groups(const KvShape& shape, int64_t most);

/// Where a side's shares are measured: the type and rotation with the largest damage of all types
/// in their best rotation that is below 0.2 nats (more does not add up), or the smallest of all.
/// Throws Error(bad_file) where none is a number.
struct Probe {
    std::size_t rotation = 0, type = 0;
};
Probe probe_of(const SideModel& side);

/// A KLD that one position cannot make: the square of the mean root. Of the few positions that a
/// group of layers is run on, one that flips can have most of the mean. NaN where any is none.
/// Math:   (sum sqrt(max(KLD, 0)) / n)^2, which is the mean where all are alike, and in proportion
///         to it where the positions of two groups differ by a factor.
double typical_kld(std::span<const TokenPair> pairs);

/// The damages as parts of their sum; equal parts where there is none.
/// Throws Error(bad_file) for one that is not a number.
std::vector<double> shares_of(const std::vector<double>& damage);

int64_t bytes_of(const DamageModel& model, const Mix& mix);

/// The fewest bytes of a token that any cache takes.
int64_t fewest_bytes(const DamageModel& model);

/// The sum above with the error that the windows show: not that of the shares, nor that of adding.
Mean predicted_kld(const DamageModel& model, const Mix& mix);

/// The cache with the least predicted KLD in so many bytes; nothing where none fits.
std::optional<Mix> best_mix(const DamageModel& model, int64_t bytes);

/// So many pairs of types with the least predicted KLD, the best first; of equals the one with
/// fewer bytes.
std::vector<Mix> best_pairs(const DamageModel& model, int64_t bytes, std::size_t count);

/// The cache, and its words: "k=q5_0,v=q4_0,rot=auto,k:0-3=q8_0". A side's own word is the type
/// of most of its layers.
Variant variant_of(const DamageModel& model, const Mix& mix);

}  // namespace rotkv::tools
