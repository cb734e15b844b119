#pragma once
// A backend whose memory is guarded, and the host's kind of such memory.
// Docs: docs/10-testing-your-engine.md

#include "ref/forwarding_backend.h"
#include "ref/guarded_memory.h"

#include <memory>
#include <span>

namespace rotkv::tools {

/// Whole pages between pages that are not accessible; back: the last byte is the last of its page,
/// so that an allocation of n elements is aligned to one of them and rarely to more.
std::unique_ptr<GuardedMemory> make_host_guarded_memory(Guard guard);

/// The operations are those of `real`, the memory is `memory`'s.
class GuardedBackend final : public ForwardingBackend {
  public:
    GuardedBackend(std::unique_ptr<Backend> real, std::unique_ptr<GuardedMemory> memory)
        : ForwardingBackend(std::move(real)), memory_(std::move(memory)) {}
    ~GuardedBackend() override;
    GuardedBackend(const GuardedBackend&) = delete;
    GuardedBackend& operator=(const GuardedBackend&) = delete;

    std::byte* allocate(std::size_t bytes) override { return memory_->allocate(bytes); }
    void free_memory(std::byte* memory) override;
    std::byte* import(std::span<const std::byte> bytes) override;

  private:
    void finish() noexcept;

    std::unique_ptr<GuardedMemory> memory_;
};

}  // namespace rotkv::tools
