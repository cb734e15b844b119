// Rotated attention for a batch, in the steps of ref/attention.cpp:
//
//   1 rotate the queries, 2 score the visible cells, 3 softmax, 4 sum the values, 5 rotate back
//
// Beside ref it adds three things. Work is shared out by (stream, KV head, block of tokens), and by
// parts of the cache where that gives too few tasks. Cells come in tiles that are
// expanded to f32 once for all tokens of the block and all query heads of the group. Softmax is
// online: a row keeps its largest score, and sums are rescaled when a larger one comes, so that one
// walk over the cache is enough (Milakov, Gimelshein 2018). Steps 2 to 4 are attention_tile.cpp.
// A token or two go to decode.h: there is nobody to share an expanded tile with.
#include "fast/attention_tile.h"
#include "fast/decode.h"
#include "fast/kernels.h"
#include "fast/workspace.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace rotkv::fast {
namespace {

constexpr int64_t k_group_rows = k_max_vectors * k_lanes;
constexpr int64_t k_block_floats = 1 << 17;  // queries and sums of a block: half a MiB of L2

// Consecutive tokens of one stream, by position, and one KV head.
struct Block {
    int64_t stream, kv_head;
    int64_t first, tokens;  // in Plan::order
};

// Who does what.
struct Plan {
    std::vector<int64_t> order;  // the batch's tokens by stream, then position
    std::vector<Block> blocks;   // the longest work first
    int64_t heads;               // query heads per KV head
    int64_t most_groups;         // of a block
    int64_t parts;               // of the cache, per block
};

int64_t groups_of(int64_t rows) { return (rows + k_group_rows - 1) / k_group_rows; }

std::vector<int64_t> order_tokens(const AttentionArgs& args) {
    const int32_t* stream = args.q_stream.row<const int32_t>(0);
    const int32_t* position = args.q_position.row<const int32_t>(0);
    std::vector<int64_t> order(static_cast<size_t>(args.q.n[1]));
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return stream[a] != stream[b] ? stream[a] < stream[b] : position[a] < position[b];
    });
    return order;
}

// Blocks are as large as the L2 cache allows, because each expands the cache for itself, but small
// enough that every thread gets three.
int64_t tokens_per_block(const AttentionArgs& args, int64_t heads, int64_t threads) {
    const int64_t group_floats = k_group_rows * (args.q.n[3] + args.dst.n[3]);
    const int64_t fitting =
        std::max<int64_t>(1, k_block_floats / std::max<int64_t>(1, group_floats));
    const int64_t all = groups_of(args.q.n[1] * heads) * args.k_cache.n[2];
    const int64_t groups = std::clamp<int64_t>(all / (3 * threads), 1, fitting);
    return std::max<int64_t>(1, groups * k_group_rows / heads);
}

Plan make_plan(const AttentionArgs& args) {
    Plan plan;
    const int64_t threads = omp_get_max_threads(), kv_heads = args.k_cache.n[2];
    const int32_t* stream = args.q_stream.row<const int32_t>(0);
    plan.order = order_tokens(args);
    plan.heads = args.q.n[2] / kv_heads;
    const int64_t size = tokens_per_block(args, plan.heads, threads);
    plan.most_groups = groups_of(size * plan.heads);

    const auto stream_of = [&](int64_t i) { return int64_t(stream[plan.order[size_t(i)]]); };
    int64_t most_cells = 0;
    // From the last token down: later positions see more cells.
    int64_t end = int64_t(plan.order.size());
    while (end > 0) {
        const int64_t s = stream_of(end - 1);
        int64_t first = end - 1;
        while (first > 0 && end - first < size && stream_of(first - 1) == s) --first;
        for (int64_t h = 0; h < kv_heads; ++h) plan.blocks.push_back({s, h, first, end - first});
        most_cells = std::max<int64_t>(most_cells, args.used.row<const int32_t>(0)[s]);
        end = first;
    }

    const int64_t blocks = std::max<int64_t>(1, int64_t(plan.blocks.size()));
    const int64_t tiles = (most_cells + k_tile_cells - 1) / k_tile_cells;
    plan.parts = std::clamp<int64_t>(2 * threads / blocks, 1, std::max<int64_t>(1, tiles / 2));
    return plan;
}

// The query rows of one block with their running sums. Row r is head r % heads of token r / heads.
class Rows {
  public:
    // Floats of memory that the rows of `groups` groups take.
    static int64_t floats(const AttentionArgs& args, int64_t groups) {
        return groups * k_group_rows * (args.q.n[3] + round_up(args.dst.n[3], k_strip) + 4);
    }

    Rows(const AttentionArgs& args, const Plan& plan, const Block& block, float* memory)
        : args_(args), plan_(plan), block_(block), rows_(block.tokens * plan.heads) {
        for (int64_t first = 0; first < rows_; first += k_group_rows) {
            const int64_t rows = std::min(k_group_rows, rows_ - first);
            QueryGroup group;
            group.vectors = (rows + k_lanes - 1) / k_lanes;
            const int64_t width = group.width();
            const auto take = [&](int64_t count) {
                memory += count * width;
                return memory - count * width;
            };
            group.after = reinterpret_cast<int32_t*>(take(1));
            group.upto = reinterpret_cast<int32_t*>(take(1));
            group.largest = take(1);
            group.total = take(1);
            group.q = take(args.q.n[3]);
            group.sum = take(round_up(args.dst.n[3], k_strip));
            groups_.push_back(group);
        }
    }

    const std::vector<QueryGroup>& groups() const { return groups_; }

    // 1 rotate the queries; nothing seen yet
    void load(const RowRotation& rotation) {
        const int64_t d_k = args_.q.n[3], d_v = round_up(args_.dst.n[3], k_strip);
        thread_local Workspace space;
        float* const q = space.reserve(k_lanes * d_k);
        for (size_t g = 0; g < groups_.size(); ++g) {
            const QueryGroup& group = groups_[g];
            const int64_t width = group.width();
            std::fill_n(group.largest, width, std::numeric_limits<float>::lowest());
            std::fill_n(group.total, width, 0.0f);
            std::fill_n(group.sum, d_v * width, 0.0f);
            for (int64_t j = 0; j < width; j += k_lanes) {
                for (int64_t lane = 0; lane < k_lanes; ++lane) {
                    // Lanes past the last row repeat it; nobody reads their result.
                    const int64_t r = std::min(int64_t(g) * k_group_rows + j + lane, rows_ - 1);
                    rotation.forward(q + lane * d_k, args_.q.row<const float>(token(r), head(r)));
                    set_bounds(group, j + lane, args_.q_position.row<const int32_t>(0)[token(r)]);
                }
                for (int64_t d = 0; d < d_k; ++d) {
                    float* to = group.q + d * width + j;
                    for (int64_t lane = 0; lane < k_lanes; ++lane) {
                        to[lane] = q[lane * d_k + d] * args_.scale;
                    }
                }
            }
        }
    }

    // Adds what `other`, the same rows, has seen in other cells.
    void merge(const Rows& other) {
        const int64_t d_v = round_up(args_.dst.n[3], k_strip);
        for (size_t g = 0; g < groups_.size(); ++g) {
            const QueryGroup &a = groups_[g], &b = other.groups_[g];
            const int64_t width = a.width();
            for (int64_t j = 0; j < width; j += k_lanes) {
                const Vec from_a = fast::load(a.largest + j), from_b = fast::load(b.largest + j);
                const Vec largest = max(from_a, from_b);
                const Vec scale_a = exp(from_a - largest), scale_b = exp(from_b - largest);
                const auto join = [&](float* to, const float* more) {
                    store(to + j, fast::load(to + j) * scale_a + fast::load(more + j) * scale_b);
                };
                store(a.largest + j, largest);
                join(a.total, b.total);
                for (int64_t d = 0; d < d_v; ++d) join(a.sum + d * width, b.sum + d * width);
            }
        }
    }

    // 5 rotate back, after the division that ends softmax
    void store_output(const RowRotation& rotation) const {
        const int64_t d_v = args_.dst.n[3];
        thread_local Workspace space;
        float* const y = space.reserve(k_lanes * d_v);
        for (int64_t first = 0; first < rows_; first += k_lanes) {
            const int64_t rows = std::min(k_lanes, rows_ - first), j = first % k_group_rows;
            const QueryGroup& group = groups_[size_t(first / k_group_rows)];
            for (int64_t lane = 0; lane < rows; ++lane) {
                const int64_t r = first + lane, at = j + lane;
                const float scale =
                    end_softmax(args_, token(r), head(r), {group.largest[at], group.total[at]});
                const float* sum = group.sum + at;
                float* to = y + lane * d_v;
                for (int64_t d = 0; d < d_v; ++d) to[d] = sum[d * group.width()] * scale;
            }
            for (int64_t lane = 0; lane < rows; ++lane) {
                const int64_t r = first + lane;
                rotation.back(args_.dst.row<float>(token(r), head(r)), y + lane * d_v);
            }
        }
    }

  private:
    int64_t token(int64_t r) const { return plan_.order[size_t(block_.first + r / plan_.heads)]; }
    int64_t head(int64_t r) const { return block_.kv_head * plan_.heads + r % plan_.heads; }

    void set_bounds(const QueryGroup& group, int64_t lane, int32_t position) const {
        const Span seen = visible_positions(args_, position);
        group.upto[lane] = seen.most;
        group.after[lane] = seen.least - 1;
    }

    const AttentionArgs& args_;
    const Plan& plan_;
    const Block& block_;
    int64_t rows_;
    std::vector<QueryGroup> groups_;
};

// Steps 2 to 4 for all rows of a block over part `part` of its stream's cells. `memory` holds a
// tile and its scores.
void attend_part(const AttentionArgs& args, const Rows& rows, const Block& block, int64_t part,
                 int64_t parts, float* memory) {
    CellTile tile;
    tile.k = memory;
    tile.v = tile.k + k_tile_cells * args.q.n[3];
    float* const scores = tile.v + k_tile_cells * round_up(args.dst.n[3], k_strip);

    int32_t least_after = std::numeric_limits<int32_t>::max(), most_upto = -1;
    for (const QueryGroup& group : rows.groups()) {
        const int64_t width = group.width();
        least_after = std::min(least_after, *std::min_element(group.after, group.after + width));
        most_upto = std::max(most_upto, *std::max_element(group.upto, group.upto + width));
    }
    const int64_t used = args.used.row<const int32_t>(0)[block.stream];
    const int64_t tiles = (used + k_tile_cells - 1) / k_tile_cells;
    for (int64_t i = tiles * part / parts; i < tiles * (part + 1) / parts; ++i) {
        load_positions(tile, args, block.stream, i * k_tile_cells);
        if (!some_visible(tile, least_after, most_upto)) continue;
        load_cells(tile, args, block.stream, block.kv_head, i * k_tile_cells);
        for (const QueryGroup& group : rows.groups()) attend_tile(tile, group, args, scores);
    }
}

int64_t tile_floats(const AttentionArgs& args) {
    return k_tile_cells * (args.q.n[3] + round_up(args.dst.n[3], k_strip) + k_group_rows);
}

// True where the query rows that share a KV head and a stream would not fill a vector's lanes.
bool few_rows(const AttentionArgs& args) {
    const int32_t* stream = args.q_stream.row<const int32_t>(0);
    const int64_t heads = args.q.n[2] / args.k_cache.n[2];
    std::vector<int64_t> rows(static_cast<size_t>(args.k_cache.n[0]));
    for (int64_t t = 0; t < args.q.n[1]; ++t) rows[size_t(stream[t])] += heads;
    return *std::max_element(rows.begin(), rows.end()) < k_lanes;
}

}  // namespace

// A task is one part of one block. Where blocks have a single part the task ends with the output;
// otherwise the parts meet in a second loop.
void attention(const AttentionArgs& args) {
    if (args.dst.empty()) return;
    if (few_rows(args) && decodes(args)) return decode_split(args);
    const Plan plan = make_plan(args);
    const RowRotation k_rotation(args.k_rotation, args.q.n[3]);
    const RowRotation v_rotation(args.v_rotation, args.dst.n[3]);
    const int64_t blocks = int64_t(plan.blocks.size()), parts = plan.parts;
    const int64_t floats = round_up(Rows::floats(args, plan.most_groups), k_group_rows);
    thread_local Workspace shared_space;
    float* const shared = parts > 1 ? shared_space.reserve(blocks * parts * floats) : nullptr;

    share_batch(args.q.n[1], blocks * parts, [&](int64_t task) {
        thread_local Workspace space;
        float* const tile = space.reserve(tile_floats(args) + floats);
        const Block& block = plan.blocks[size_t(task / parts)];
        Rows rows(args, plan, block, parts > 1 ? shared + task * floats : tile + tile_floats(args));
        rows.load(k_rotation);
        attend_part(args, rows, block, task % parts, parts, tile);
        if (parts == 1) rows.store_output(v_rotation);
    });
    if (parts == 1) return;
    share_batch(args.q.n[1], blocks, [&](int64_t b) {
        const Block& block = plan.blocks[size_t(b)];
        Rows rows(args, plan, block, shared + b * parts * floats);
        for (int64_t part = 1; part < parts; ++part) {
            rows.merge(Rows(args, plan, block, shared + (b * parts + part) * floats));
        }
        rows.store_output(v_rotation);
    });
}

// Weights in f64, as in ref; rows in vectors.
void merge(const MergeArgs& args) {
    const int64_t heads = args.dst.n[2], d = args.dst.n[3], rows = args.dst.n[1] * heads;
    for_each_row(args.dst.n[1], rows, d, [&](int64_t r) {
        const int64_t t = r / heads, h = r % heads;
        const double lse_a = double(args.lse_a.row<const float>(t)[h]);
        const double lse_b = double(args.lse_b.row<const float>(t)[h]);
        const double unit = std::max(lse_a, lse_b);
        const bool none = lse_a == -INFINITY && lse_b == -INFINITY;
        const double exp_a = none ? 0.0 : std::exp(lse_a - unit);
        const double exp_b = none ? 0.0 : std::exp(lse_b - unit);
        const double sum = exp_a + exp_b;
        args.lse.row<float>(t)[h] = float(unit + std::log(sum));
        const Vec weight_a(none ? 0.0f : float(exp_a / sum));
        const Vec weight_b(none ? 0.0f : float(exp_b / sum));
        const float *a = args.a.row<const float>(t, h), *b = args.b.row<const float>(t, h);
        float* const y = args.dst.row<float>(t, h);
        for (int64_t j = 0; j < d; j += k_lanes) {
            const Vec of_b = load_part(b + j, d - j) * weight_b;
            store_part(y + j, fma(load_part(a + j, d - j), weight_a, of_b), d - j);
        }
    });
}

}  // namespace rotkv::fast
