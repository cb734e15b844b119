#include "metal/backend.h"

#include "metal/commands.h"
#include "metal/operations.h"

#include <cstring>

namespace rotkv {

namespace {

class MetalBackend : public Backend {
  public:
    std::string name() const override { return ROTKV_METAL_NAME; }
    std::string description() const override {
        return commands_.device_name() + ", simdgroups of " + std::to_string(metal::k_lanes);
    }

    std::byte* allocate(std::size_t bytes) override { return commands_.allocate(bytes); }
    void free_memory(std::byte* memory) override { commands_.free_memory(memory); }
    std::byte* import(std::span<const std::byte> bytes) override { return commands_.import(bytes); }

    // What is on its way may read or write the same memory, which is the host's too.
    void upload(std::byte* dst, std::span<const std::byte> src) override {
        commands_.wait();
        if (!src.empty()) std::memcpy(dst, src.data(), src.size());
    }
    void download(std::span<std::byte> dst, const std::byte* src) override {
        commands_.wait();
        if (!dst.empty()) std::memcpy(dst.data(), src, dst.size());
    }
    void synchronize() override { commands_.wait(); }
    bool in_host_memory() const override { return true; }

  protected:
    Support answer(const Call& call) const override { return metal::answer(call); }
    void execute(const Call& call) override { metal::execute(commands_, call); }

  private:
    metal::Commands commands_;
};

}  // namespace

std::unique_ptr<Backend> make_metal_backend(int /*threads*/) {
    return std::make_unique<MetalBackend>();
}

}  // namespace rotkv
