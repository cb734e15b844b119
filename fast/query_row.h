#pragma once
// What every kernel of attention asks about a query row: which positions take part for it, what
// softmax knows so far, and how softmax ends.
// Docs: docs/05-attention.md

#include "ref/backend.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rotkv::fast {

/// The positions from least to most, that some rows see or some cells have. None: least > most.
struct Span {
    int32_t least = std::numeric_limits<int32_t>::max(), most = -1;
};

/// The positions that take part for a query at q: causality, window and bounds are one interval.
inline Span visible_positions(const AttentionArgs& args, int32_t q) {
    const Range &position = args.bounds.position, &distance = args.bounds.distance;
    const int64_t least =
        std::max<int64_t>({0, position.from, q - distance.to + 1, args.first_visible(q)});
    const int64_t most = std::min<int64_t>(position.to - 1, q - distance.from);
    return least > most ? Span{} : Span{int32_t(least), int32_t(most)};
}

/// The largest score of a row so far, and the sum of exp(score - largest).
struct Softmax {
    float largest = std::numeric_limits<float>::lowest();
    float total = 0.0f;
};

/// Ends softmax for head h of token t, where a sink is one more score with no value: writes the
/// row's lse if it is asked for, and returns what its sum of values must be multiplied by: one over
/// the total in units of exp(seen.largest), 0 if no cell took part.
inline float end_softmax(const AttentionArgs& args, int64_t t, int64_t h, const Softmax& seen) {
    double largest = double(seen.largest), total = double(seen.total), unit = 1;
    if (!args.sinks.empty()) {
        const double sink = double(args.sinks.row<const float>(0)[h]);
        largest = std::max(largest, sink);  // no exp of a positive number: it may be infinite
        unit = std::exp(double(seen.largest) - largest);
        total = total * unit + std::exp(sink - largest);
    }
    if (!args.lse.empty()) args.lse.row<float>(t)[h] = float(largest + std::log(total));
    return seen.total == 0.0f ? 0.0f : float(unit / total);
}

}  // namespace rotkv::fast
