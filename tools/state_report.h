#pragma once
// Caches that llama.cpp saved, for people and as JSON: what a file says, and what its bytes hold.
// Docs: docs/24-saved-caches.md

#include "tools/state_beside.h"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace rotkv::tools {

/// What the file says of itself.
nlohmann::ordered_json describe(const LlamaState& state, std::FILE* out);

/// All layers of a side that are alike, in three lines; `layers`: a table of each; a verdict.
void print_beside(std::FILE* out, const StateBeside& beside, bool layers);

nlohmann::ordered_json json_of(const StateBeside& beside);

}  // namespace rotkv::tools
