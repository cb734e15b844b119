#pragma once
// A backend that lets others look at the queries, keys and values on their way to the cache, and
// otherwise is the one it wraps. So a model is measured without a line in its forward pass.
// Docs: docs/11-outliers.md

#include "ref/ops.h"

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
/// counted: a forward pass stores and attends once in each, in order.
class CaptureBackend : public Backend {
  public:
    using Visit = std::function<void(const CapturedRows&)>;
    CaptureBackend(std::unique_ptr<Backend> real, int64_t layers, Visit visit)
        : real_(std::move(real)), layers_(layers), visit_(std::move(visit)) {}

    std::string name() const override { return real_->name(); }
    std::string description() const override { return real_->description(); }
    std::byte* allocate(std::size_t bytes) override { return real_->allocate(bytes); }
    void free_memory(std::byte* memory) override { real_->free_memory(memory); }
    std::byte* import(std::span<const std::byte> bytes) override { return real_->import(bytes); }
    void upload(std::byte* dst, std::span<const std::byte> src) override {
        real_->upload(dst, src);
    }
    void download(std::span<std::byte> dst, const std::byte* src) override {
        real_->download(dst, src);
    }
    void synchronize() override { real_->synchronize(); }

  protected:
    void run(const KvStoreArgs& args) override {
        show(CapturedRows::What::k, nullptr, args.k);
        if (!args.v.empty()) show(CapturedRows::What::v, nullptr, args.v);
        real_->kv_store(args);
    }
    void run(const AttentionArgs& args) override {
        show(CapturedRows::What::q, &args, args.q);
        layer_ = (layer_ + 1) % layers_;
        real_->attention(args);
    }
    void run(const HadamardArgs& args) override { real_->hadamard(args); }
    void run(const QuantizeArgs& args) override { real_->quantize(args); }
    void run(const DequantizeArgs& args) override { real_->dequantize(args); }
    void run(const RopeArgs& args) override { real_->rope(args); }
    void run(const RmsNormArgs& args) override { real_->rms_norm(args); }
    void run(const MatmulArgs& args) override { real_->matmul(args); }
    void run(const KvShiftArgs& args) override { real_->kv_shift(args); }
    void run(const ActMulArgs& args) override { real_->act_mul(args); }
    void run(const AddArgs& args) override { real_->add(args); }
    void run(const EmbedArgs& args) override { real_->embed(args); }
    void run(const NllArgs& args) override { real_->nll(args); }
    void run(const KldArgs& args) override { real_->kld(args); }
    void run(const LogitsArgs& args) override { real_->logits(args); }

  private:
    void show(CapturedRows::What what, const AttentionArgs* attention, const TensorView& rows) {
        host_.resize(std::size_t(span_bytes(rows)));
        real_->download(host_, rows.data);
        TensorView here = rows;
        here.data = host_.data();
        visit_({what, layer_, attention, here});
    }

    std::unique_ptr<Backend> real_;
    int64_t layers_, layer_ = 0;
    Visit visit_;
    std::vector<std::byte> host_;
};

}  // namespace rotkv::tools
