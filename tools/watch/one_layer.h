#pragma once
// A cache that is another one in a single layer: so the damage of one layer is measured with all
// others as they were, without a line in the model's forward pass.
// Docs: docs/13-where-the-error-comes-from.md

#include "ref/kv_cache.h"
#include "tools/watch/forwarding_backend.h"

#include <cstdint>
#include <memory>

namespace rotkv::tools {

/// Sends what goes to one layer of one cache to the same layer of another; all else goes to the
/// wrapped backend as it is. Which layer a call means follows from where its keys lie. Tokens have
/// the same cells in both caches: positions are read from the first one alone.
class OneLayerBackend : public ForwardingBackend {
  public:
    using ForwardingBackend::ForwardingBackend;

    /// From now on. Both caches must have the same extents and outlive the calls that follow.
    void replace(const KvCache& from, const KvCache& to, int64_t layer) {
        keys_ = from.k(layer).data;
        k_cache_ = to.k(layer);
        v_cache_ = to.v(layer);
        k_rotation_ = to.spec().at(layer, Side::k);
        v_rotation_ = to.spec().at(layer, Side::v);
    }

  protected:
    using ForwardingBackend::run;
    void run(const KvStoreArgs& args) override { real().kv_store(replaced(args)); }
    void run(const AttentionArgs& args) override { real().attention(replaced(args)); }

  private:
    template <class Args>
    Args replaced(Args args) const {
        if (args.k_cache.data != keys_) return args;
        args.k_cache = k_cache_;
        args.v_cache = v_cache_;
        args.k_rotation = k_rotation_;
        args.v_rotation = v_rotation_;
        return args;
    }

    const std::byte* keys_ = nullptr;  ///< of the layer that is replaced
    TensorView k_cache_, v_cache_;
    Rotation k_rotation_, v_rotation_;
};

}  // namespace rotkv::tools
