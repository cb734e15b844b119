#pragma once
// From calls to launches: neighbours that one kernel can do together become one launch, with the
// results, to the bit, of one call after the other; but for products of one token behind its norm,
// which are multiplied by the norm's scale when they are summed and agree within the table's
// rounding. For one token, when a kernel takes two microseconds whatever it does, the number of
// launches is the time.
// Docs: docs/08-backends.md

#include "cuda/recorder.h"

#include <cstddef>
#include <span>

namespace rotkv::cuda {

/// So many calls from the first one on are one launch; 1 where nothing can be joined to it.
std::size_t joined(std::span<const Call> calls);

/// Launches all calls, in their order. Throws what the operations throw, a refusal
/// (failure.h) with the operation's words before it.
void launch(std::span<const Call> calls, const Workspace& workspace, Products& products);

}  // namespace rotkv::cuda
