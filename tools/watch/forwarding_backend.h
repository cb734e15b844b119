#pragma once
// A backend that is another one, for those who want to look on: every operation goes through one
// function, around(), which a derived class may replace.
// Docs: docs/08-backends.md

#include "ref/ops.h"

#include <functional>
#include <memory>
#include <utility>

namespace rotkv::tools {

class ForwardingBackend : public Backend {
  public:
    explicit ForwardingBackend(std::unique_ptr<Backend> real) : real_(std::move(real)) {}

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

    Support supports(const HadamardArgs& args) const override { return real_->supports(args); }
    Support supports(const QuantizeArgs& args) const override { return real_->supports(args); }
    Support supports(const DequantizeArgs& args) const override { return real_->supports(args); }
    Support supports(const RopeArgs& args) const override { return real_->supports(args); }
    Support supports(const RmsNormArgs& args) const override { return real_->supports(args); }
    Support supports(const MatmulArgs& args) const override { return real_->supports(args); }
    Support supports(const KvStoreArgs& args) const override { return real_->supports(args); }
    Support supports(const AttentionArgs& args) const override { return real_->supports(args); }
    Support supports(const KvShiftArgs& args) const override { return real_->supports(args); }
    Support supports(const ActMulArgs& args) const override { return real_->supports(args); }
    Support supports(const AddArgs& args) const override { return real_->supports(args); }
    Support supports(const EmbedArgs& args) const override { return real_->supports(args); }
    Support supports(const NllArgs& args) const override { return real_->supports(args); }
    Support supports(const KldArgs& args) const override { return real_->supports(args); }
    Support supports(const LogitsArgs& args) const override { return real_->supports(args); }

  protected:
    /// Runs the call of operation `op`, here and nothing else.
    virtual void around(const char* /*op*/, const std::function<void()>& call) { call(); }

    void run(const HadamardArgs& args) override {
        around("hadamard", [&] { real_->hadamard(args); });
    }
    void run(const QuantizeArgs& args) override {
        around("quantize", [&] { real_->quantize(args); });
    }
    void run(const DequantizeArgs& args) override {
        around("dequantize", [&] { real_->dequantize(args); });
    }
    void run(const RopeArgs& args) override {
        around("rope", [&] { real_->rope(args); });
    }
    void run(const RmsNormArgs& args) override {
        around("rms_norm", [&] { real_->rms_norm(args); });
    }
    void run(const MatmulArgs& args) override {
        around("matmul", [&] { real_->matmul(args); });
    }
    void run(const KvStoreArgs& args) override {
        around("kv_store", [&] { real_->kv_store(args); });
    }
    void run(const AttentionArgs& args) override {
        around("attention", [&] { real_->attention(args); });
    }
    void run(const KvShiftArgs& args) override {
        around("kv_shift", [&] { real_->kv_shift(args); });
    }
    void run(const ActMulArgs& args) override {
        around("act_mul", [&] { real_->act_mul(args); });
    }
    void run(const AddArgs& args) override {
        around("add", [&] { real_->add(args); });
    }
    void run(const EmbedArgs& args) override {
        around("embed", [&] { real_->embed(args); });
    }
    void run(const NllArgs& args) override {
        around("nll", [&] { real_->nll(args); });
    }
    void run(const KldArgs& args) override {
        around("kld", [&] { real_->kld(args); });
    }
    void run(const LogitsArgs& args) override {
        around("logits", [&] { real_->logits(args); });
    }

    Backend& real() { return *real_; }

  private:
    std::unique_ptr<Backend> real_;
};

}  // namespace rotkv::tools
