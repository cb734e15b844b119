#pragma once
// The checksum of saved caches and the fingerprint of models and texts.
// Docs: docs/04-kv-cache.md

#include <cstddef>
#include <cstdint>
#include <span>

namespace rotkv {

/// FNV-1a, 64 bits: xor the byte in, multiply by an odd number. Both can be undone, so a single
/// changed byte always changes the sum. Source: Fowler, Noll, Vo 1991.
class Fnv1a {
  public:
    void add(std::span<const std::byte> bytes) {
        for (const std::byte byte : bytes) sum_ = (sum_ ^ uint64_t(byte)) * 0x100000001b3u;
    }
    uint64_t sum() const { return sum_; }

  private:
    uint64_t sum_ = 0xcbf29ce484222325u;
};

}  // namespace rotkv
