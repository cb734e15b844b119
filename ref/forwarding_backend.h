#pragma once
// A backend that is another one but for what a derived class changes: one operation, its memory.
// Docs: docs/08-backends.md

#include "ref/backend.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace rotkv {

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
    bool in_host_memory() const override { return real_->in_host_memory(); }
    void on_host(int64_t tasks, const std::function<void(int64_t)>& task) override {
        real_->on_host(tasks, task);
    }

  protected:
    Support answer(const Call& call) const override { return real_->supports(call); }
    void execute(const Call& call) override { real_->run(call); }

    Backend& real() { return *real_; }

  private:
    std::unique_ptr<Backend> real_;
};

}  // namespace rotkv
