#pragma once
// A cache that is another one in a single layer: so the damage of one layer is measured with all
// others as they were, without a line in the model's forward pass.
// Docs: docs/13-where-the-error-comes-from.md

#include "ref/kv_cache.h"
#include "ref/model.h"

#include <cstdint>

namespace rotkv::tools {

/// A call as it would be for the same layer of another cache.
inline KvStoreArgs stored_in(const KvCache& cache, int64_t layer, KvStoreArgs args) {
    args.k_cache = cache.k(layer);
    args.k_rotation = cache.spec().at(layer, Side::k);
    args.k_format = cache.format_rows(layer, Side::k);
    if (args.v.empty()) return args;  // V lies in K
    args.v_cache = cache.v(layer);
    args.v_rotation = cache.spec().at(layer, Side::v);
    args.v_format = cache.format_rows(layer, Side::v);
    return args;
}

inline AttentionArgs read_from(const KvCache& cache, int64_t layer, AttentionArgs args) {
    args.k_cache = cache.k(layer);
    args.v_cache = cache.v(layer);
    args.k_rotation = cache.spec().at(layer, Side::k);
    args.v_rotation = cache.spec().at(layer, Side::v);
    return args;
}

/// Sends what goes to one layer of the model's cache to the same layer of another, also where other
/// layers read those rows; all else runs as it is. Tokens have the same cells in both caches:
/// positions are read from the first one alone.
class OneLayer {
  public:
    /// From now on; `layer` has rows of its own. `to` must have the extents of the model's cache
    /// and outlive the calls that follow.
    void replace(const KvCache& to, int64_t layer) {
        to_ = &to;
        layer_ = layer;
    }

    /// From now on every layer is the model's own.
    void restore() { layer_ = -1; }

    /// For ModelOptions; this must outlive the model.
    Observer observer() {
        return [this](int64_t layer, const Call& call, Backend& backend) {
            if (layer < 0 || layer_ < 0 || rows_of(layer) != layer_) return backend.run(call);
            if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
                backend.run(stored_in(*to_, layer_, *store));
            } else if (const auto* attention = std::get_if<AttentionArgs>(&call)) {
                backend.run(read_from(*to_, layer_, *attention));
            } else {
                backend.run(call);
            }
        };
    }

  private:
    int64_t rows_of(int64_t layer) const {
        return to_->shape().layers[std::size_t(layer)].source.value_or(layer);
    }

    const KvCache* to_ = nullptr;
    int64_t layer_ = -1;  ///< that is replaced; -1: none
};

}  // namespace rotkv::tools
