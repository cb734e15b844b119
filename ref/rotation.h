#pragma once
// Which rotation K and V are stored under, and why: a value that is printed, saved and compared.
//   forward y = H S x,  back x = S H y,  H the normalized Hadamard matrix, S a diagonal of signs
// Docs: docs/04-kv-cache.md

#include "ref/types.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace rotkv {

/// One side's rotation of one head: blocks of `block` channels, each multiplied by H.
struct Rotation {
    enum class Kind {
        none,       ///< the identity
        sylvester,  ///< H alone
        signs,      ///< random signs first, then H ("randomized Hadamard")
    };
    Kind kind = Kind::none;
    int64_t block = 0;  ///< N, a power of two that divides the head size
    uint64_t seed = 0;  ///< of the signs
    int64_t first = 0;  ///< channel of the head where the row starts; not 0 only for a V inside K

    bool on() const { return kind != Kind::none; }
    bool operator==(const Rotation&) const = default;
};

/// The sign of channel i: -1 if bit 63 of the i-th output of SplitMix64 started at `seed` is set,
/// else +1. Seed 0 begins - + + - + + + - + - + -.
/// Source: Steele, Lea, Flood 2014 (the generator).
float rotation_sign(uint64_t seed, int64_t i);

/// 1 / sqrt(N) in f32: what every backend multiplies by before the butterflies.
float rotation_scale(int64_t block);

enum class Side { k, v };

/// What a user asked for, per side; `automatic` follows the policy.
struct RotationRequest {
    enum class Mode {
        automatic,  ///< on exactly if the type is quantized and D % 64 = 0 (llama.cpp's rule)
        off,
        on,    ///< the policy's block, whatever the type
        block  ///< this block, whatever the type
    };
    struct PerSide {
        Mode mode = Mode::automatic;
        int64_t block = 0;
        std::string origin = "policy";  ///< who asked: "policy", "--rot-k", an environment variable
    };
    PerSide k, v;
    std::optional<uint64_t> signs;  ///< seed of random signs, for both sides
};

/// Parses "auto", "off", "on" or a block size. Throws Error(usage) naming `origin`.
RotationRequest::PerSide parse_rotation(std::string_view text, const std::string& origin);

/// A request from the environment: LLAMA_ATTN_ROT_DISABLE (both sides, read with atoi as llama.cpp
/// does), then LLAMA_ATTN_ROT_K_OVERRIDE and _V_OVERRIDE (0 off, 1 on), which win over it.
RotationRequest rotation_from_environment();

/// The rotation of every layer, head and side of one cache, with the reasons.
class RotationSpec {
  public:
    RotationSpec() = default;  ///< no rotation, reason "not asked for"

    /// Decides both sides.
    /// Policy: block of K = the largest power of two dividing D_k; block of V = 64.
    /// Throws Error(usage) for `on` with D % 64 != 0 or a block that is no power of two dividing D.
    static RotationSpec decide(const RotationRequest& request, DType type_k, int64_t d_k,
                               DType type_v, int64_t d_v);

    /// The same where V is a view of K that starts at channel `first`: V takes K's rotation.
    static RotationSpec decide_shared(const RotationRequest& request, DType type, int64_t d_k,
                                      int64_t first, int64_t d_v);

    /// Just these two, whatever the types.
    static RotationSpec of(const Rotation& k, const Rotation& v);

    /// The rotation of one head. Today all layers and heads are equal; callers ask anyway, so that
    /// a spec per head can come from a file without touching them.
    Rotation at(int64_t layer, int64_t kv_head, Side side) const;

    const std::string& reason(Side side) const { return side == Side::k ? k_reason_ : v_reason_; }

    /// For people: "sylvester, block 64 (policy: q8_0 is quantized, D = 64)" or
    /// "off (policy: f16 is not quantized)".
    std::string words(Side side) const;

    /// For files: "k=sylvester/64 v=signs/64/7". parse() reads it back; reasons are not kept.
    std::string serialize() const;
    static RotationSpec parse(std::string_view text);

    /// Equal if every head is rotated alike; reasons do not count.
    bool operator==(const RotationSpec& other) const { return k_ == other.k_ && v_ == other.v_; }

  private:
    Rotation k_, v_;
    std::string k_reason_ = "not asked for", v_reason_ = "not asked for";
};

}  // namespace rotkv
