#pragma once
// A fast checksum of many bytes.
// Docs: docs/04-kv-cache.md

#include <cstddef>
#include <cstdint>
#include <span>

namespace rotkv {

/// XXH64. Math, on u64: each of four lanes takes every fourth word w of 8 bytes,
///   round(a, w) = rotl(a + w p2, 31) p1,
/// which can be undone for a known w and for a known a: a single changed word always changes its
/// lane. The lanes, the number of bytes and what is left of them are mixed into one number.
/// Source: Collet, the XXH64 algorithm description (xxHash, doc/xxhash_spec.md).
uint64_t xxh64(std::span<const std::byte> bytes, uint64_t seed);

}  // namespace rotkv
