#pragma once
// The ladders of kernels (fast/ladder.h, fast/decode.h, fast/matvec.h,
// fast/packed_products.h; cuda/ladder.h) as backends:
// each is the backend fast or cuda, of which one operation is one version. So whatever judges or
// times a backend judges and times a version.
// Docs: docs/05-attention.md

#include "ref/backend.h"

#include <memory>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One version of one ladder.
struct LadderVersion {
    std::string ladder;  ///< "hadamard", "decode", "prefill", "matvec", "products"
    std::string name;    ///< "3_warp"
    std::unique_ptr<Backend> backend;
};

/// Every version of cuda's, from the plainest of each ladder to the operation itself. Calls that a
/// version does not take are unsupported. Calls of it are kept, and run by the next call that waits
/// or is none of its own.
/// Throws as make_backend("cuda").
std::vector<LadderVersion> ladder_versions();

/// Likewise those of fast, on so many threads; they run when they are called.
std::vector<LadderVersion> fast_ladder_versions(int threads);

}  // namespace rotkv::tools
