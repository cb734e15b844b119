#pragma once
// How K and V are turned on their way into the cache: a value that is stored with, compared and
// handed to kernels.
//   forward y = H S x,  back x = S H y,  H the normalized Hadamard matrix, S a diagonal of signs
// Kernels take one Rotation for each layer and side, which all its heads share. What differs from
// head to head, or is no Hadamard matrix, is a RotationMatrix beside it: rotation_matrix.h.
// Docs: docs/04-kv-cache.md

#include "ref/rotation_matrix.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rotkv {

/// One side's rotation of one head: blocks of `block` channels, each multiplied by H.
struct Rotation {
    enum class Kind {
        none,       ///< the identity
        sylvester,  ///< H alone
        signs,      ///< random signs first, then H ("randomized Hadamard")
    };
    Kind kind = Kind::none;
    int64_t block = 0;  ///< N, a power of two that divides the head size: fits()
    uint64_t seed = 0;  ///< of the signs
    int64_t first = 0;  ///< channel of the head where the row starts; not 0 only for a V inside K

    bool on() const { return kind != Kind::none; }

    /// Can heads of d channels be turned by it?
    bool fits(int64_t d) const {
        return !on() || (block > 0 && (block & (block - 1)) == 0 && d % block == 0);
    }
    bool operator==(const Rotation&) const = default;
};

/// The sign of channel i: -1 if bit 63 of the i-th output of SplitMix64 started at `seed` is set,
/// else +1. Seed 0 begins - + + - + + + - + - + -.
float rotation_sign(uint64_t seed, int64_t i);

/// 1 / sqrt(N) in f32: what every backend multiplies by before the butterflies.
float rotation_scale(int64_t block);

enum class Side { k, v };

/// The rotations of one cache, layer by layer, each with the reason for it.
class RotationSpec {
  public:
    struct Layer {
        Rotation k = {}, v = {};
        std::string k_reason = "not asked for", v_reason = "not asked for";  ///< for people
        MatrixPointer k_matrix = {}, v_matrix = {};  ///< in place of k and v, which are none then

        bool operator==(const Layer&) const = default;
    };

    RotationSpec() = default;  ///< none in any layer

    /// One entry a layer; layers behind the last entry are like that one.
    /// Throws Error(bad_argument) where there is none, or one with a matrix beside a rotation.
    explicit RotationSpec(std::vector<Layer> layers);

    /// The same in every layer.
    static RotationSpec of(const Rotation& k, const Rotation& v) {
        return RotationSpec({Layer{.k = k, .v = v}});
    }

    /// That the kernels compute.
    const Rotation& at(int64_t layer, Side side) const {
        return side == Side::k ? entry(layer).k : entry(layer).v;
    }
    /// That `turn` computes; null: none.
    const MatrixPointer& matrix(int64_t layer, Side side) const {
        return side == Side::k ? entry(layer).k_matrix : entry(layer).v_matrix;
    }
    /// Is the side turned, by one or the other?
    bool turns(int64_t layer, Side side) const {
        return at(layer, side).on() || matrix(layer, side) != nullptr;
    }
    const std::string& reason(int64_t layer, Side side) const {
        return side == Side::k ? entry(layer).k_reason : entry(layer).v_reason;
    }

    /// The entries: 1 where all layers are alike, reasons included.
    int64_t entries() const { return int64_t(layers_.size()); }

    /// Equal if every layer is rotated alike; reasons do not count.
    bool operator==(const RotationSpec& other) const;

  private:
    const Layer& entry(int64_t layer) const {
        return layers_[std::min(size_t(layer), layers_.size() - 1)];
    }

    std::vector<Layer> layers_ = std::vector<Layer>(1);
};

}  // namespace rotkv
