#pragma once
// Words that ask for a rotation of K and of V at once.
// Docs: docs/23-matrix-rotations.md

#include "ref/rotation_policy.h"

#include <optional>
#include <string>

namespace rotkv::tools {

/// What such a word may be: rotation_choices(), or one whose matrices are of two files.
std::string rotation_choices_of_both();

/// Reads it: find_rotation()'s words, the same for both sides, or calibrated:PREFIX, which is
/// file:PREFIX-k.npy for K and file:PREFIX-v.npy for V, as rotkv-calibrate writes them; nothing for
/// any other text.
/// Throws: as find_rotation().
std::optional<RotationRequest> find_rotation_of_both(const std::string& origin,
                                                     const std::string& text);

}  // namespace rotkv::tools
