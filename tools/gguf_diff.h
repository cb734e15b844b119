#pragma once
// What two GGUF files differ in.
// Docs: docs/06-gguf.md

#include "ref/files/gguf.h"

#include <string>
#include <vector>

namespace rotkv::tools {

/// One printable line a difference, "key: what a has | what b has": metadata first, then tensors.
/// Numbers are compared by their bits: a NaN equals itself, and 0 differs from -0. So are tensors
/// of types that are not readable here, as far as they can reach.
std::vector<std::string> differences(const GgufFile& a, const GgufFile& b);

}  // namespace rotkv::tools
