#include "tools/compare/explain_run.h"

#include "ref/error.h"
#include "tools/layer_words.h"
#include "tools/watch/one_layer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace rotkv::tools {

namespace {

// The first cells of every stream on the host, as numbers in plain channels: [S][cells][K][D].
std::vector<float> plain_rows(Backend& backend, TensorView cache, int64_t cells,
                              const Rotation& rotation, const TensorView& matrix) {
    cache.n[1] = cells;
    const Buffer memory(backend, std::size_t(cache.rows() * cache.n[3]) * sizeof(float));
    const TensorView rows = memory.view(DType::f32, {cache.n[0], cells, cache.n[2], cache.n[3]});
    backend.run(DequantizeArgs{.dst = rows, .src = cache});
    backend.run(HadamardArgs{.dst = rows, .src = rows, .rotation = rotation, .inverse = true});
    if (!matrix.empty()) {
        const TensorView all =
            memory.view(DType::f32, {cache.n[0] * cells, cache.n[2], cache.n[3]});
        backend.run(TurnArgs{.dst = all, .src = all, .matrix = matrix, .inverse = true});
    }
    return contents<float>(backend, rows);
}

// One side of one cache on the host.
struct HostRows {
    std::vector<float> all;
    int64_t cells = 0, kv_heads = 0, d = 0;

    HostRows(Backend& backend, const TensorView& cache, int64_t used, const Rotation& rotation,
             const TensorView& matrix = {})
        : all(plain_rows(backend, cache, used, rotation, matrix)),
          cells(used),
          kv_heads(cache.n[2]),
          d(cache.n[3]) {}

    // The rows of some cells of one stream and KV head, side by side.
    std::vector<float> gather(int64_t stream, const std::vector<int64_t>& chosen,
                              int64_t kv) const {
        std::vector<float> rows;
        for (const int64_t cell : chosen) {
            const auto row = all.begin() + ((stream * cells + cell) * kv_heads + kv) * d;
            rows.insert(rows.end(), row, row + d);
        }
        return rows;
    }
};

// Who sits where, and who asks, on the host.
struct HostIndex {
    std::vector<int32_t> position, used, q_stream, q_position;
    const AttentionArgs& rule;

    HostIndex(Backend& backend, const AttentionArgs& args)
        : position(contents<int32_t>(backend, args.position)),
          used(contents<int32_t>(backend, args.used)),
          q_stream(contents<int32_t>(backend, args.q_stream)),
          q_position(contents<int32_t>(backend, args.q_position)),
          rule(args) {}

    int64_t most_used() const { return *std::max_element(used.begin(), used.end()); }

    std::vector<int64_t> visible(int64_t row) const {
        const int64_t stream = q_stream[std::size_t(row)], q = q_position[std::size_t(row)];
        const int64_t cells = rule.position.n[3];
        std::vector<int64_t> result;
        for (int64_t c = 0; c < used[std::size_t(stream)]; ++c) {
            if (rule.takes_part(position[std::size_t(stream * cells + c)], q)) result.push_back(c);
        }
        return result;
    }
};

// The rows of a batch whose positions are looked at.
std::vector<int64_t> asked_rows(const WindowPlan& plan, const std::vector<int32_t>& positions) {
    const int64_t step = std::max<int64_t>(1, plan.scored_per_window() / k_explained_queries);
    std::vector<int64_t> rows;
    for (std::size_t row = 0; row < positions.size(); ++row) {
        const int64_t scored = positions[row] - plan.first_scored();
        if (scored < 0 || scored >= plan.scored_per_window()) continue;
        if (scored % step == step - 1) rows.push_back(int64_t(row));
    }
    return rows;
}

// Each query head's sink; -inf where there is none.
std::vector<double> sinks_of(Backend& backend, const AttentionArgs& args) {
    if (args.sinks.empty()) return std::vector<double>(std::size_t(args.q.n[2]), -INFINITY);
    const std::vector<float> sinks = contents<float>(backend, args.sinks);
    return {sinks.begin(), sinks.end()};
}

std::vector<ExplainedLayer> attending_layers(const ModelConfig& config) {
    std::vector<ExplainedLayer> layers;
    for (std::size_t l = 0; l < config.plan.size(); ++l) {
        const LayerPlan& layer = config.plan[l];
        if (layer.kv_heads == 0) continue;
        layers.push_back({int64_t(l), layer.kv_heads, {}});
        layers.back().heads.resize(std::size_t(layer.heads));
    }
    return layers;
}

}  // namespace

void add_output_errors(Backend& backend, const AttentionArgs& args, const StoredLayer& stored,
                       const std::vector<int64_t>& asked, std::span<OutputErrors> sums) {
    require(args.bounds.all(), ErrorCode::unsupported,
            "explain: a part of the cells does not give the layer's output");
    if (asked.empty()) return;
    const HostIndex index(backend, args);
    const int64_t used = index.most_used(), heads = args.q.n[2], d_k = args.q.n[3];
    const int64_t group = heads / args.k_cache.n[2];
    const HostRows k(backend, args.k_cache, used, args.k_rotation);
    const HostRows v(backend, args.v_cache, used, args.v_rotation);
    const HostRows stored_k(backend, stored.k, used, stored.k_rotation, stored.k_matrix);
    const HostRows stored_v(backend, stored.v, used, stored.v_rotation, stored.v_matrix);
    const std::vector<float> q = contents<float>(backend, args.q);
    const std::vector<double> sinks = sinks_of(backend, args);
    const int64_t q_row = args.q.stride[1] / int64_t(sizeof(float));
    const int64_t q_head = args.q.stride[2] / int64_t(sizeof(float));
    for (const int64_t row : asked) {
        const int64_t stream = index.q_stream[std::size_t(row)];
        const std::vector<int64_t> cells = index.visible(row);
        for (int64_t kv = 0; kv < heads / group; ++kv) {
            const std::vector<float> keys = k.gather(stream, cells, kv);
            const std::vector<float> values = v.gather(stream, cells, kv);
            const std::vector<float> other_keys = stored_k.gather(stream, cells, kv);
            const std::vector<float> other_values = stored_v.gather(stream, cells, kv);
            for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
                const auto at = q.begin() + row * q_row + h * q_head;
                sums[std::size_t(h)].add(split_output_error({double(args.scale),
                                                             double(args.softcap),
                                                             sinks[std::size_t(h)],
                                                             {at, at + d_k},
                                                             keys,
                                                             values,
                                                             other_keys,
                                                             other_values}));
            }
        }
    }
}

std::vector<Explanation> explain(const Model& loaded, const WindowPlan& plan, const Variant& base,
                                 const std::vector<Variant>& variants,
                                 const std::function<void(int64_t windows)>& progress) {
    std::vector<KvCache> others;
    std::vector<Explanation> result;
    for (const Variant& variant : variants) {
        others.push_back(make_cache(loaded, plan, variant));
        result.push_back({variant.name, attending_layers(loaded.config()),
                          layers_without_rows(others.back().shape())});
    }
    const auto look = [&](int64_t layer, const AttentionArgs& args, Backend& backend) {
        const std::vector<int64_t> asked =
            asked_rows(plan, contents<int32_t>(backend, args.q_position));
        for (std::size_t i = 0; i < others.size(); ++i) {
            const RotationSpec& spec = others[i].spec();
            const StoredLayer stored{others[i].k(layer),
                                     others[i].v(layer),
                                     spec.at(layer, Side::k),
                                     spec.at(layer, Side::v),
                                     others[i].matrix(layer, Side::k),
                                     others[i].matrix(layer, Side::v)};
            const auto found = std::ranges::find(result[i].layers, layer, &ExplainedLayer::layer);
            add_output_errors(backend, args, stored, asked, found->heads);
        }
    };
    Model model = observed(loaded, [&](int64_t layer, const Call& call, Backend& backend) {
        backend.run(call);
        if (const auto* store = std::get_if<KvStoreArgs>(&call)) {
            for (const KvCache& cache : others) store_in(cache, layer, *store, backend);
        } else if (const auto* attention = std::get_if<AttentionArgs>(&call)) {
            look(layer, *attention, backend);
        }
    });
    KvCache cache = make_cache(model, plan, base);
    for (int64_t l = 0; l < cache.spec().entries(); ++l) {
        require(!cache.spec().matrix(l, Side::k) && !cache.spec().matrix(l, Side::v),
                ErrorCode::unsupported,
                "--explain: expected a base that no matrix turns: its rows are what is compared");
    }
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        if (rows.ends_window) progress(rows.window + 1);
    });
    return result;
}

}  // namespace rotkv::tools
