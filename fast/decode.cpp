// What the versions of decode.h share: which cells count, the query's beginning, the online softmax
// and the output's end.
#include "fast/decode.h"

#include "fast/simd.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>

namespace rotkv::fast {

bool decodes(const AttentionArgs& args) {
    return args.q.n[3] % k_block == 0 && args.dst.n[3] % k_block == 0;
}

int64_t used_cells(const AttentionArgs& args, int64_t t) {
    return args.used.row<const int32_t>(0)[args.q_stream.row<const int32_t>(0)[t]];
}

int64_t visible_cells(int32_t* cells, const AttentionArgs& args, int64_t t, int64_t first,
                      int64_t last) {
    const int32_t* position =
        args.position.row<const int32_t>(args.q_stream.row<const int32_t>(0)[t]);
    const Span seen = visible_positions(args, args.q_position.row<const int32_t>(0)[t]);
    int64_t count = 0;
    for (int64_t c = first; c < last; ++c) {
        cells[count] = int32_t(c);  // kept if it counts
        count += int64_t((position[c] >= seen.least) & (position[c] <= seen.most));
    }
    return count;
}

// 1 rotate the query
void load_query(float* q, const AttentionArgs& args, const RowRotation& rotation, int64_t t,
                int64_t h) {
    rotation.forward(q, args.q.row<const float>(t, h));
    for (int64_t i = 0; i < args.q.n[3]; ++i) q[i] *= args.scale;
}

// 3 softmax, as far as it is known
float softmax_step(Softmax& seen, float* scores, int64_t n, float softcap) {
    if (softcap > 0) {
        for (int64_t i = 0; i < n; i += k_lanes) {
            store(scores + i, Vec(softcap) * tanh(load(scores + i) / Vec(softcap)));
        }
    }
    const int64_t end = (n + k_lanes - 1) / k_lanes * k_lanes;
    std::fill(scores + n, scores + end, -INFINITY);
    Vec largest(seen.largest);
    for (int64_t i = 0; i < end; i += k_lanes) largest = max(largest, load(scores + i));
    float lanes[k_lanes];
    store(lanes, largest);
    const float before = seen.largest;
    seen.largest = *std::max_element(lanes, lanes + k_lanes);

    Vec total(0.0f);
    for (int64_t i = 0; i < end; i += k_lanes) {
        const Vec p = exp(load(scores + i) - Vec(seen.largest));
        store(scores + i, p);
        total += p;
    }
    const float factor = std::exp(before - seen.largest);
    seen.total = seen.total * factor + sum_lanes(total);
    return factor;
}

// 5 rotate back, after the division that ends softmax
void store_output(const AttentionArgs& args, const RowRotation& rotation, int64_t t, int64_t h,
                  float* sum, const Softmax& seen) {
    const float scale = end_softmax(args, t, h, seen);
    for (int64_t d = 0; d < args.dst.n[3]; ++d) sum[d] *= scale;
    rotation.back(args.dst.row<float>(t, h), sum);
}

}  // namespace rotkv::fast
