#pragma once
// The cache of keys and values: who sits in which cell, at which position.
//   K, V of a layer: [stream][cell][kv head][D], one strip of cells per stream, no ring
//   positions: one int32 [stream][cell] shared by all layers, -1 for an empty cell
// Layers that keep a state instead (gated DeltaNet) have it beside the cells, and go with them.
// The class picks and bounds-checks cells on the host and owns the memory; kv_store and attention
// work on the views it hands out.
// Docs: docs/04-kv-cache.md

#include "ref/backend.h"
#include "ref/cache_type.h"
#include "ref/placement.h"
#include "ref/recurrent_state.h"
#include "ref/rope_table.h"
#include "ref/rotation.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

/// What one layer keeps of a token.
struct KvLayer {
    int64_t kv_heads = 0;  ///< K; 0: this layer keeps no keys and values
    int64_t d_k = 0, d_v = 0;
    CacheType type_k = DType::f16, type_v = DType::f16;
    bool v_in_k = false;  ///< V is a view of K's channels v_first .. v_first + d_v (MLA)
    int64_t v_first = 0;
    std::optional<int64_t> source =
        {};                      ///< an earlier layer, alike, whose rows it reads; none: its own
    RecurrentLayer recurrent{};  ///< what it keeps of a stream instead; none: no heads
    Rotation in_weights{};       ///< that V has before it comes here; of a latent row, the row

    bool operator==(const KvLayer&) const = default;

    const CacheType& type(Side side) const { return side == Side::k ? type_k : type_v; }

    /// Bytes of one token's rows, K and V.
    int64_t bytes_per_token() const;

    /// Bytes of the rows in f16 that a token has besides: of sides whose type is of few bits.
    int64_t f16_bytes_per_token() const;
};

/// The extents and types of a cache.
struct KvShape {
    int64_t streams = 1, cells = 0;
    std::vector<KvLayer> layers;  ///< all alike: std::vector<KvLayer>(count, layer)
    F16Tokens f16_tokens{};

    bool operator==(const KvShape&) const = default;

    int64_t n_layers() const { return int64_t(layers.size()); }

    /// Bytes that one token takes in all layers, in their types.
    int64_t bytes_per_token() const;

    /// Bytes of the rows in f16 that a full stream has besides: those of f16_tokens, no more of
    /// them than there are cells.
    int64_t f16_bytes_per_stream() const;

    /// The states of all layers; those of no layer where none keeps one.
    RecurrentShape recurrent() const;
};

/// The index views of one batch, valid until the next place().
struct KvBatch {
    TensorView stream;    ///< [T] i32
    TensorView cell;      ///< [T] i32
    TensorView position;  ///< [T] i32
};

/// Rows of a layer for one part of its tokens, and how they are turned.
struct KvRows {
    TensorView k, v;
    Rotation k_rotation{}, v_rotation{};
};

class KvCache {
  public:
    /// Throws Error(unsupported) for a block type with D % 32 != 0, Error(bad_argument) for extents
    /// that are not positive, a spec whose block does not divide D or whose matrices are of another
    /// size, a V inside K that is not turned as K is or cuts a block of K's type or rotation, or a
    /// layer that is not like the one whose rows it reads; Error(unsupported) for a format of
    /// groups of G tokens where fewer than G - 1 recent ones are read in f16.
    KvCache(Backend& backend, const KvShape& shape, const RotationSpec& spec);

    const KvShape& shape() const { return shape_; }
    const RotationSpec& spec() const { return spec_; }

    /// Gives every token a cell of its stream and writes the positions.
    /// Throws, and changes nothing: Error(bad_argument) for an unknown stream, a negative position
    /// or a full stream; where layers keep a state, Error(unsupported) for a position that is not
    /// the next one of its stream; where types keep groups, for one that is not the next of its
    /// group, or begins one in a cell that does not.
    /// Cost: the batch, and what lies between its cells; not the cells in use.
    KvBatch place(std::span<const int32_t> streams, std::span<const int32_t> positions);

    // Of the layer that `source` names, where there is one; empty where a layer keeps nothing.
    TensorView k(int64_t layer) const;  ///< [S][C][K][Dk]
    TensorView v(int64_t layer) const;  ///< [S][C][K][Dv]
    /// What kv_store needs to know of the rows of a side that are kept in a format of the zoo,
    /// whose cells k() and v() are f32; nothing for other types. Of a V inside K: nothing.
    FormatRows format_rows(int64_t layer, Side side) const;

    /// The matrices that turn a side, [K][D][D] or one for all heads [1][D][D], f32, in the
    /// backend's memory; empty where none does.
    TensorView matrix(int64_t layer, Side side) const;

    /// Where a layer keeps rows in f16 too, those of all tokens, not turned, so that any of them
    /// can be recent to some query; a side that is not of few bits has k() or v() itself. What
    /// shape().f16_bytes_per_stream() counts is what a ring of them would take. Empty: it keeps
    /// none.
    KvRows f16_rows(int64_t layer) const;

    TensorView positions() const;  ///< [S][C] i32
    TensorView used() const;       ///< [S] i32

    /// What layers without cells keep; null: there are none.
    const RecurrentState* state() const { return state_ ? &*state_ : nullptr; }

    /// Moves the tokens of `stream` at positions [from, to) by `difference` and turns their keys.
    /// `rope` gives the position embedding of each layer; one with n_rot = 0 does not turn. Of a
    /// layer whose V lies in its K, the channels behind V turn.
    /// Throws, and changes nothing: Error(unsupported) for tokens that would become first ones, or
    /// recent ones, whose rows in f16 a cache of that size no longer has;
    /// Error(bad_argument) for tokens that would get a negative
    /// position; Error(unsupported) naming a layer whose V would turn with its K, or a state that
    /// holds other tokens too, or where tokens would leave their group; what the backend refuses in
    /// one of the layers.
    void shift(int64_t stream, int32_t from, int32_t to, int32_t difference,
               const std::function<RopeConfig(int64_t layer)>& rope);

    /// Empties the cells of `stream` at positions [from, to).
    /// Throws, and changes nothing: Error(unsupported) for a state that holds other tokens too, for
    /// a part of a full group, or one of another but its last tokens.
    void remove(int64_t stream, int32_t from, int32_t to);

    /// Empties every cell; the memory stays.
    void clear();

    // What a saved cache consists of (ref/files/cache_file.h).

    /// That there are no rows in f16 beside those of the types, which are not saved.
    /// Throws: Error(unsupported).
    void require_one_kind_of_rows() const;

    /// The host's copy of positions().
    std::span<const int32_t> host_positions() const { return position_; }

    /// Copies the first cells of a stream out of one layer, or into it: as many as `bytes` holds,
    /// [cell][kv head][D] in the type of that side, bytes of its format where it has one. Only of
    /// layers with rows of their own, Side::v only where V does not lie in K. What is written into
    /// empty cells of a format is not looked at: positions come first.
    void read_cells(int64_t layer, int64_t stream, Side side, std::span<std::byte> bytes) const;
    void write_cells(int64_t layer, int64_t stream, Side side, std::span<const std::byte> bytes);

    /// Replaces all positions, [S][C], -1 for an empty cell; states are left alone. Throws
    /// Error(bad_argument) for another number of cells.
    void set_positions(std::span<const int32_t> positions);

    /// The states, for who puts back what they held; set_positions() does not touch them.
    /// Precondition: state() is not null.
    RecurrentState& mutable_state() { return *state_; }

  private:
    const KvLayer& layer_at(int64_t layer) const { return shape_.layers[size_t(layer)]; }
    TensorView rows(int64_t layer, int64_t begin, const CacheType& type, int64_t d) const;
    TensorView v_inside(int64_t layer, const TensorView& k) const;
    void require_f16_rows(std::span<const int32_t> moved, int32_t difference) const;
    void require_in_groups(std::span<const int32_t> streams, std::span<const int32_t> positions,
                           std::span<const int32_t> cells) const;
    void require_whole_groups(int64_t stream, std::span<const int32_t> after) const;
    void decode_cells(const FormatRows& rows, int64_t stream, int64_t cells) const;
    std::vector<int32_t> choose_cells(std::span<const int32_t> streams,
                                      std::span<const int32_t> positions,
                                      std::vector<int64_t>& next) const;
    std::vector<int64_t> turning_layers(const std::function<RopeConfig(int64_t)>& rope) const;
    KvShiftArgs turning_part(int64_t layer, const RopeConfig& rope, const TensorView& k) const;
    TensorView turning_matrix(int64_t layer) const;
    void upload_matrices();
    void turn_keys(std::span<const int64_t> layers, std::span<const int32_t> row,
                   std::span<const int32_t> moved, int32_t difference,
                   const std::function<RopeConfig(int64_t)>& rope) const;
    void upload_positions(int64_t stream, int64_t begin, int64_t end) const;
    void upload_used() const;

    Backend& backend_;
    KvShape shape_;
    RotationSpec spec_;
    std::vector<int64_t> groups_;             ///< how many tokens types keep together, if several
    std::vector<int32_t> position_;           ///< [S][C], the host's copy
    std::vector<int32_t> used_;               ///< [S]: one past the last cell in use
    std::vector<int64_t> taken_;              ///< [S]: no cell before this one is empty
    std::vector<int64_t> k_begin_, v_begin_;  ///< [layers]: where its rows begin in rows_, in bytes
    std::vector<int64_t> k_f16_begin_, v_f16_begin_;  ///< [layers]: and those in f16
    /// [layers][2]: rows of formats, [S][C][K] of row_bytes each; empty for other types
    mutable std::vector<std::vector<std::byte>> codes_;
    Buffer rows_, position_memory_, used_memory_, batch_memory_;
    std::vector<Buffer> matrix_memory_;         ///< of each matrix there is
    std::vector<int64_t> k_matrix_, v_matrix_;  ///< [layers]: which of them; -1: none
    std::optional<RecurrentState> state_;
};

}  // namespace rotkv
