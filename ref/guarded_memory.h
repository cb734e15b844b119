#pragma once
// Memory that lies flush against what cannot be accessed: a read out of bounds is a fault there,
// and not luck. Docs: docs/10-testing-your-engine.md

#include <cstddef>

namespace rotkv {

/// On which side of each allocation: before its first byte, or behind its last.
enum class Guard { front, back };

/// Where a backend's memory comes from when its accesses are watched. Those of a host need not be
/// aligned to more than their contents are, those of a device begin and end on 16 bytes.
class GuardedMemory {
  public:
    virtual ~GuardedMemory() = default;

    /// Throws Error(io) where the system gives none.
    virtual std::byte* allocate(std::size_t bytes) = 0;

    /// Nobody uses it any more. False: it was not allocated here, and nothing is done.
    virtual bool release(std::byte* memory) = 0;
};

}  // namespace rotkv
