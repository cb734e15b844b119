#pragma once
// The ladders of kernels (cuda/ladder.h) as backends: each is the backend cuda, whose hadamard or
// attention is one version. So whatever judges or times a backend judges and times a version.
// Docs: docs/05-attention.md

#include "ref/backend.h"

#include <memory>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One version of one ladder.
struct LadderVersion {
    std::string ladder;  ///< "hadamard", "decode", "prefill"
    std::string name;    ///< "3_warp"
    std::unique_ptr<Backend> backend;
};

/// Every version, from the plainest of each ladder to the operation itself. Calls that a version
/// does not take are unsupported. Calls of it are kept, and run by the next call that waits or is
/// none of its own.
/// Throws as make_backend("cuda").
std::vector<LadderVersion> ladder_versions();

}  // namespace rotkv::tools
