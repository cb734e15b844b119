#pragma once
// What layers without cells keep of a stream (gated DeltaNet): a state of fixed size, whatever the
// length of its text. Two tensors a layer, as conv_step and delta_step read and replace them.
//   A state holds all tokens of its stream at once. It cannot give one back: who wants to return
//   to an earlier token copies the state there, or computes it again from the beginning.
//   Positions play no part in it; which one comes next is kept so that a gap does not pass.
// Docs: docs/04-kv-cache.md

#include "ref/backend.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv {

/// What one layer keeps of a stream.
struct RecurrentLayer {
    int64_t heads = 0;     ///< Hv, matrices; 0: this layer has no state
    int64_t d = 0;         ///< D, of a matrix [D][D]
    int64_t channels = 0;  ///< of the convolution
    int64_t taps = 0;      ///< n, of which n - 1 inputs are kept

    bool operator==(const RecurrentLayer&) const = default;

    int64_t bytes_per_stream() const;
};

struct RecurrentShape {
    int64_t streams = 1;
    std::vector<RecurrentLayer> layers;

    bool operator==(const RecurrentShape&) const = default;

    int64_t n_layers() const { return int64_t(layers.size()); }
    int64_t bytes_per_stream() const;
};

/// The positions of a stream's tokens: first <= p < next. None where they are equal.
struct Held {
    int32_t first = 0, next = 0;

    bool operator==(const Held&) const = default;
};

class RecurrentState {
  public:
    /// All streams are empty. Throws Error(bad_argument) for extents that are not positive.
    RecurrentState(Backend& backend, const RecurrentShape& shape);

    const RecurrentShape& shape() const { return shape_; }

    // Empty for a layer without a state.
    TensorView inputs(int64_t layer) const;    ///< [S][n - 1][channels] f32, the oldest first
    TensorView matrices(int64_t layer) const;  ///< [S][Hv][D][D] f32

    /// Which tokens each stream holds.
    std::span<const Held> held() const { return held_; }

    /// The batch will be stepped through: each token must have the position that comes next in its
    /// stream, 0 in an empty one.
    /// Throws, and changes nothing: Error(bad_argument) for an unknown stream, Error(unsupported)
    /// that names stream, expected and found for another position.
    void place(std::span<const int32_t> streams, std::span<const int32_t> positions);

    /// Throws what place() would. Where a cache takes the same batch and may refuse it too, this is
    /// asked first and place() comes last.
    void require_next(std::span<const int32_t> streams, std::span<const int32_t> positions) const;

    /// Empties a stream: zeros.
    void clear(int64_t stream);

    /// Makes stream `to` what `from` is, without a way through the host.
    void copy(int64_t from, int64_t to);

    /// As KvCache::remove and shift, where a state can follow: of all its tokens, or of none.
    /// A shift leaves the state as it is.
    /// Throws, and changes nothing: Error(unsupported) that names what lies on both sides;
    /// Error(bad_argument) for an unknown stream, or positions below 0.
    void remove(int64_t stream, int32_t from, int32_t to);
    void shift(int64_t stream, int32_t from, int32_t to, int32_t difference);

    /// Throws what shift() would.
    void require_shift(int64_t stream, int32_t from, int32_t to, int32_t difference) const;

    // What a saved state consists of.

    /// Layer after layer: inputs, then matrices.   [shape().bytes_per_stream()]
    std::vector<std::byte> contents(int64_t stream) const;

    /// Replaces them, and which tokens they are of. Throws Error(bad_argument) for another number
    /// of bytes, or positions that are none.
    void set_contents(int64_t stream, std::span<const std::byte> bytes, const Held& held);

  private:
    enum class Reach { none, all };
    void require_stream(int64_t stream) const;
    std::vector<Held> held_after(std::span<const int32_t> streams,
                                 std::span<const int32_t> positions) const;
    Held held_after_shift(int64_t stream, int32_t from, int32_t to, int32_t difference) const;
    Reach reach(int64_t stream, int32_t from, int32_t to, const char* what) const;
    template <class Visit>
    void each_part(int64_t stream, const Visit& visit) const;

    Backend& backend_;
    RecurrentShape shape_;
    std::vector<Held> held_;                              ///< [S]
    std::vector<int64_t> inputs_begin_, matrices_begin_;  ///< [layers]: in memory_, in bytes
    Buffer memory_;
};

}  // namespace rotkv
