#include "ref/context_shift.h"

#include "ref/error.h"

#include <string>
#include <vector>

namespace rotkv {

int64_t dropped_by_shift(int64_t n, int64_t keep) { return n > keep ? (n - keep) / 2 : 0; }

void require_shift(KvCache& cache, const std::function<RopeConfig(int64_t)>& rope) {
    require(cache.state() == nullptr, ErrorCode::unsupported,
            "context shift: some layers keep a state, which holds all tokens in one and cannot "
            "forget a part of them");
    cache.shift(0, 0, 0, 0, rope);  // of no token, but checked like any other
}

int64_t shift_context(KvCache& cache, int64_t stream, int64_t n, int64_t keep,
                      const std::function<RopeConfig(int64_t)>& rope) {
    const int64_t dropped = dropped_by_shift(n, keep);
    if (keep < 0 || dropped == 0) {
        throw Error(ErrorCode::bad_argument,
                    "context shift: expected at least two tokens behind those that stay, found " +
                        std::to_string(n) + " tokens of which " + std::to_string(keep) + " stay");
    }
    const std::vector<int32_t> before(cache.host_positions().begin(), cache.host_positions().end());
    cache.remove(stream, int32_t(keep), int32_t(keep + dropped));
    try {
        cache.shift(stream, int32_t(keep + dropped), int32_t(n), int32_t(-dropped), rope);
    } catch (...) {
        cache.set_positions(before);
        throw;
    }
    return dropped;
}

}  // namespace rotkv
