#pragma once
// What llama.cpp saves of a cache: the file of a sequence (llama_state_seq_save_file) and that of a
// session (llama_state_save_file). Little endian, nothing aligned:
//   u32     magic, version         "ggsq" and 3 or 4, or "ggsn" and 10 or 11
//   u32     n; i32 token[n]        what the caller said was read; llama-server packs its list:
//                                  -1, 1, its length, the tokens, 0
//   u32     n; char name[n]        the architecture; of a session alone
//   then the caches, one or, where some layers have a window, two: those of all cells, those with
//   the window. Each:
//     u32   streams                and per stream
//     u32   cells                  none: nothing else follows for the stream
//     per cell: i32 position; u32 n; i32 sequence[n]
//     u32   1 if V is transposed; u32 layers
//     u32   rotation blocks of K, of V; 0: not rotated. Versions 4 and 11 alone
//     per layer, K: i32 type; u64 bytes of a cell; the cells, each with all heads
//     per layer, V: i32 type; u64 bytes of a cell; likewise. Transposed: i32 type; u32 bytes of an
//                   element; u32 elements of a cell; and for each element all cells
// Whether rows are rotated, and how, versions 3 and 10 do not say.
// Source: llama.cpp's src/llama-context.cpp and src/llama-kv-cache.cpp, as of 0c1e570; versions 4
//         and 11 and the server's list: files that 2026.10.11549 of the Python package xllamacpp
//         has written.
// Docs: docs/24-saved-caches.md

#include "ref/types.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

/// One side of a layer: rows of all heads, cell after cell.
struct LlamaRows {
    DType type = DType::f32;
    int64_t row_bytes = 0;
    std::vector<std::byte> rows;  ///< [cell][row_bytes]; a transposed V is turned back
};

struct LlamaStream {
    std::vector<int32_t> position;  ///< [cell]
    int64_t sequences = 0;          ///< that its cells are of
    std::vector<LlamaRows> k, v;    ///< of each layer that this cache has; v empty: it lies
                                    ///< in K, or the file ends before it
    std::optional<int64_t> k_block, v_block;  ///< of the rotation, 0: none; where the file says it
};

struct LlamaState {
    std::string path;
    bool is_session = false;
    int64_t version = 0;
    bool says_rotation = false;  ///< how rows are rotated, of each stream that has cells
    std::string architecture;  ///< "": the file does not say
    std::vector<int32_t> tokens;
    std::vector<std::vector<LlamaStream>> caches;  ///< [cache][stream]
};

/// Throws: Error(bad_file) with the offset, what was expected and what was found: another version,
/// a
///         type that no cache has, bytes that are missing or left over (states of recurrent layers,
///         which are not read).
LlamaState parse_llama_state(std::span<const std::byte> bytes, const std::string& path);

/// The file at `path`, of which no more than the magic is read where it is another one.
/// Throws: Error(io) where there is no regular file; as parse_llama_state() otherwise.
LlamaState read_llama_state(const std::string& path);

}  // namespace rotkv
