#pragma once
// One step of the online softmax for all query heads that share a KV head, over a tile of cells.
// Docs: docs/05-attention.md

#include "fast/decode.h"

namespace rotkv::fast {

inline constexpr int64_t k_decode_cells = 64;  ///< of a tile: scores stay in the L1 cache

/// All heads of one token, as far as they have seen the cache.
struct TokenState {
    float* q;          ///< [H][Dk]: rotated, times the scale
    float* sum;        ///< [H][Dv]
    Softmax* softmax;  ///< [H]
};

/// The query heads of KV head `kv` take in `count` <= k_decode_cells cells of token t's stream.
void decode_tile(const AttentionArgs& args, const TokenState& state, int64_t t, int64_t kv,
                 const int32_t* cells, int64_t count);

}  // namespace rotkv::fast
