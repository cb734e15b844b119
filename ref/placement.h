#pragma once
// Precision by place: which tokens have rows in f16 beside those of the cache's type, and which
// layers have another type.
// Docs: docs/20-zoo.md

#include "ref/cache_type.h"
#include "ref/rotation.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace rotkv {

struct KvShape;

/// Tokens whose rows attention reads in f16, not turned, where a layer's type is of few bits.
struct F16Tokens {
    int64_t first = 0;   ///< at positions below this one
    int64_t recent = 0;  ///< so many up to a query, its own token among them

    bool any() const { return first > 0 || recent > 0; }
    bool operator==(const F16Tokens&) const = default;
};

/// One side of one layer in a type of its own; both sides where V lies in K.
struct LayerType {
    Side side = Side::k;
    int64_t layer = 0;
    CacheType type = DType::f32;

    bool operator==(const LayerType&) const = default;
};

struct Placement {
    F16Tokens tokens{};
    int64_t end_layers = 0;           ///< so many at either end of those with rows of their own
    std::optional<CacheType> ends{};  ///< what these keep K and V in
    std::vector<LayerType> layers{};  ///< these win over `ends`

    bool any() const { return tokens.any() || end_layers > 0 || !layers.empty(); }

    /// The shape with these tokens and layers. Throws Error(usage) where the two ends would meet,
    /// and for a layer that is not there or keeps no rows of its own.
    KvShape in(KvShape shape) const;
};

}  // namespace rotkv
