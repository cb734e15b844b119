#pragma once
// Two of our saved caches beside each other, head by head: which elements are stored otherwise.
// Docs: docs/24-saved-caches.md

#include "ref/files/cache_contents.h"
#include "tools/steps_apart.h"

#include <string>
#include <vector>

namespace rotkv::tools {

/// One head of one side of one layer, over all tokens of all streams.
struct HeadBeside {
    int64_t layer = 0, head = 0;
    Side side = Side::k;
    std::string type;
    /// Counted in steps of the second file's rows. A format of the zoo has none: there `most` and
    /// `rms` are shares of the root mean square of the second file's row.
    StepsApart apart;
    bool in_steps = true;
    int64_t stream = 0;     ///< where they are furthest apart, with apart.channel
    int32_t position = -1;  ///< -1: no row there
};

struct SavedBeside {
    std::vector<HeadBeside> heads;
    StepsApart states;  ///< of layers without cells, in steps of f32

    int64_t elements() const;
    int64_t differ() const;
};

/// Rows of one position are held together, whatever cells they were in; a second one of a position
/// counts as another token. Throws: Error(bad_file) that names what differs where the two are not
/// of one model, of the same layers, types and rotations, and of the same positions; as shape_of().
SavedBeside hold_beside(const SavedCache& theirs, const SavedCache& ours);

}  // namespace rotkv::tools
