#pragma once
// How a text goes on when its stream of a cache is full: the older half of what is not kept goes,
// and the rest moves up. As llama.cpp does it; d is its n_discard.
//   positions    0 .. keep - 1   keep .. keep + d - 1   keep + d .. n - 1    d = (n - keep) / 2
//   afterwards   0 .. keep - 1   gone                   keep .. n - d - 1
// Docs: docs/04-kv-cache.md

#include "ref/kv_cache.h"

#include <cstdint>
#include <functional>

namespace rotkv {

/// d, rounded down; 0 where all n tokens are kept.
int64_t dropped_by_shift(int64_t n, int64_t keep);

/// Throws what shift_context() would throw for any n, to be asked before a long text:
/// Error(unsupported) where layers keep a state; what KvCache::shift refuses in a layer, and what
/// the backend does not support.
void require_shift(KvCache& cache, const std::function<RopeConfig(int64_t layer)>& rope);

/// Shifts a stream that holds the positions 0 .. n - 1; returns d. `rope` as in KvCache::shift.
/// Throws, and changes no position: Error(bad_argument) where there is nothing to drop; what
/// KvCache::remove and KvCache::shift throw.
int64_t shift_context(KvCache& cache, int64_t stream, int64_t n, int64_t keep,
                      const std::function<RopeConfig(int64_t layer)>& rope);

}  // namespace rotkv
