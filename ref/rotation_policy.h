#pragma once
// Which rotation a cache gets, and why: llama.cpp's rule, and what a user asks for instead.
// Docs: docs/04-kv-cache.md

#include "ref/kv_cache.h"
#include "ref/rotation.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace rotkv {

/// What a user asked for, per side; `automatic` follows the policy.
struct RotationRequest {
    enum class Mode {
        automatic,  ///< on exactly if the type is quantized and rotates no rows itself, D % 64 = 0,
                    ///< and V has rows of its own
        off,
        on,     ///< the policy's block, whatever the type
        value,  ///< this rotation, which is one, whatever the type
        matrix  ///< by matrices, whatever the type
    };
    struct PerSide {
        Mode mode = Mode::automatic;
        Rotation value = {};            ///< of Mode::value
        std::string origin = "policy";  ///< who asked: "policy", a flag, an environment variable
        std::shared_ptr<const MatrixSource> matrix = {};  ///< of Mode::matrix
    };
    PerSide k, v;
    std::optional<uint64_t> signs =
        {};  ///< seed of random signs, where a value does not name its own

    /// The same for both sides.
    static RotationRequest both(const PerSide& side) { return {.k = side, .v = side}; }
};

/// Reads "auto", "off", "on", BLOCK or BLOCK:SEED; nothing for any other text: where V starts in K
/// is no request, and to ask for none is "off".
std::optional<RotationRequest::PerSide> parse_request(std::string_view text,
                                                      const std::string& origin);

/// Decides both sides of every layer, from that layer's types and head sizes.
/// Policy: block of K = the largest power of two dividing D_k; block of V = 64. Where V is a view
///         of K, a latent row, `automatic` leaves both as they are and `on` takes blocks of 64; V
///         has K's rotation, its signs from the channel where it starts. What the weights have
///         turned (KvLayer::in_weights), `automatic` leaves alone; anything else comes on top.
///         Matrices are asked for channels that may turn together: of a latent row V's, and those
///         behind, apart from each other; a layer that reads another's rows has that one's.
/// Throws: Error(usage), beginning with who asked, for `on` with D % 64 != 0, a block that is no
///         power of two dividing D, a view of K that K's blocks cut, another rotation asked for it,
///         signs that no side takes, or matrices that there are none of; Error(unsupported) for a
///         view of K in another type.
RotationSpec decide_rotation(const RotationRequest& request, const KvShape& shape);

}  // namespace rotkv
