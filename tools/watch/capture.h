#pragma once
// A backend that lets others look at the queries, keys and values on their way to the cache, and
// otherwise is the one it wraps. So a model is measured without a line in its forward pass.
// Docs: docs/11-outliers.md

#include "ref/error.h"
#include "tools/watch/forwarding_backend.h"

#include <functional>
#include <memory>
#include <vector>

namespace rotkv::tools {

/// Rows of one layer and batch, on the host: after norm and RoPE, before any rotation.
struct CapturedRows {
    enum class What { q, k, v };
    What what;
    int64_t layer;
    const AttentionArgs* attention;  ///< that the rows go to; with q only
    TensorView rows;                 ///< [T][heads][D] f32, valid during the visit
};

/// Hands every layer's q, k and v to `visit`; all else goes to the wrapped backend. Layers are
/// counted: a forward pass stores and attends once in each, in order. Attention in parts is
/// refused.
class CaptureBackend : public ForwardingBackend {
  public:
    using Visit = std::function<void(const CapturedRows&)>;
    CaptureBackend(std::unique_ptr<Backend> backend, int64_t layers, Visit visit)
        : ForwardingBackend(std::move(backend)), layers_(layers), visit_(std::move(visit)) {}

  protected:
    using ForwardingBackend::run;
    void run(const KvStoreArgs& args) override {
        show(CapturedRows::What::k, nullptr, args.k);
        if (!args.v.empty()) show(CapturedRows::What::v, nullptr, args.v);
        real().kv_store(args);
    }
    void run(const AttentionArgs& args) override {
        require(args.bounds.all(), ErrorCode::unsupported,
                "capture: a layer's attention in parts would be counted as several layers");
        show(CapturedRows::What::q, &args, args.q);
        layer_ = (layer_ + 1) % layers_;
        real().attention(args);
    }

  private:
    void show(CapturedRows::What what, const AttentionArgs* attention, const TensorView& rows) {
        host_.resize(std::size_t(span_bytes(rows)));
        real().download(host_, rows.data);
        TensorView here = rows;
        here.data = host_.data();
        visit_({what, layer_, attention, here});
    }

    int64_t layers_, layer_ = 0;
    Visit visit_;
    std::vector<std::byte> host_;
};

}  // namespace rotkv::tools
