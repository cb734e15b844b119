#pragma once
// A call in words, for errors: "matmul (dst f32 [1][1][7][64], weight q8_0 [1][1][64][32], ...)".
// Docs: docs/08-backends.md

#include "ref/backend.h"

#include <string>

namespace rotkv::cuda {

/// The operation's name and its tensors but for those of integers, in the order of its struct.
std::string words_of(const Call& call);

}  // namespace rotkv::cuda
