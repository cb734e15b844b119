#pragma once
// What a sweep is asked for: lists of types, formats and rotations, separated by commas.
// Docs: docs/12-sweeps.md

#include "ref/cache_type.h"

#include <string>
#include <vector>

namespace rotkv::tools {

/// The types of K and V that are measured with each other.
struct SweepTypes {
    std::vector<CacheType> k, v;
    bool same = false;  ///< v is k, and K and V of a cell are of one type
};

/// Every type that caches have kernels for, then every format that the zoo lists.
std::vector<std::string> all_cache_types();

/// Lists of two sides, or one of `formats` for both at once, where `all` stands for
/// all_cache_types().
/// Throws: Error(usage) that names the flag, for no type and for one that stands there twice.
SweepTypes parse_sweep_types(const std::string& k, const std::string& v,
                             const std::string& formats);

}  // namespace rotkv::tools
