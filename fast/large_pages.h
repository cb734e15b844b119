#pragma once
// Memory in pages of 2 MB, for what is read once a token. A processor keeps in mind where some
// thousand pages lie; of weights in pages of 4 KB, as a mapped file has them, it must look up each
// page anew, and what fetches ahead stops at its end.
// Docs: docs/performance.md

#include <cstddef>
#include <list>
#include <span>

namespace rotkv::fast {

inline constexpr std::size_t k_large_page = std::size_t(1) << 21;

/// Asks for large pages where `memory`, of so many bytes, has whole ones. Where the system has
/// none, nothing happens.
void prefer_large_pages(void* memory, std::size_t bytes);

/// Copies of weights, side by side in large pages.
class LargePages {
  public:
    LargePages() = default;
    ~LargePages();
    LargePages(const LargePages&) = delete;
    LargePages& operator=(const LargePages&) = delete;

    /// A copy, made by as many threads as share() takes. Null, and nothing is taken, for bytes so
    /// few that it would gain nothing, where the system has no large pages, and where others would
    /// be left less than half of the machine's memory.
    std::byte* copy(std::span<const std::byte> bytes);

    /// Forgets a copy; its memory goes back with the last one that lies beside it. False: it is
    /// none.
    bool forget(const std::byte* copy);

  private:
    struct Region {
        std::byte* begin;
        std::size_t bytes, used, copies;
    };
    std::list<Region> regions_;  // copies are added to the last one
};

}  // namespace rotkv::fast
