#pragma once
// Saved caches: what a KvCache holds, with everything that its bytes mean something under. A number
// is little endian, a string is a u64 length and as many bytes, and nothing is aligned:
//   char[8]  "rotkv-kv"
//   u32      version               1
//   u64      file bytes            all of them, with the checksum
//   u64      model                 its fingerprint, see model_fingerprint()
//   string   type of K, type of V  "q8_0"
//   string   rotation              saved_words(): "k=sylvester/64 v=none"
//   u64      cells                 that each stream of the saved cache had
//   u64      layers, streams, kv_heads, d_k, d_v
//   u64      v_in_k                1: V is a view of K, else 0
//   u64      v_first               the channel where that view begins, else 0
//   then per stream:
//     u64    used                  one past the last cell that holds a token
//     i32    position[used]        -1: an empty cell
//   then per layer, per stream, for the tokens of the stream in the order of their cells:
//     K      [token][kv_heads]     rows of d_k values in the type of K, as they lie in the cache
//     V      [token][kv_heads]     likewise; nothing where V is a view of K
//   u64      checksum              FNV-1a (64 bits) of every byte before it
// Docs: docs/04-kv-cache.md

#include "ref/files/gguf.h"
#include "ref/kv_cache.h"

#include <cstdint>
#include <string>

namespace rotkv {

/// A number that differs for models whose keys and values differ, without reading all weights.
/// Math:   FNV-1a (64 bits) of the metadata outside "general." and "tokenizer." (key, type and
///         value), then of every tensor's name, type, extents and first 4096 bytes, in file order.
///         Texts and arrays are preceded by their length as a u64.
/// Exact:  equal on every machine. Two fine-tunes of a model differ, as long as training changed
///         the beginning of one tensor; a template or a name in the metadata changes nothing.
/// Cost:   one page of each tensor.
uint64_t model_fingerprint(const GgufFile& model);

/// Writes the tokens of `cache` to a file that appears under its name when it is whole.
/// Throws: Error(io).
void save_cache(const KvCache& cache, uint64_t fingerprint, const std::string& path);

/// Replaces what `cache` holds by what was saved, in the same cells; empty cells between them
/// become zeros.
/// The cache must have been made for the same model with the same rotation, types and shape, and
/// may have any number of cells that holds the saved ones.
/// Cost:   the whole file in memory.
/// Throws: Error(io) where there is no readable file; Error(bad_file) that names what differs, or
///         where the file is damaged. The cache is then as it was.
void load_cache(KvCache& cache, uint64_t fingerprint, const std::string& path);

}  // namespace rotkv
