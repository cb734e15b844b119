#pragma once
// The queries, keys and values of a model on their way to the cache.
// Docs: docs/11-outliers.md

#include "ref/error.h"
#include "ref/model.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace rotkv::tools {

/// Rows of one layer and batch, on the host: after norm and RoPE, before any rotation.
struct CapturedRows {
    enum class What { q, k, v };
    What what;
    int64_t layer;
    const AttentionArgs* attention;  ///< that the rows go to; with q only
    TensorView rows;                 ///< [T][heads][D] f32, valid during the visit
    std::vector<float> sinks{};      ///< [heads], or none; with q only
};

/// An observer that hands every layer's q, k and v to `visit`, and runs every call as it is.
/// Attention in parts is Error(unsupported).
inline Observer capture(std::function<void(const CapturedRows&)> visit) {
    return [visit = std::move(visit), host = std::vector<std::byte>()](
               int64_t layer, const Call& call, Backend& backend) mutable {
        const auto show = [&](CapturedRows::What what, const AttentionArgs* attention,
                              const TensorView& rows) {
            host.resize(std::size_t(span_bytes(rows)));
            backend.download(host, rows.data);
            TensorView here = rows;
            here.data = host.data();
            std::vector<float> sinks;
            if (attention != nullptr && !attention->sinks.empty()) {
                sinks = contents<float>(backend, attention->sinks);
            }
            visit({what, layer, attention, here, std::move(sinks)});
        };
        if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
            show(CapturedRows::What::k, nullptr, store->k);
            if (!store->v.empty()) show(CapturedRows::What::v, nullptr, store->v);
        } else if (const auto* attention = std::get_if<AttentionArgs>(&call)) {
            require(attention->bounds.all(), ErrorCode::unsupported,
                    "capture: attention in parts would show a layer's queries more than once");
            show(CapturedRows::What::q, attention, attention->q);
        }
        backend.run(call);
    };
}

}  // namespace rotkv::tools
