#include "tools/parity/guarded_backend.h"

#include "ref/error.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>

namespace rotkv::tools {
namespace {

class HostGuardedMemory final : public GuardedMemory {
  public:
    explicit HostGuardedMemory(Guard guard)
        : guard_(guard), page_(std::size_t(sysconf(_SC_PAGESIZE))) {}
    ~HostGuardedMemory() override {
        for (const auto& [memory, region] : regions_) munmap(region.begin, region.bytes);
    }
    HostGuardedMemory(const HostGuardedMemory&) = delete;
    HostGuardedMemory& operator=(const HostGuardedMemory&) = delete;

    std::byte* allocate(std::size_t bytes) override {
        const std::size_t whole = (bytes + page_ - 1) / page_ * page_, all = whole + 2 * page_;
        void* const mapped = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        require(mapped != MAP_FAILED, ErrorCode::io, "guarded memory: the system gives no more");
        std::byte* const begin = static_cast<std::byte*>(mapped);
        const bool open = whole == 0 || mprotect(begin + page_, whole, PROT_READ | PROT_WRITE) == 0;
        if (!open) {
            munmap(mapped, all);
            throw Error(ErrorCode::io, "guarded memory: the system does not open its pages");
        }
        std::byte* const memory = begin + page_ + (guard_ == Guard::back ? whole - bytes : 0);
        regions_[memory] = {begin, all};
        return memory;
    }

    bool release(std::byte* memory) override {
        const auto found = regions_.find(memory);
        if (found == regions_.end()) return false;
        munmap(found->second.begin, found->second.bytes);
        regions_.erase(found);
        return true;
    }

  private:
    struct Region {
        std::byte* begin;
        std::size_t bytes;
    };

    Guard guard_;
    std::size_t page_;
    std::map<std::byte*, Region> regions_;
};

}  // namespace

std::unique_ptr<GuardedMemory> make_host_guarded_memory(Guard guard) {
    return std::make_unique<HostGuardedMemory>(guard);
}

GuardedBackend::~GuardedBackend() { finish(); }

// Operations on their way may still use the memory. What is wrong with them was said by download(),
// without which nobody has seen a result.
void GuardedBackend::finish() noexcept {
    try {
        real().synchronize();
    } catch (const Error&) {
    }
}

void GuardedBackend::free_memory(std::byte* memory) {
    finish();
    if (!memory_->release(memory)) real().free_memory(memory);
}

// An alias stays one; a copy is guarded too.
std::byte* GuardedBackend::import(std::span<const std::byte> bytes) {
    return in_host_memory() ? real().import(bytes) : import_copy(*this, bytes);
}

}  // namespace rotkv::tools
