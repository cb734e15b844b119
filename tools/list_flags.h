#pragma once
// Flags that take a list, "a,b,c": of cache types, of rotations, of whatever has words.
// Docs: docs/12-sweeps.md

#include "tools/cli.h"
#include "tools/rotation_flags.h"

#include <string>
#include <vector>

namespace rotkv::tools {

/// The parts of "a,b,c". Throws Error(usage), naming the flag, where one of them stands there
/// twice.
std::vector<std::string> parts_of(const char* flag, const std::string& list);

/// Of an option that was given: what is wrong with an empty list (CLI11's check()).
std::string refuse_empty(const std::string& list);

/// As parse_cache_type() reads each.
std::vector<CacheType> types_of(const char* flag, const std::string& list);

/// usual_cache_types() as such a list.
std::string usual_types();

/// Rotations of both sides, as parse_asked_rotation() reads each.
std::vector<AskedRotation> rotations_of(const char* flag, const std::string& list);

}  // namespace rotkv::tools
