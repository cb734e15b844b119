#pragma once
// THE INTERFACE: the operations of a transformer with a rotated cache, one struct of arguments and
// one virtual function each, and class Backend, which every room (ref, fast, cuda, metal) derives.
//
// Every function call goes: check(args) -> supports(args) -> the backend. The checks live once, in
// ops.cpp, so that all backends refuse the same inputs with the same words.
//
// Whatever changes from step to step (positions, cells, lengths, targets) is an int32 view in the
// backend's memory, never a number in a struct. What such views contain is a precondition, kept by
// KvCache and the tools on the host. Equal structs are the same call, which may be replayed.
// Docs: docs/08-backends.md

#include "ref/rotation.h"
#include "ref/types.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>

namespace rotkv {

/// y = H S x on each row's blocks, or x = S H y with `inverse`; in f32, halves rounded at the end.
struct HadamardArgs {
    TensorView dst;  ///< [..][D] f32, f16 or bf16; may be src
    TensorView src;  ///< like dst, of its type
    Rotation rotation;
    bool inverse = false;

    bool operator==(const HadamardArgs&) const = default;
};

struct QuantizeArgs {
    TensorView dst;  ///< [..][D] any cache type
    TensorView src;  ///< [..][D] f32

    bool operator==(const QuantizeArgs&) const = default;
};

struct DequantizeArgs {
    TensorView dst;  ///< [..][D] f32
    TensorView src;  ///< [..][D] any cache or weight type

    bool operator==(const DequantizeArgs&) const = default;
};

/// Turns the first n_rot channels of every head by its token's row of the table.
struct RopeArgs {
    TensorView dst;    ///< [T][heads][D] f32; may be src
    TensorView src;    ///< like dst
    TensorView table;  ///< [rows][n_rot / 2][2] f32, from rope_table
    TensorView row;    ///< [T] i32: row of the table, one per token
    RopePairs pairs = RopePairs::norm;

    bool operator==(const RopeArgs&) const = default;
};

/// y = x / sqrt(mean(x^2) + epsilon) * weight, per row.
struct RmsNormArgs {
    TensorView dst;     ///< [..][D] f32; may be src
    TensorView src;     ///< like dst
    TensorView weight;  ///< [D] f32
    float epsilon = 0;

    bool operator==(const RmsNormArgs&) const = default;
};

/// What the factors of products may be rounded to. Sums are f32 or better.
enum class Precision {
    f32,   ///< not rounded
    f16,   ///< 11 significant bits
    bf16,  ///< 8 significant bits
};

/// "f32", "f16", "bf16".
const char* precision_name(Precision precision);

/// y[t, o] = sum_i w[o, i] x[t, i].
struct MatmulArgs {
    TensorView dst;     ///< [T][out] f32
    TensorView weight;  ///< [out][in] any weight type
    TensorView src;     ///< [T][in] f32
    Precision precision = Precision::f32;

    bool operator==(const MatmulArgs&) const = default;
};

/// Rotates, quantizes and scatters the batch's keys and values into the cache.
struct KvStoreArgs {
    TensorView k_cache;  ///< [S][C][K][Dk] cache type
    TensorView v_cache;  ///< [S][C][K][Dv] cache type; empty where V is a view of K
    TensorView k;        ///< [T][K][Dk] f32, position already in (RoPE)
    TensorView v;        ///< [T][K][Dv] f32; empty with v_cache
    TensorView stream;   ///< [T] i32
    TensorView cell;     ///< [T] i32; -1: this token is not stored
    Rotation k_rotation, v_rotation;

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
/// A cell is visible to a query of its stream when 0 <= pos_cell <= pos_q and, with a window,
/// pos_q - pos_cell < window; it takes part when it lies within the bounds too. No such cell
/// gives 0.
/// lse is the log of what softmax divides by: log(exp(sink) + sum_c exp(s_c)), -inf for an empty
/// sum. With it the outputs of calls that share out the cells, a sink among one of them, make that
/// of one call: o = sum_i exp(lse_i - lse) o_i, lse = log(sum_i exp(lse_i)).
struct AttentionArgs {
    TensorView dst;         ///< [T][H][Dv] f32
    TensorView lse;         ///< [T][H] f32 or empty
    TensorView q;           ///< [T][H][Dk] f32, not yet rotated
    TensorView k_cache;     ///< [S][C][K][Dk]
    TensorView v_cache;     ///< [S][C][K][Dv]; may be a view of k_cache
    TensorView position;    ///< [S][C] i32, -1: empty cell
    TensorView used;        ///< [S] i32: cells from here on are empty
    TensorView q_stream;    ///< [T] i32
    TensorView q_position;  ///< [T] i32, -1: sees nothing
    TensorView sinks;       ///< [H] f32 or empty: a score that takes probability and gives no value
    float scale = 1;
    float softcap = 0;   ///< c > 0: scores become c tanh(score / c)
    int64_t window = 0;  ///< 0: none
    CellBounds bounds;
    Rotation k_rotation, v_rotation;
    Precision precision = Precision::f32;  ///< or f16

    bool operator==(const AttentionArgs&) const = default;
};

/// Moves cached keys to other positions: to f32, back, RoPE by the difference, forward, store.
struct KvShiftArgs {
    TensorView k_cache;  ///< [S][C][K][Dk]
    TensorView table;    ///< [rows][n_rot / 2][2] f32, from rope_shift_table
    TensorView row;      ///< [S][C] i32: row of the table, -1: this cell stays
    RopePairs pairs = RopePairs::norm;
    Rotation k_rotation;

    bool operator==(const KvShiftArgs&) const = default;
};

enum class Activation {
    silu,       ///< x / (1 + exp(-x))
    gelu_tanh,  ///< x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
};

/// y = act(gate) * up.
struct ActMulArgs {
    TensorView dst;   ///< [..] f32; may be gate or up
    TensorView gate;  ///< like dst
    TensorView up;    ///< like dst
    Activation activation = Activation::silu;

    bool operator==(const ActMulArgs&) const = default;
};

/// y = a + b; strides of 0 repeat b (a bias).
struct AddArgs {
    TensorView dst;  ///< [..] f32; may be a
    TensorView a, b;

    bool operator==(const AddArgs&) const = default;
};

/// y[t] = scale * weight[token[t]].
struct EmbedArgs {
    TensorView dst;     ///< [T][E] f32
    TensorView weight;  ///< [V][E] any weight type
    TensorView token;   ///< [T] i32
    float scale = 1;

    bool operator==(const EmbedArgs&) const = default;
};

/// Negative log-likelihood of each row's target word, without a tokens x words matrix.
/// logit = softcap(hidden . weight[v]); nll = log(sum_v exp(logit_v)) - logit_target.
struct NllArgs {
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
    TensorView dst;     ///< [T][V] f32
    TensorView hidden;  ///< [T][E] f32
    TensorView weight;  ///< [V][E] any weight type
    float softcap = 0;

    bool operator==(const LogitsArgs&) const = default;
};

/// Yes, or no with a reason.
struct Support {
    bool yes = true;
    std::string reason;
};

/// Memory and operations of one kind of processor.
/// Operations may be asynchronous and run in the order of their calls; download() waits for them.
/// Each public operation checks its arguments, asks supports() and then runs, or throws
/// Error(bad_argument) or Error(unsupported): no other path or backend is taken in silence.
class Backend {
  public:
    virtual ~Backend() = default;
    virtual std::string name() const = 0;         ///< "ref", "fast", "cuda", ...
    virtual std::string description() const = 0;  ///< one line: instruction set, threads, device

    // Memory. import() makes existing bytes (a mapped file) readable for operations: host backends
    // alias them, devices copy; they are released by free_memory().
    virtual std::byte* allocate(std::size_t bytes) = 0;
    virtual void free_memory(std::byte* memory) = 0;
    virtual std::byte* import(std::span<const std::byte> bytes) = 0;
    virtual void upload(std::byte* dst, std::span<const std::byte> src) = 0;
    virtual void download(std::span<std::byte> dst, const std::byte* src) = 0;
    virtual void synchronize() = 0;

    // What the backend can do. The data pointers may be null. The defaults answer what holds for
    // everyone (block types need D % 32 = 0); a backend that can do less overrides and says why.
    virtual Support supports(const HadamardArgs& args) const;
    virtual Support supports(const QuantizeArgs& args) const;
    virtual Support supports(const DequantizeArgs& args) const;
    virtual Support supports(const RopeArgs& args) const;
    virtual Support supports(const RmsNormArgs& args) const;
    virtual Support supports(const MatmulArgs& args) const;
    virtual Support supports(const KvStoreArgs& args) const;
    virtual Support supports(const AttentionArgs& args) const;
    virtual Support supports(const KvShiftArgs& args) const;
    virtual Support supports(const ActMulArgs& args) const;
    virtual Support supports(const AddArgs& args) const;
    virtual Support supports(const EmbedArgs& args) const;
    virtual Support supports(const NllArgs& args) const;
    virtual Support supports(const KldArgs& args) const;
    virtual Support supports(const LogitsArgs& args) const;

    void hadamard(const HadamardArgs& args);
    void quantize(const QuantizeArgs& args);
    void dequantize(const DequantizeArgs& args);
    void rope(const RopeArgs& args);
    void rms_norm(const RmsNormArgs& args);
    void matmul(const MatmulArgs& args);
    void kv_store(const KvStoreArgs& args);
    void attention(const AttentionArgs& args);
    void kv_shift(const KvShiftArgs& args);
    void act_mul(const ActMulArgs& args);
    void add(const AddArgs& args);
    void embed(const EmbedArgs& args);
    void nll(const NllArgs& args);
    void kld(const KldArgs& args);
    void logits(const LogitsArgs& args);

  protected:
    virtual void run(const HadamardArgs& args) = 0;
    virtual void run(const QuantizeArgs& args) = 0;
    virtual void run(const DequantizeArgs& args) = 0;
    virtual void run(const RopeArgs& args) = 0;
    virtual void run(const RmsNormArgs& args) = 0;
    virtual void run(const MatmulArgs& args) = 0;
    virtual void run(const KvStoreArgs& args) = 0;
    virtual void run(const AttentionArgs& args) = 0;
    virtual void run(const KvShiftArgs& args) = 0;
    virtual void run(const ActMulArgs& args) = 0;
    virtual void run(const AddArgs& args) = 0;
    virtual void run(const EmbedArgs& args) = 0;
    virtual void run(const NllArgs& args) = 0;
    virtual void run(const KldArgs& args) = 0;
    virtual void run(const LogitsArgs& args) = 0;
};

/// A block of a backend's memory, freed with the object.
class Buffer {
  public:
    Buffer() = default;
    Buffer(Backend& backend, std::size_t bytes);
    ~Buffer();
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;

    std::byte* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }

    /// A view of the block's beginning. Throws Error(bad_argument) if it is larger than the block.
    TensorView view(DType type, std::initializer_list<int64_t> extents) const;

    void upload(std::span<const std::byte> src) const;
    void download(std::span<std::byte> dst) const;

  private:
    Backend* backend_ = nullptr;
    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
};

/// Throws Error(bad_argument) naming operation, argument, expected and found.
void check(const HadamardArgs& args);
void check(const QuantizeArgs& args);
void check(const DequantizeArgs& args);
void check(const RopeArgs& args);
void check(const RmsNormArgs& args);
void check(const MatmulArgs& args);
void check(const KvStoreArgs& args);
void check(const AttentionArgs& args);
void check(const KvShiftArgs& args);
void check(const ActMulArgs& args);
void check(const AddArgs& args);
void check(const EmbedArgs& args);
void check(const NllArgs& args);
void check(const KldArgs& args);
void check(const LogitsArgs& args);

}  // namespace rotkv
