#pragma once
// Saved caches: what a KvCache holds, with everything that its bytes mean something under. A number
// is little endian, a string is a u64 length and as many bytes, and nothing is aligned:
//   char[8]  "rotkv-kv"
//   u32      version               2, or 3 where layers keep a state
//   u64      file bytes            all of them, with the checksum
//   u64      model                 its fingerprint, ref/files/model_fingerprint.h
//   u64      cells                 that each stream of the saved cache had
//   u64      streams, layers
//   then per layer:
//     u64    kv_heads              0: this layer keeps nothing
//     u64    d_k, d_v
//     u64    v_in_k                1: V is a view of K, else 0
//     u64    v_first               the channel where that view begins, else 0
//     u64    source                the layer whose rows this one reads: itself, or an earlier one
//     string type of K, type of V  "q8_0", or a format of the zoo: "exl3:4"
//     string rotation of K, of V   rotation_name(): "none", "64", "64:7", "matrix:HASH"
//     u64    heads, d, channels, taps of its state, 0 for none; version 3 alone, as the next two
//   then per stream:
//     u64    used                  one past the last cell that holds a token
//     i32    position[used]        -1: an empty cell
//     i32    first, next           the positions of the tokens in its states: first .. next - 1
//   then per layer with rows of its own, per stream, for its tokens in the order of their cells:
//     K      [token][kv_heads]     rows of d_k values in the type of K, as they lie in the cache,
//     or
//                                  their bytes in its format
//     V      [token][kv_heads]     likewise; nothing where V is a view of K
//   then per stream, layer after layer: the inputs and the matrices of the states, f32; version 3
//   u64      checksum              FNV-1a (64 bits) of every byte before it
// Version 1 is read too. Its layers are alike, so that between model and positions it has
//   string   type of K, type of V
//   string   rotation              saved_words(): "k=sylvester/64 v=none"
//   u64      cells
//   u64      layers, streams, kv_heads, d_k, d_v, v_in_k, v_first
// Docs: docs/04-kv-cache.md

#include "ref/kv_cache.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rotkv {

/// Writes the tokens of `cache` to a file that appears under its name when it is whole.
/// Throws: Error(io).
void save_cache(const KvCache& cache, uint64_t fingerprint, const std::string& path);

/// The same bytes in memory, for what is read again at once (cache_contents.h).
std::vector<std::byte> saved_bytes(const KvCache& cache, uint64_t fingerprint);

/// Replaces what `cache` holds by what was saved, in the same cells; empty cells between them
/// become zeros. States, and which tokens they hold, are replaced too; a file without states
/// (version 1 or 2) is refused for a cache that keeps some.
/// The cache must have been made for the same model with the same layers, their types and
/// rotations, and may have any number of cells that holds the saved ones.
/// Cost:   the whole file in memory.
/// Throws: Error(io) where there is no readable file; Error(bad_file) that names the layer and what
///         differs, or where the file is damaged. The cache is then as it was.
void load_cache(KvCache& cache, uint64_t fingerprint, const std::string& path);

}  // namespace rotkv
