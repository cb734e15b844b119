#include "fast/large_pages.h"

#include "fast/threads.h"
#include "fast/workspace.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace rotkv::fast {
namespace {

constexpr std::size_t k_least_copy = 1 << 16;           // bytes
constexpr std::size_t k_region = std::size_t(1) << 30;  // addresses, not memory
constexpr std::size_t k_piece = std::size_t(1) << 20;   // that one thread copies

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

#if defined(__linux__)

// May a program have large pages by asking? Read once.
bool has_large_pages() {
    static const bool has = [] {
        std::string words;
        std::getline(std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"), words);
        return !words.empty() && words.find("[never]") == std::string::npos;
    }();
    return has;
}

// Would others be left half of the machine's memory? A mapped file can give its pages back, a copy
// cannot. A container with a limit of its own is left what it has.
bool leaves_half(std::size_t bytes) {
    std::string limit;
    if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && limit != "max") return false;
    std::ifstream file("/proc/meminfo");
    std::size_t total = 0, available = 0, kib = 0;
    for (std::string word; file >> word;) {
        if (word == "MemTotal:" && file >> kib) total = kib * 1024;
        if (word == "MemAvailable:" && file >> kib) available = kib * 1024;
    }
    return available > bytes && available - bytes >= total / 2;
}

// Addresses that begin with a large page; memory comes where something is written. Null: none.
std::byte* reserve(std::size_t bytes) {
    const std::size_t all = bytes + k_large_page;
    void* const mapped = mmap(nullptr, all, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    std::byte* const first = static_cast<std::byte*>(mapped);
    const std::size_t before = round_up(reinterpret_cast<uintptr_t>(first), k_large_page) -
                               reinterpret_cast<uintptr_t>(first);
    if (before > 0) munmap(first, before);
    if (before < k_large_page) munmap(first + before + bytes, k_large_page - before);
    return first + before;
}

void give_back(std::byte* begin, std::size_t bytes) { munmap(begin, bytes); }

#else

bool has_large_pages() { return false; }
bool leaves_half(std::size_t) { return false; }
std::byte* reserve(std::size_t) { return nullptr; }
void give_back(std::byte*, std::size_t) {}

#endif

}  // namespace

void prefer_large_pages(void* memory, std::size_t bytes) {
#if defined(__linux__)
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory), end = (at + bytes) / k_large_page;
    const std::size_t first = round_up(at, k_large_page);
    if (end * k_large_page > first) {
        madvise(reinterpret_cast<void*>(first), end * k_large_page - first, MADV_HUGEPAGE);
    }
#else
    (void)memory, (void)bytes;
#endif
}

LargePages::~LargePages() {
    for (const Region& region : regions_) give_back(region.begin, region.bytes);
}

std::byte* LargePages::copy(std::span<const std::byte> bytes) {
    const std::size_t size = round_up(bytes.size(), k_alignment);
    if (size < k_least_copy || !has_large_pages() || !leaves_half(size)) return nullptr;
    if (regions_.empty() || regions_.back().bytes - regions_.back().used < size) {
        const std::size_t all = round_up(std::max(size, k_region), k_large_page);
        std::byte* const begin = reserve(all);
        if (begin == nullptr) return nullptr;
        prefer_large_pages(begin, all);
        regions_.push_back({begin, all, 0, 0});
    }
    Region& region = regions_.back();
    std::byte* const to = region.begin + region.used;
    region.used += size;
    ++region.copies;
    share(int64_t((bytes.size() + k_piece - 1) / k_piece), [&](int64_t i) {
        const std::size_t first = std::size_t(i) * k_piece;
        std::memcpy(to + first, bytes.data() + first, std::min(k_piece, bytes.size() - first));
    });
    return to;
}

bool LargePages::forget(const std::byte* copy) {
    const auto region = std::find_if(regions_.begin(), regions_.end(), [&](const Region& one) {
        return copy >= one.begin && copy < one.begin + one.bytes;
    });
    if (region == regions_.end()) return false;
    if (--region->copies == 0) {
        give_back(region->begin, region->bytes);
        regions_.erase(region);
    }
    return true;
}

}  // namespace rotkv::fast
