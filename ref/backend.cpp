// The backend "ref": memory from the C++ heap, each operation one call to its function.
#include "ref/kernels.h"

#include <cstring>
#include <set>

namespace rotkv::ref {

namespace {

// The specification leaves nothing out.
template <class... Args>
constexpr bool all_written(const std::variant<Args...>*) {
    return (decltype(k_operations)::has<Args> && ...);
}
static_assert(all_written(static_cast<const Call*>(nullptr)));

class RefBackend final : public Backend {
  public:
    std::string name() const override { return "ref"; }
    std::string description() const override {
        return "plain scalar loops, one thread, reductions in f64: the specification";
    }

    std::byte* allocate(std::size_t bytes) override { return new std::byte[bytes]; }
    void free_memory(std::byte* memory) override {
        // Imported bytes belong to their owner: only what allocate() gave is freed here.
        if (imported_.erase(memory) == 0) delete[] memory;
    }
    std::byte* import(std::span<const std::byte> bytes) override {
        // Weights are only read; the view type has no read-only twin.
        std::byte* alias = const_cast<std::byte*>(bytes.data());
        imported_.insert(alias);
        return alias;
    }
    void upload(std::byte* dst, std::span<const std::byte> src) override {
        if (!src.empty()) std::memcpy(dst, src.data(), src.size());
    }
    void download(std::span<std::byte> dst, const std::byte* src) override {
        if (!dst.empty()) std::memcpy(dst.data(), src, dst.size());
    }
    void synchronize() override {}
    bool in_host_memory() const override { return true; }

  protected:
    Support answer(const Call& call) const override { return unrounded_only(call); }
    void execute(const Call& call) override { k_operations.run(call); }

  private:
    std::multiset<const std::byte*> imported_;
};

}  // namespace

}  // namespace rotkv::ref

namespace rotkv {

std::unique_ptr<Backend> make_ref_backend() { return std::make_unique<ref::RefBackend>(); }

}  // namespace rotkv
