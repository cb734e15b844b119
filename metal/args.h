#pragma once
// What the host tells a kernel beside its tensors: one struct for each, always at buffer 0, read by
// C++ and by Metal alike. Fields have fixed widths, and sizes are checked, because two compilers
// lay them out. A row number r of a tensor is (r / (n1 n2), r / n2 % n1, r % n2).
// Docs: docs/22-metal.md

#ifdef __METAL_VERSION__
#include <metal_stdlib>
#else
#include <cstdint>
#endif

namespace metal_args {

/// Where the rows of a tensor lie, in bytes from its first.
struct Rows {
    int64_t stride[3];
};

/// A rotation of a head's channels. No block: none.
struct Turn {
    uint64_t seed;
    float scale;  ///< 1 / sqrt(block)
    uint32_t block;
    uint32_t first;  ///< channel of the head where the row starts
    uint32_t signs;  ///< 1: with signs
};

/// Rows of one shape in pieces, a simdgroup's work each.
struct RowParts {
    Rows dst, src;
    uint32_t n1, n2;      ///< extents of the rows
    uint32_t row;         ///< D
    uint32_t parts;       ///< of a row
    uint32_t simdgroups;  ///< all pieces
    uint32_t unused;
};

struct Hadamard {
    RowParts rows;
    Turn turn;
    uint32_t inverse, unused;
};

/// Pairs of channels: (2i, 2i + 1), or (i, i + pairs) where they are apart.
struct Rope {
    RowParts rows;
    int64_t table_stride;  ///< of a row of the table, in bytes
    uint32_t pairs, apart;
};

/// turn: a matrix for `group` heads each, and the bytes from one to the next and between its rows.
struct ByMatrix {
    RowParts rows;
    int64_t matrix, matrix_row;
    uint32_t group, inverse;
};

struct Norm {
    RowParts rows;
    float epsilon;
    uint32_t weighted;
};

struct Scale {
    RowParts rows;
    float scale;
    uint32_t by_row;
};

/// Two sources: act_mul's gate (rows.src) and up, add's a and b.
struct Join {
    RowParts rows;
    Rows second;
    uint32_t activation, unused;
};

/// y[t, o] = sum_i w[o, i] x[t, i]: strides in bytes from token to token, from row to row of w.
struct Matmul {
    int64_t dst_stride, weight_stride, src_stride;
    uint32_t tokens, out, in;
    float softcap;
};

struct Embed {
    int64_t dst_stride, weight_stride;
    uint32_t row, parts, simdgroups;
    float scale;
};

/// One side of kv_store.
struct KvStore {
    Rows cache, src;
    Turn turn;
    uint32_t heads, row, parts, simdgroups;
};

struct KvShift {
    Rows cache;
    int64_t table_stride, index_stride;
    Turn turn;
    uint32_t cells, heads, row, parts, pairs, apart;
};

struct Merge {
    Rows dst, a, b;
    int64_t lse_stride, lse_a_stride, lse_b_stride;
    uint32_t heads, row, simdgroups, unused;
};

/// Positions and distances as in CellBounds: from <= i < to.
struct Attention {
    Rows dst, q, k_cache, v_cache;
    int64_t part_stride;  ///< of dst, from one part of the cells to the next
    int64_t lse_stride, lse_part_stride;
    int64_t position_stride;
    int64_t position_from, position_to, distance_from, distance_to;
    int64_t window;  ///< 0: none
    uint32_t chunked;
    float scale, softcap;
    uint32_t heads, kv_heads;
    uint32_t k_type, v_type;  ///< numbers of DType
    uint32_t d_k, d_v;
    uint32_t cells_of_part;
    uint32_t sinks, lse;  ///< 1: there are some
    uint32_t tokens;
    uint32_t repair;  ///< 1: only heads of which an output is no number
};

/// Outputs of parts of the cells, [parts][T][H][D] and their logs [parts][T][H], to one.
struct JoinParts {
    Rows dst;
    int64_t lse_stride;
    uint32_t parts, tokens, heads, row;
    uint32_t lse, unused;
};

/// What a simdgroup has seen of a token's logits: sum of exp(x - largest), in two floats.
struct Likelihood {
    float largest, sum, rest, target;
    int32_t top;
};

/// The same of two models, and the sum of exp(a - largest a) (a - b).
struct Divergence {
    Likelihood a, b;
    float sum, rest;
};

/// y[t, i] = sum_a weight[t, a] x[t, a, i], a row's channels in parts of 128.
struct ExpertSum {
    int64_t dst_stride, weight_stride;
    int64_t token_stride, use_stride;  ///< of x
    uint32_t row, parts, simdgroups, uses;
};

struct Route {
    int64_t id_stride, weight_stride, logits_stride;
    uint32_t experts, chosen, groups, groups_used;
    uint32_t gating;  ///< numbers of Gating
    uint32_t biased, scaled, normalise;
    float scale;
    uint32_t unused;
};

/// Uses, t A + a, of the experts: expert e's begin at the count of those of the experts before it.
/// Chunks, of at most eight uses of one expert: expert e's lie from floor(that count / 8) + e on,
/// which leaves room for all of them; what is left over has no uses.
struct SortUses {
    int64_t id_stride;
    uint32_t tokens, uses, experts, unused;  ///< uses of a token
};

struct Chunk {
    int32_t expert;
    uint32_t first, count;
};

struct ExpertMatmul {
    int64_t dst_token, dst_use, src_token, src_use, id_stride;
    int64_t expert_stride, weight_stride, bias_stride;
    uint32_t uses, out, in;
    uint32_t biased;
    uint32_t sorted;  ///< 0: chunk i is use i alone
    uint32_t unused;
};

struct ConvStep {
    int64_t dst_stride, src_stride, weight_stride;
    int64_t state_stream, state_tap;
    uint32_t tokens, channels, taps, unused;
};

struct DeltaGates {
    int64_t alpha_stride, beta_stride;
    uint32_t tokens, heads;
};

struct DeltaStep {
    Rows dst, v, q, k, state;
    uint32_t tokens, streams, heads, key_heads, row;
    uint32_t grouped;  ///< 0: interleaved
    float scale;       ///< 1 / sqrt(D)
    uint32_t unused;
};

/// states [simdgroups][tokens]; words are dealt out to simdgroups in turns.
struct Words {
    int64_t weight_stride, a_stride, b_stride;
    uint32_t tokens, words, width, simdgroups;
    float softcap;
    uint32_t unused;
};

static_assert(sizeof(Rows) == 24 && sizeof(Turn) == 24 && sizeof(RowParts) == 72, "one layout");
static_assert(sizeof(Hadamard) == 104 && sizeof(Rope) == 88 && sizeof(Norm) == 80, "one layout");
static_assert(sizeof(Scale) == 80 && sizeof(Join) == 104 && sizeof(Matmul) == 40, "one layout");
static_assert(sizeof(Embed) == 32 && sizeof(KvStore) == 88 && sizeof(KvShift) == 88, "one layout");
static_assert(sizeof(Merge) == 112 && sizeof(Attention) == 224 && sizeof(JoinParts) == 56 &&
                  sizeof(ExpertSum) == 48 && sizeof(Route) == 64 && sizeof(SortUses) == 24 &&
                  sizeof(Chunk) == 12 && sizeof(ExpertMatmul) == 88 && sizeof(ConvStep) == 56 &&
                  sizeof(DeltaGates) == 24 && sizeof(DeltaStep) == 152 &&
                  sizeof(Likelihood) == 20 && sizeof(Divergence) == 48 && sizeof(Words) == 48,
              "one layout");

}  // namespace metal_args
