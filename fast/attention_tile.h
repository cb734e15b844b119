#pragma once
// Attention of a group of query rows to a tile of cells: what happens between loading the queries
// and storing the outputs, which is attention.cpp.
//
// A lane is a query row (one head of one token), so the running maximum and sum of each row, its
// rescaling and its mask are plain vector operations, and a cached key or value, as it lies in
// memory, is the operand that is broadcast: no transposition on the way.
// Docs: docs/05-attention.md

#include "fast/query_row.h"
#include "fast/register_tile.h"

#include <cstdint>

namespace rotkv::fast {

/// Cells of a tile. K and V of 64 cells in f32 are 32 KiB at D = 64, and stay in the L1 or L2 cache
/// while all groups pass.
inline constexpr int64_t k_tile_cells = 64;
inline constexpr int64_t k_tile_strips = k_tile_cells / k_strip;

inline constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/// Up to k_max_vectors * k_lanes query rows of one KV head side by side: width = vectors * k_lanes.
/// A row sees the cells with `after` < position <= `upto`: its visible_positions().
struct QueryGroup {
    int64_t vectors;
    int32_t* after;  ///< [width]
    int32_t* upto;   ///< [width]
    float* q;        ///< [Dk][width]: rotated, times the scale
    float* largest;  ///< [width]: largest score so far
    float* total;    ///< [width]: sum of exp(score - largest) so far
    float* sum;      ///< [Dv, rounded up to strips][width]: the same sum of values

    int64_t width() const { return vectors * k_lanes; }
};

/// The cells [first, first + k_tile_cells) of one stream and KV head.
struct CellTile {
    int32_t position[k_tile_cells];  ///< -1: empty
    Span strip[k_tile_strips];       ///< of the cells in use; least > most where there is none
    bool full[k_tile_strips];        ///< every cell of the strip is in use
    float* k;                        ///< [k_tile_cells][Dk], zeros where empty
    float* v;                        ///< [k_tile_cells][Dv, rounded up to strips], the same
    bool finite_v;                   ///< no inf and no NaN among v
};

/// Reads the positions of the tile that starts at cell `first`.
void load_positions(CellTile& tile, const AttentionArgs& args, int64_t stream, int64_t first);

/// Expands the keys and values of the tile's cells.
void load_cells(CellTile& tile, const AttentionArgs& args, int64_t stream, int64_t kv_head,
                int64_t first);

/// True if some strip of the tile can be seen by a row whose bounds lie within these.
bool some_visible(const CellTile& tile, int32_t least_after, int32_t most_upto);

/// Adds the tile's cells to what the group has seen. scores [k_tile_cells][width] is scratch.
/// Cost: 2 (Dk + Dv) multiply-adds per row and visible cell, one exp each.
void attend_tile(const CellTile& tile, const QueryGroup& group, const AttentionArgs& args,
                 float* scores);

}  // namespace rotkv::fast
