#pragma once
// Which model a file belongs to, in one number: quickly, or to the last byte.
// Docs: docs/04-kv-cache.md

#include "ref/files/gguf.h"

#include <cstdint>

namespace rotkv {

/// A number that differs for models whose keys and values differ, without reading all weights.
/// Math:   FNV-1a (64 bits) of the metadata outside "general." and "tokenizer." (key, type and
///         value), then of every tensor's name, type, extents and first 4096 bytes, in file order.
///         Texts and arrays are preceded by their length as a u64.
/// Exact:  equal on every machine. Two fine-tunes of a model differ, as long as training changed
///         the beginning of one tensor; a template or a name in the metadata changes nothing.
/// Cost:   one page of each tensor.
uint64_t model_fingerprint(const GgufFile& model);

/// A number that differs for models that compute something else, if only in one weight.
/// Math:   FNV-1a (64 bits) of the same metadata and "general.architecture", then of every tensor's
///         name, type, extents and all its bytes, in file order.
/// Exact:  equal on every machine. It is against mistakes: two models agree by chance once in 2^64,
///         by intent whenever somebody wants it.
/// Cost:   reads the whole file, a byte in some five cycles: seconds a GiB.
uint64_t model_hash(const GgufFile& model);

}  // namespace rotkv
