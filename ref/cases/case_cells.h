#pragma once
// What the occupied cells of attention's caches hold beside ordinary numbers: what must stay in the
// cell that it lies in, and magnitudes at both ends of what a type stores.
// Docs: docs/10-testing-your-engine.md

#include "ref/types.h"

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace rotkv {

/// One word each, for Fields::word.
///   channels  as case_values' channels, in K and V
///   nan, inf  one channel of a few rows of K and of V is a NaN, an infinity: of cells that some
///             queries see and others do not, and in all heads of the newest, which none sees
///   huge      rows of V up to 2e5 (f16 and types with a minimum: 6e4, f32 and bf16: 1e6) and a
///             sixth of it: a product of two in f16 is infinite, in f32 it is not
///   tiny      rows of V of about 1e-4 and 1e-5, where f16 has few bits left
///   faint     rows of V of about 3e-7, all of them subnormal in f16
///   steep     rows of V from 1e-5 to 1e3, neighbours ten times apart
///   positive  no value of V is negative: what a sum is cut off by adds up
///   diagonal  cell c has one channel of V, c mod D: an output's channel is one cell's p v, which
///             no larger one hides
///   outlier-zero-key  a channel of q is 1e8 times the others and of K it is 0: scores are what
///             stands beside an outlier
///   far-keys  one channel of K in an early cell lies beyond f16, 1e6 (f32, bf16) or 2e5 (blocks;
///             f16: 6e4, inside). Where `loud` makes its score a usual one, all others are near 0
///   far-queries  one channel of each query is 1e6, far beyond f16, and K about 1e-4
///   minus-inf    a channel of K, alone with -inf in the first cells, by position, whose scores are
///                -inf with these queries: nothing else is seen by the first tokens
inline constexpr std::initializer_list<const char*> k_cell_kinds = {
    "channels", "nan",      "inf",         "huge",      "tiny",     "faint",           "steep",
    "positive", "far-keys", "far-queries", "minus-inf", "diagonal", "outlier-zero-key"};

/// Is one of the kinds whose newest cell no query sees?
bool is_spoilt(const std::string& kind);

/// Where numbers that are not finite lie. A row has them in K or in V: K's in the first KV head,
/// V's in the others; a cache of one KV head has them in V alone.
struct SpoiltCells {
    int64_t early, late;  ///< positions that queries see: V's, both, and K's, late - 1
    int64_t newest;       ///< the position that none sees
};

/// Changes the rows of one side of a cache, rotated, [cells of all streams][kv_heads][d], to what
/// `kind` says; `position` is that of each cell.
void change_cells(const std::string& kind, DType type, bool is_v, const SpoiltCells& spoilt,
                  std::span<const int32_t> position, int64_t kv_heads, std::span<float> rows);

/// The queries to it, [rows][d], of which `group` follow each other for a KV head.
void change_queries(const std::string& kind, int64_t heads, int64_t group, int64_t d,
                    std::span<float> rows);

/// Why such cells cannot be of this type, or turned by this rotation; "": they can.
std::string kind_refusal(const std::string& kind, DType k_type, bool is_rotated);

}  // namespace rotkv
