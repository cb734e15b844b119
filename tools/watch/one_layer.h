#pragma once
// A cache that is another one in a single layer: so the damage of one layer is measured with all
// others as they were, without a line in the model's forward pass.
// Docs: docs/13-where-the-error-comes-from.md

#include "ref/kv_cache.h"
#include "ref/model.h"

#include <cstdint>

namespace rotkv::tools {

/// x [T][heads][D] as matrices turn it, in `memory`; x itself where there are none.
inline TensorView turned(Backend& backend, const TensorView& x, const TensorView& matrix,
                         Buffer& memory) {
    if (matrix.empty() || x.empty()) return x;
    memory = Buffer(backend, std::size_t(x.rows() * x.n[3]) * sizeof(float));
    const TensorView y = memory.view(DType::f32, {x.n[1], x.n[2], x.n[3]});
    backend.run(TurnArgs{.dst = y, .src = x, .matrix = matrix});
    return y;
}

/// Runs a call as it would be for the same layer of another cache; what it stores or asks has been
/// turned by no matrix yet.
inline void store_in(const KvCache& cache, int64_t layer, KvStoreArgs args, Backend& backend) {
    Buffer k, v;
    args.k_cache = cache.k(layer);
    args.k_rotation = cache.spec().at(layer, Side::k);
    args.k_format = cache.format_rows(layer, Side::k);
    args.k = turned(backend, args.k, cache.matrix(layer, Side::k), k);
    if (!args.v.empty()) {  // else V lies in K
        args.v_cache = cache.v(layer);
        args.v_rotation = cache.spec().at(layer, Side::v);
        args.v_format = cache.format_rows(layer, Side::v);
        args.v = turned(backend, args.v, cache.matrix(layer, Side::v), v);
    }
    backend.run(args);
    backend.synchronize();  // what was turned goes
}

inline void read_from(const KvCache& cache, int64_t layer, AttentionArgs args, Backend& backend) {
    Buffer q;
    args.k_cache = cache.k(layer);
    args.v_cache = cache.v(layer);
    args.k_rotation = cache.spec().at(layer, Side::k);
    args.v_rotation = cache.spec().at(layer, Side::v);
    args.q = turned(backend, args.q, cache.matrix(layer, Side::k), q);
    backend.run(args);
    const TensorView v_matrix = cache.matrix(layer, Side::v);
    if (!v_matrix.empty() && !args.dst.empty()) {
        backend.run(
            TurnArgs{.dst = args.dst, .src = args.dst, .matrix = v_matrix, .inverse = true});
    }
    backend.synchronize();
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
            if (std::holds_alternative<TurnArgs>(call)) return;  // by the model's own cache
            if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
                store_in(*to_, layer_, *store, backend);
            } else if (const auto* attention = std::get_if<AttentionArgs>(&call)) {
                read_from(*to_, layer_, *attention, backend);
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
