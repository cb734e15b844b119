#pragma once
// A cache that is another one in a single layer: so the damage of one layer is measured with all
// others as they were, without a line in the model's forward pass.
// Docs: docs/13-where-the-error-comes-from.md

#include "ref/kv_cache.h"
#include "ref/model.h"

#include <cstdint>

namespace rotkv::tools {

/// Sends what goes to one layer of the model's cache to the same layer of another; all else runs as
/// it is. Tokens have the same cells in both caches: positions are read from the first one alone.
class OneLayer {
  public:
    /// From now on. `to` must have the extents of the model's cache and outlive the calls that
    /// follow.
    void replace(const KvCache& to, int64_t layer) {
        to_ = &to;
        layer_ = layer;
    }

    /// From now on every layer is the model's own.
    void restore() { layer_ = -1; }

    /// For ModelOptions; this must outlive the model.
    Observer observer() {
        return [this](int64_t layer, const Call& call, Backend& backend) {
            if (layer != layer_) return backend.run(call);
            if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
                backend.run(replaced(*store));
            } else if (const auto* attention = std::get_if<AttentionArgs>(&call)) {
                backend.run(replaced(*attention));
            } else {
                backend.run(call);
            }
        };
    }

  private:
    template <class Args>
    Args replaced(Args args) const {
        args.k_cache = to_->k(layer_);
        args.v_cache = to_->v(layer_);
        args.k_rotation = to_->spec().at(layer_, Side::k);
        args.v_rotation = to_->spec().at(layer_, Side::v);
        return args;
    }

    const KvCache* to_ = nullptr;
    int64_t layer_ = -1;  ///< that is replaced; -1: none
};

}  // namespace rotkv::tools
