// Class KvCache: tokens that a type keeps together. A group of G lies in G cells from a multiple of
// G on, in the order of its tokens, and begins at a position that is a multiple of G: then who has
// stored the last one knows where the others are.
#include "ref/error.h"
#include "ref/kv_cache.h"

#include <algorithm>
#include <string>
#include <vector>

namespace rotkv {

// That tokens which are to be placed in these cells, in ascending order in each stream, go on with
// a group or begin one.
void KvCache::require_in_groups(std::span<const int32_t> streams,
                                std::span<const int32_t> positions,
                                std::span<const int32_t> cells) const {
    struct Token {
        int64_t cell, position;
    };
    std::vector<Token> before(size_t(shape_.streams), {-1, -1});  // the last of the batch
    for (size_t t = 0; t < cells.size() && !groups_.empty(); ++t) {
        const int64_t cell = cells[t], position = positions[t];
        Token& last = before[size_t(streams[t])];
        if (cell > 0 && last.cell != cell - 1) {
            last = {cell - 1, position_[size_t(streams[t] * shape_.cells + cell - 1)]};
        }
        for (const int64_t tokens : groups_) {
            const bool goes_on = position % tokens == 0 || last.position == position - 1;
            if (cell % tokens == position % tokens && goes_on) continue;
            throw Error(ErrorCode::unsupported,
                        "cache: a type keeps " + std::to_string(tokens) +
                            " tokens together, which come in order from a multiple of " +
                            std::to_string(tokens) + " on; found position " +
                            std::to_string(position) + " for cell " + std::to_string(cell));
        }
        last = {cell, position};
    }
}

// That with positions `after`, [S][C], every group of a stream is where it was or has moved as a
// whole by multiples of G, or is gone; one that is not full may have lost its last tokens.
void KvCache::require_whole_groups(int64_t stream, std::span<const int32_t> after) const {
    for (const int64_t tokens : groups_) {
        for (int64_t begin = 0; begin < shape_.cells; begin += tokens) {
            const size_t first = size_t(stream * shape_.cells + begin);
            const size_t cells = size_t(std::min(tokens, shape_.cells - begin));
            const auto old = std::span(position_).subspan(first, cells);
            const auto now = after.subspan(first, cells);
            const auto count = [](std::span<const int32_t> of) {
                return std::ranges::count_if(of, [](int32_t position) { return position >= 0; });
            };
            const int64_t had = count(old), has = count(now), moved = now[0] - old[0];
            bool whole = has == 0 || has == had || had < tokens;
            for (int64_t i = 0; i < has; ++i) {
                whole &= now[size_t(i)] >= 0 && now[size_t(i)] - old[size_t(i)] == moved;
            }
            if (has == 0 || (whole && moved % tokens == 0)) continue;
            throw Error(ErrorCode::unsupported,
                        "cache: a type keeps " + std::to_string(tokens) +
                            " tokens together, those from position " + std::to_string(old[0]) +
                            (whole ? " on cannot move by " + std::to_string(moved)
                                   : " on cannot be parted"));
        }
    }
}

}  // namespace rotkv
