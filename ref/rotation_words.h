#pragma once
// Rotations in words. Wherever one is named, by a flag, a case, a file or a table, it is spelled
//   none             not rotated
//   64               H alone, in blocks of 64 channels
//   64:7             the random signs of seed 7, then H
//   64:7:32          the same for a row that starts at channel 32 of its head (V inside K)
//   matrix:HASH      by matrices (rotation_matrix.h), 16 hexadecimal digits
// Only the second and the third can be asked for: rotation_policy.h; matrices have words of their
// own.
// Docs: docs/04-kv-cache.md

#include "ref/rotation.h"

#include <optional>
#include <string>
#include <string_view>

namespace rotkv {

/// "none", "64", "64:7", "64:7:32".
std::string rotation_name(const Rotation& rotation);

/// The same of a side of a cache: "matrix:0123456789abcdef" where matrices turn it.
std::string rotation_name(const RotationSpec& spec, int64_t layer, Side side);

/// Reads rotation_name() back, matrices excepted; nothing for any other text. Which blocks a head
/// can have is not checked here.
std::optional<Rotation> parse_rotation(std::string_view text);

/// A number from 0 to 2^64 - 1, or nothing.
std::optional<uint64_t> parse_seed(std::string_view text);

/// "none", "sylvester", "signs".
const char* kind_name(Rotation::Kind kind);

/// For people: "sylvester, block 64 (policy: q8_0 is quantized, D = 64)",
/// "off (policy: f16 is not quantized)" or "dense:7, matrix:0123456789abcdef (--rot-k)".
std::string describe(const RotationSpec& spec, int64_t layer, Side side);

/// The older spelling of a layer, "k=sylvester/64 v=signs/64/7", of saved caches and of sweeps. It
/// is written to be compared and never read.
std::string saved_words(const RotationSpec& spec, int64_t layer);

}  // namespace rotkv
