#pragma once
// Our saved caches for people and as JSON: what a file holds, and two beside each other.
// Docs: docs/24-saved-caches.md

#include "tools/saved_beside.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <string>

namespace rotkv::tools {

/// Model, tokens of each stream, and a line for all layers that are alike: types, rotations, bytes.
/// Throws as shape_of().
nlohmann::ordered_json describe(const SavedCache& saved, std::FILE* out);

/// Of each side how much differs, from which layer on and by how much; `heads`: a table of them
/// all.
void print_beside(std::FILE* out, const SavedBeside& beside, bool heads);

nlohmann::ordered_json json_of(const SavedBeside& beside);

/// No element is further apart than so many steps; where there are no steps, none differs.
bool within(const SavedBeside& beside, double most_steps);

}  // namespace rotkv::tools
