// Steps 2 to 4 of attention.cpp for one tile of cells and one group of query rows: which cells
// count, scores, softmax as far as it is known, sums of values. Then how a tile is filled.
#include "fast/attention_tile.h"

#include "fast/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace rotkv::fast {
namespace {

// The strips [begin, end) of a tile that matter to a group, and whether all its rows see all of
// their cells.
struct Visible {
    int64_t begin, end;  // in cells
    bool masked;
};

Visible visible_strips(const CellTile& tile, const QueryGroup& group) {
    const auto [least_after, most_after] =
        std::minmax_element(group.after, group.after + group.width());
    const auto [least_upto, most_upto] =
        std::minmax_element(group.upto, group.upto + group.width());
    Visible visible{k_tile_cells, 0, false};
    for (int64_t s = 0; s < k_tile_strips; ++s) {
        const Span cells = tile.strip[s];
        if (cells.most <= *least_after || cells.least > *most_upto) continue;
        visible.begin = std::min(visible.begin, s * k_strip);
        visible.end = (s + 1) * k_strip;
    }
    for (int64_t s = visible.begin / k_strip; s < visible.end / k_strip; ++s) {
        const Span cells = tile.strip[s];
        if (!tile.full[s] || cells.least <= *most_after || cells.most > *least_upto) {
            visible.masked = true;
        }
    }
    return visible;
}

void cap_scores(float* scores, int64_t n, float c) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        store(scores + i, Vec(c) * tanh(load(scores + i) / Vec(c)));
    }
}

void mask_scores(float* scores, const CellTile& tile, const QueryGroup& group, Visible visible) {
    const int64_t width = group.width();
    const int32_t *after = group.after, *upto = group.upto;
    for (int64_t c = visible.begin; c < visible.end; ++c) {
        const int32_t position = tile.position[c];
        float* row = scores + c * width;
#pragma omp simd
        for (int64_t r = 0; r < width; ++r) {
            const bool hidden = (position <= after[r]) | (position > upto[r]);
            row[r] = hidden ? -INFINITY : row[r];
        }
    }
}

// Scores become exp(score - largest) in place; factor [width] is what sums made with the old
// largest must be multiplied by. The first largest is finite, so that -inf stays out of the
// differences.
void softmax_step(float* scores, float* factor, const QueryGroup& group, Visible visible) {
    const int64_t width = group.width();
    for (int64_t j = 0; j < width; j += k_lanes) {
        const Vec before = load(group.largest + j);
        Vec largest = before;
        for (int64_t c = visible.begin; c < visible.end; ++c) {
            largest = max(largest, load(scores + c * width + j));
        }
        const Vec rescale = exp(before - largest);
        Vec total = load(group.total + j) * rescale;
        for (int64_t c = visible.begin; c < visible.end; ++c) {
            const Vec p = exp(load(scores + c * width + j) - largest);
            store(scores + c * width + j, p);
            total += p;
        }
        store(factor + j, rescale);
        store(group.largest + j, largest);
        store(group.total + j, total);
    }
}

// The sum of values where a tile holds an inf or NaN that some rows must not see: 0 * NaN would let
// it through, so rows and cells go one by one.
void add_values_apart(const CellTile& tile, const QueryGroup& group, Visible visible,
                      const float* factor, const float* p, int64_t d_v) {
    const int64_t width = group.width();
    for (int64_t d = 0; d < d_v; ++d) {
        for (int64_t r = 0; r < width; ++r) {
            float sum = group.sum[d * width + r] * factor[r];
            for (int64_t c = visible.begin; c < visible.end; ++c) {
                const int32_t position = tile.position[c];
                if (position <= group.after[r] || position > group.upto[r]) continue;
                sum += p[c * width + r] * tile.v[c * d_v + d];
            }
            group.sum[d * width + r] = sum;
        }
    }
}

// The whole step for a group of `vectors` vectors of rows.
template <int64_t vectors>
void attend(const CellTile& tile, const QueryGroup& group, const AttentionArgs& args,
            float* scores) {
    constexpr int64_t width = vectors * k_lanes;
    const int64_t d_k = args.q.n[3], d_v = round_up(args.dst.n[3], k_strip);
    const Visible visible = visible_strips(tile, group);
    if (visible.begin >= visible.end) return;

    // 2 score the visible cells: a strip of keys times all queries
    for (int64_t c = visible.begin; c < visible.end; c += k_strip) {
        multiply_strip<vectors>(scores + c * width, nullptr, tile.k + c * d_k, d_k, 1, group.q,
                                d_k);
    }
    if (args.softcap > 0) {
        cap_scores(scores + visible.begin * width, (visible.end - visible.begin) * width,
                   args.softcap);
    }
    if (visible.masked) mask_scores(scores, tile, group, visible);

    // 3 softmax, as far as it is known
    float factor[width];
    softmax_step(scores, factor, group, visible);

    // 4 sum the values: a strip of channels times all probabilities
    if (visible.masked && !tile.finite_v) {
        return add_values_apart(tile, group, visible, factor, scores, d_v);
    }
    for (int64_t d = 0; d < d_v; d += k_strip) {
        multiply_strip<vectors>(group.sum + d * width, factor, tile.v + visible.begin * d_v + d, 1,
                                d_v, scores + visible.begin * width, visible.end - visible.begin);
    }
}

bool all_finite(const float* x, int64_t n) {
    uint32_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) {
        largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7FFFFFFFu);
    }
    return largest < 0x7F800000u;
}

}  // namespace

void load_positions(CellTile& tile, const AttentionArgs& args, int64_t stream, int64_t first) {
    const int64_t used = args.used.row<const int32_t>(0)[stream];
    const int64_t count = std::min(k_tile_cells, used - first);
    const int32_t* position = args.position.row<const int32_t>(stream) + first;
    std::fill(std::copy_n(position, count, tile.position), tile.position + k_tile_cells, -1);
    for (int64_t s = 0; s < k_tile_strips; ++s) {
        tile.strip[s] = {};
        tile.full[s] = true;
        for (int64_t c = s * k_strip; c < (s + 1) * k_strip; ++c) {
            const int32_t p = tile.position[c];
            tile.full[s] = tile.full[s] && p >= 0;
            if (p >= 0) tile.strip[s].least = std::min(tile.strip[s].least, p);
            tile.strip[s].most = std::max(tile.strip[s].most, p);
        }
    }
}

void load_cells(CellTile& tile, const AttentionArgs& args, int64_t stream, int64_t kv_head,
                int64_t first) {
    const int64_t d_k = args.q.n[3], d_v = args.dst.n[3], v_step = round_up(d_v, k_strip);
    for (int64_t c = 0; c < k_tile_cells; ++c) {
        float *k = tile.k + c * d_k, *v = tile.v + c * v_step;
        if (tile.position[c] < 0) {  // what lies there is nobody's business
            std::fill_n(k, d_k, 0.0f);
            std::fill_n(v, v_step, 0.0f);
            continue;
        }
        dequantize_row(args.k_cache.type, k,
                       args.k_cache.row<const std::byte>(stream, first + c, kv_head), d_k);
        dequantize_row(args.v_cache.type, v,
                       args.v_cache.row<const std::byte>(stream, first + c, kv_head), d_v);
        std::fill(v + d_v, v + v_step, 0.0f);
    }
    tile.finite_v = all_finite(tile.v, k_tile_cells * v_step);
}

bool some_visible(const CellTile& tile, int32_t least_after, int32_t most_upto) {
    return std::any_of(tile.strip, tile.strip + k_tile_strips, [&](Span cells) {
        return cells.most > least_after && cells.least <= most_upto;
    });
}

void attend_tile(const CellTile& tile, const QueryGroup& group, const AttentionArgs& args,
                 float* scores) {
    switch (group.vectors) {
        case 1:
            return attend<1>(tile, group, args, scores);
        case 2:
            return attend<2>(tile, group, args, scores);
        default:
            return attend<3>(tile, group, args, scores);
    }
}

}  // namespace rotkv::fast
