#pragma once
// THE OPERATIONS of a transformer with a rotated cache: one struct of arguments each, and Call, the
// list of them all. What runs them is a Backend (backend.h). The shape rules live once, in
// ops_check.cpp, so that all backends refuse the same inputs with the same words.
//
// Whatever changes from step to step (positions, cells, lengths, targets) is an int32 view in the
// backend's memory, never a number in a struct. What such views contain is a precondition, kept by
// KvCache and the tools on the host. Equal structs are the same call, which may be replayed.
// Docs: docs/08-backends.md

#include "ref/ops_experts.h"
#include "ref/rotation.h"
#include "ref/types.h"

#include <cstdint>
#include <limits>
#include <string>
#include <variant>

namespace rotkv {

class Format;

/// y = H S x on each row's blocks, or x = S H y with `inverse`; in f32, halves rounded at the end.
struct HadamardArgs {
    static constexpr const char* name = "hadamard";

    TensorView dst;  ///< [..][D] f32, f16 or bf16; may be src
    TensorView src;  ///< like dst, of its type
    Rotation rotation{};
    bool inverse = false;

    bool operator==(const HadamardArgs&) const = default;
};

struct QuantizeArgs {
    static constexpr const char* name = "quantize";

    TensorView dst;  ///< [..][D] any cache type
    TensorView src;  ///< [..][D] f32

    bool operator==(const QuantizeArgs&) const = default;
};

struct DequantizeArgs {
    static constexpr const char* name = "dequantize";

    TensorView dst;  ///< [..][D] f32
    TensorView src;  ///< [..][D] any cache or weight type

    bool operator==(const DequantizeArgs&) const = default;
};

/// Turns the first n_rot channels of every head by its token's row of the table.
struct RopeArgs {
    static constexpr const char* name = "rope";

    TensorView dst;    ///< [T][heads][D] f32; may be src
    TensorView src;    ///< like dst
    TensorView table;  ///< [rows][n_rot / 2][2] f32, from rope_table
    TensorView row;    ///< [T] i32: row of the table, one per token
    RopePairs pairs = RopePairs::norm;

    bool operator==(const RopeArgs&) const = default;
};

/// y = x / sqrt(mean(x^2) + epsilon) * weight, per row; without a weight, times 1.
struct RmsNormArgs {
    static constexpr const char* name = "rms_norm";

    TensorView dst;     ///< [..][D] f32; may be src
    TensorView src;     ///< like dst
    TensorView weight;  ///< [D] f32, or empty
    float epsilon = 0;

    bool operator==(const RmsNormArgs&) const = default;
};

/// y = (x - m) / sqrt(mean((x - m)^2) + epsilon) * weight with m = mean(x), per row.
struct LayerNormArgs {
    static constexpr const char* name = "layer_norm";

    TensorView dst;     ///< [..][D] f32; may be src
    TensorView src;     ///< like dst
    TensorView weight;  ///< [D] f32
    float epsilon = 0;

    bool operator==(const LayerNormArgs&) const = default;
};

/// y[t] = (scale * factor[row[t]]) * x[t]: by a constant, or by what a token's position asks for.
struct ScaleArgs {
    static constexpr const char* name = "scale";

    TensorView dst;       ///< [T][heads][D] f32; may be src
    TensorView src;       ///< like dst
    TensorView factor{};  ///< [rows] f32, or empty: 1
    TensorView row{};     ///< [T] i32: of factor, one per token; empty with it
    float scale = 1;

    bool operator==(const ScaleArgs&) const = default;
};

/// y[t, o] = sum_i w[o, i] x[t, i].
struct MatmulArgs {
    static constexpr const char* name = "matmul";

    TensorView dst;     ///< [T][out] f32
    TensorView weight;  ///< [out][in] any weight type
    TensorView src;     ///< [T][in] f32
    Precision precision = Precision::f32;

    bool operator==(const MatmulArgs&) const = default;
};

/// y[t, h] = M x[t, h], or M^T x[t, h] with `inverse`: a rotation by a matrix, and back. A head
/// takes that of the KV head it reads, h / (heads / K) in whole numbers.
struct TurnArgs {
    static constexpr const char* name = "turn";

    TensorView dst;     ///< [T][heads][D] f32; may be src
    TensorView src;     ///< like dst
    TensorView matrix;  ///< [K][D][D] f32; K divides heads
    bool inverse = false;

    bool operator==(const TurnArgs&) const = default;
};

/// Rows that are kept in a format without kernels. Cells are f32 and hold what the bytes stand for:
/// class Backend sees to it after the operation, on the host, so that no backend needs to know.
struct FormatRows {
    const Format* format = nullptr;  ///< null: cells are what is kept, and the rest means nothing
    TensorView cells{};              ///< [S][C][K][D] f32, D all channels of a head
    std::byte* codes = nullptr;      ///< [S][C][K] rows of bytes, in the host's memory
    int64_t layer = 0;
    Side side = Side::k;

    std::byte* codes_of(int64_t stream, int64_t cell, int64_t kv_head) const;
    bool operator==(const FormatRows&) const = default;
};

/// Rotates, quantizes and scatters the batch's keys and values into the cache.
struct KvStoreArgs {
    static constexpr const char* name = "kv_store";

    TensorView k_cache;    ///< [S][C][K][Dk] cache type
    TensorView v_cache{};  ///< [S][C][K][Dv] cache type; empty where V is a view of K
    TensorView k;          ///< [T][K][Dk] f32, position already in (RoPE)
    TensorView v{};        ///< [T][K][Dv] f32; empty with v_cache
    TensorView stream;     ///< [T] i32
    TensorView cell;       ///< [T] i32; -1: this token is not stored
    Rotation k_rotation{}, v_rotation{};
    FormatRows k_format{}, v_format{};
    TensorView position{};  ///< [T] i32, for formats; empty where there is none

    bool operator==(const KvStoreArgs&) const = default;
};

/// The whole numbers from <= i < to; as it stands, all from 0 on.
struct Range {
    int64_t from = 0, to = std::numeric_limits<int64_t>::max();

    bool holds(int64_t i) const { return from <= i && i < to; }
    bool operator==(const Range&) const = default;
};

/// Which cells a call of attention is about, by their position and by their distance to the query;
/// as it stands, all. The first tokens are position < first; the recent ones position >= first and
/// distance < recent; the rest has position >= first and distance >= recent.
struct CellBounds {
    Range position;  ///< of the cell
    Range distance;  ///< pos_q - pos_cell, 0 for the query's own

    bool hold(int64_t pos_cell, int64_t pos_q) const {
        return position.holds(pos_cell) && distance.holds(pos_q - pos_cell);
    }
    bool all() const { return *this == CellBounds(); }
    bool operator==(const CellBounds&) const = default;
};

/// Attention of the batch over the cache, and nothing but the cache.
/// A cell is visible to a query of its stream when 0 <= pos_cell <= pos_q and, with a window n,
/// pos_q - pos_cell < n or, where windows are chunks that stand still, pos_cell >= floor(pos_q / n)
/// n; it takes part when it lies within the bounds too. No such cell gives 0. A score of -inf is a
/// weight of 0, whatever the others are: where all of them are -inf, the output is 0 and lse -inf,
/// as if no cell took part, so that parts of a whole make the whole. Of +inf and NaN comes NaN. lse
/// is the log of what softmax divides by: log(exp(sink) + sum_c exp(s_c)), -inf for an empty sum.
/// With it the outputs of calls that share out the cells, a sink among one of them, make that of
/// one call: o = sum_i exp(lse_i - lse) o_i, lse = log(sum_i exp(lse_i)).
struct AttentionArgs {
    static constexpr const char* name = "attention";

    TensorView dst;         ///< [T][H][Dv] f32
    TensorView lse{};       ///< [T][H] f32 or empty
    TensorView q;           ///< [T][H][Dk] f32, not yet rotated
    TensorView k_cache;     ///< [S][C][K][Dk]
    TensorView v_cache;     ///< [S][C][K][Dv]; may be a view of k_cache
    TensorView position;    ///< [S][C] i32, -1: empty cell
    TensorView used;        ///< [S] i32: cells from here on are empty
    TensorView q_stream;    ///< [T] i32
    TensorView q_position;  ///< [T] i32, -1: sees nothing
    TensorView sinks{};     ///< [H] f32 or empty: a score that takes probability and gives no value
    float scale = 1;
    float softcap = 0;     ///< c > 0: scores become c tanh(score / c)
    int64_t window = 0;    ///< 0: none
    bool chunked = false;  ///< how the window lies
    CellBounds bounds{};
    Rotation k_rotation{}, v_rotation{};
    Precision precision = Precision::f32;  ///< or f16

    /// The first position that the window lets a query see; below 0: all.
    int64_t first_visible(int64_t pos_q) const;

    /// Does a cell at this position take part for a query at that one?
    bool takes_part(int64_t pos_cell, int64_t pos_q) const;

    bool operator==(const AttentionArgs&) const = default;
};

/// Two parts of an attention made one: lse = log(exp(lse_a) + exp(lse_b)) and
/// y = exp(lse_a - lse) a + exp(lse_b - lse) b. Where lse is -inf, because nothing took part in
/// either, y is 0.
struct MergeArgs {
    static constexpr const char* name = "merge";

    TensorView dst;           ///< [T][H][Dv] f32; may be a
    TensorView lse;           ///< [T][H] f32; may be lse_a
    TensorView a, b;          ///< like dst, rotated back
    TensorView lse_a, lse_b;  ///< like lse

    bool operator==(const MergeArgs&) const = default;
};

/// Moves cached keys to other positions: to f32, back, RoPE by the difference, forward, store.
struct KvShiftArgs {
    static constexpr const char* name = "kv_shift";

    TensorView k_cache;  ///< [S][C][K][Dk]
    TensorView table;    ///< [rows][n_rot / 2][2] f32, from rope_shift_table
    TensorView row;      ///< [S][C] i32: row of the table, -1: this cell stays
    RopePairs pairs = RopePairs::norm;
    Rotation k_rotation{};
    FormatRows k_format{};
    TensorView position{};  ///< [S][C] i32, the new ones, for the format; empty where there is none

    bool operator==(const KvShiftArgs&) const = default;
};

/// A causal convolution along each stream, every channel by itself, and silu(x) = x / (1 +
/// exp(-x)): y_t = silu(sum_j weight[c][j] u_(t - n + 1 + j)), where the inputs u go on from batch
/// to batch. Tokens of one stream are in their order, those of several may take turns. `state`
/// holds each stream's last n - 1 inputs, the oldest first: read, then replaced by the last ones
/// there are.
struct ConvStepArgs {
    static constexpr const char* name = "conv_step";

    TensorView dst;     ///< [T][channels] f32; may be src
    TensorView src;     ///< like dst: u
    TensorView weight;  ///< [channels][n] f32; the last column is for the token's own input
    TensorView state;   ///< [S][n - 1][channels] f32; streams without tokens stay
    TensorView stream;  ///< [T] i32

    bool operator==(const ConvStepArgs&) const = default;
};

/// Which key head a value head h reads.
enum class KeyHeads {
    grouped,      ///< h / (Hv / Hk), whole numbers: neighbours share one
    interleaved,  ///< h mod Hk
};

/// The gated delta rule, a token at a time. Each stream and value head has a matrix M; a token's
///   keep = exp(decay softplus(alpha + dt)), gain = 1 / (1 + exp(-beta)), both rounded to f32,
///   M <- keep M;   M <- M + gain (v - M k) k^T, rounded to f32;   y = M q / sqrt(D), the new M.
/// softplus(x) = log(1 + exp(x)), above 20 x itself. Tokens of one stream are in their order, those
/// of several may take turns. Streams without tokens stay.
struct DeltaStepArgs {
    static constexpr const char* name = "delta_step";

    TensorView dst;          ///< [T][Hv][D] f32; may be v
    TensorView q, k;         ///< [T][Hk][D] f32, rows of length 1 or less
    TensorView v;            ///< like dst
    TensorView alpha, beta;  ///< [T][Hv] f32
    TensorView decay, dt;    ///< [Hv] f32; decay <= 0
    TensorView state;        ///< [S][Hv][D][D] f32: M [value channel][key channel]
    TensorView stream;       ///< [T] i32
    KeyHeads key_heads = KeyHeads::grouped;

    bool operator==(const DeltaStepArgs&) const = default;
};

enum class Activation {
    silu,        ///< x / (1 + exp(-x))
    gelu_tanh,   ///< x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
    sigmoid,     ///< 1 / (1 + exp(-x))
    swiglu_oai,  ///< g / (1 + exp(-1.702 g)) with g = min(x, 7), and up becomes 1 + up, which is
                 ///< cut to -7 .. 7 before
};

/// y = act(gate) * up.
struct ActMulArgs {
    static constexpr const char* name = "act_mul";

    TensorView dst;   ///< [..] f32; may be gate or up
    TensorView gate;  ///< like dst
    TensorView up;    ///< like dst
    Activation activation = Activation::silu;

    bool operator==(const ActMulArgs&) const = default;
};

/// y = a + b; strides of 0 repeat b (a bias).
struct AddArgs {
    static constexpr const char* name = "add";

    TensorView dst;  ///< [..] f32; may be a
    TensorView a, b;

    bool operator==(const AddArgs&) const = default;
};

/// y[t] = scale * weight[token[t]].
struct EmbedArgs {
    static constexpr const char* name = "embed";

    TensorView dst;     ///< [T][E] f32
    TensorView weight;  ///< [V][E] any weight type
    TensorView token;   ///< [T] i32
    float scale = 1;

    bool operator==(const EmbedArgs&) const = default;
};

/// Negative log-likelihood of each row's target word, without a tokens x words matrix:
/// log(sum_v exp(x_v)) - x_target, x = softcap(hidden . weight[v]), infinite where no f32 holds it.
struct NllArgs {
    static constexpr const char* name = "nll";

    TensorView nll;     ///< [T] f64
    TensorView top;     ///< [T] i32: the word with the largest logit, the first of equals
    TensorView hidden;  ///< [T][E] f32
    TensorView weight;  ///< [V][E] any weight type
    TensorView target;  ///< [T] i32
    float softcap = 0;

    bool operator==(const NllArgs&) const = default;
};

/// KL divergence of b's distribution from a's, row by row, in one walk over the vocabulary.
/// kld = sum_v p_a(v) (log p_a(v) - log p_b(v)), in nats.
struct KldArgs {
    static constexpr const char* name = "kld";

    TensorView kld, nll_a, nll_b;  ///< [T] f64
    TensorView top_a, top_b;       ///< [T] i32
    TensorView hidden_a;           ///< [T][E] f32: the reference
    TensorView hidden_b;           ///< [T][E] f32
    TensorView weight;             ///< [V][E] any weight type
    TensorView target;             ///< [T] i32
    float softcap = 0;

    bool operator==(const KldArgs&) const = default;
};

/// Logits themselves, for at most k_max_logit_rows rows (base files, sampling).
inline constexpr int64_t k_max_logit_rows = 64;
struct LogitsArgs {
    static constexpr const char* name = "logits";

    TensorView dst;     ///< [T][V] f32
    TensorView hidden;  ///< [T][E] f32
    TensorView weight;  ///< [V][E] any weight type
    float softcap = 0;

    bool operator==(const LogitsArgs&) const = default;
};

/// THE LIST: whoever handles every operation visits this.
using Call =
    std::variant<HadamardArgs, QuantizeArgs, DequantizeArgs, RopeArgs, RmsNormArgs, LayerNormArgs,
                 ScaleArgs, MatmulArgs, TurnArgs, KvStoreArgs, AttentionArgs, MergeArgs,
                 KvShiftArgs, ConvStepArgs, DeltaStepArgs, ActMulArgs, AddArgs, RouteArgs,
                 ExpertMatmulArgs, ExpertSumArgs, EmbedArgs, NllArgs, KldArgs, LogitsArgs>;

/// The operation's name: "hadamard", "kv_store".
inline const char* name_of(const Call& call) {
    return std::visit([](const auto& args) { return args.name; }, call);
}

/// Throws Error(bad_argument) naming operation, argument, expected and found.
void check(const Call& call);

}  // namespace rotkv
