#pragma once
// The way back in a cache: what a run adds is taken off again, from states too, which cannot forget
// a token by themselves.
// Docs: docs/14-generate.md

#include "ref/kv_cache.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rotkv::tools {

/// A cache as it is now. Rows are not copied: those of cells that are taken stay where they are.
class CacheMark {
  public:
    explicit CacheMark(const KvCache& cache)
        : positions_(cache.host_positions().begin(), cache.host_positions().end()) {
        if (cache.state() == nullptr) return;
        held_.assign(cache.state()->held().begin(), cache.state()->held().end());
        for (std::size_t stream = 0; stream < held_.size(); ++stream) {
            states_.push_back(cache.state()->contents(int64_t(stream)));
        }
    }

    /// Empties the cells that were filled since, and sets states back. Precondition: the same
    /// cache, from which nothing was removed since.
    void restore(KvCache& cache) const {
        cache.set_positions(positions_);
        for (std::size_t stream = 0; stream < held_.size(); ++stream) {
            cache.mutable_state().set_contents(int64_t(stream), states_[stream], held_[stream]);
        }
    }

  private:
    std::vector<int32_t> positions_;
    std::vector<Held> held_;                      ///< [S], where there are states
    std::vector<std::vector<std::byte>> states_;  ///< [S]
};

}  // namespace rotkv::tools
