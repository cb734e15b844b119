#include "tools/compare/explain_run.h"

#include "ref/error.h"
#include "tools/backends.h"
#include "tools/watch/forwarding_backend.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace rotkv::tools {

namespace {

template <class E>
std::vector<E> fetch(Backend& backend, const TensorView& tensor) {
    std::vector<E> values(std::size_t(span_bytes(tensor)) / sizeof(E));
    backend.download(std::as_writable_bytes(std::span(values)), tensor.data);
    return values;
}

// The first cells of every stream on the host, as numbers in plain channels: [S][cells][K][D].
std::vector<float> plain_rows(Backend& backend, TensorView cache, int64_t cells,
                              const Rotation& rotation) {
    cache.n[1] = cells;
    const Buffer memory(backend, std::size_t(cache.rows() * cache.n[3]) * sizeof(float));
    const TensorView rows = memory.view(DType::f32, {cache.n[0], cells, cache.n[2], cache.n[3]});
    backend.dequantize({rows, cache});
    backend.hadamard({rows, rows, rotation, true});
    return fetch<float>(backend, rows);
}

// One side of one cache on the host.
struct HostRows {
    std::vector<float> all;
    int64_t cells = 0, kv_heads = 0, d = 0;

    HostRows(Backend& backend, const TensorView& cache, int64_t used, const Rotation& rotation)
        : all(plain_rows(backend, cache, used, rotation)),
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
    int64_t cells = 0, window = 0;

    HostIndex(Backend& backend, const AttentionArgs& args)
        : position(fetch<int32_t>(backend, args.position)),
          used(fetch<int32_t>(backend, args.used)),
          q_stream(fetch<int32_t>(backend, args.q_stream)),
          q_position(fetch<int32_t>(backend, args.q_position)),
          cells(args.position.n[3]),
          window(args.window) {}

    int64_t most_used() const { return *std::max_element(used.begin(), used.end()); }

    // The rule of AttentionArgs.
    std::vector<int64_t> visible(int64_t row) const {
        const int64_t stream = q_stream[std::size_t(row)], q = q_position[std::size_t(row)];
        std::vector<int64_t> result;
        for (int64_t c = 0; c < used[std::size_t(stream)]; ++c) {
            const int64_t p = position[std::size_t(stream * cells + c)];
            if (p >= 0 && p <= q && (window == 0 || q - p < window)) result.push_back(c);
        }
        return result;
    }
};

/// Stores in other caches what is stored in the base, and lets somebody look at each attention.
class StoringBackend : public ForwardingBackend {
  public:
    using Visit = std::function<void(Backend&, const AttentionArgs&, int64_t layer)>;
    using ForwardingBackend::ForwardingBackend;

    void watch(const KvCache& base, const std::vector<KvCache>& others, Visit visit) {
        base_ = &base;
        others_ = &others;
        visit_ = std::move(visit);
    }

  protected:
    using ForwardingBackend::run;
    void run(const KvStoreArgs& args) override {
        real().kv_store(args);
        const int64_t layer = layer_of(args.k_cache);
        for (const KvCache& cache : *others_) {
            KvStoreArgs other = args;
            other.k_cache = cache.k(layer);
            other.v_cache = cache.v(layer);
            other.k_rotation = cache.spec().at(layer, Side::k);
            other.v_rotation = cache.spec().at(layer, Side::v);
            real().kv_store(other);
        }
    }
    void run(const AttentionArgs& args) override {
        real().attention(args);
        visit_(real(), args, layer_of(args.k_cache));
    }

  private:
    // Follows from where the layer's keys lie.
    int64_t layer_of(const TensorView& k_cache) const {
        int64_t layer = 0;
        while (base_->k(layer).data != k_cache.data) ++layer;
        return layer;
    }

    const KvCache* base_ = nullptr;
    const std::vector<KvCache>* others_ = nullptr;
    Visit visit_;
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

}  // namespace

void add_output_errors(Backend& backend, const AttentionArgs& args, const StoredLayer& stored,
                       const std::vector<int64_t>& asked, std::span<OutputErrors> sums) {
    require(args.sinks.empty(), ErrorCode::unsupported,
            "explain: with attention sinks a shift of all scores is no longer without effect");
    if (asked.empty()) return;
    const HostIndex index(backend, args);
    const int64_t used = index.most_used(), heads = args.q.n[2], d_k = args.q.n[3];
    const int64_t group = heads / args.k_cache.n[2];
    const HostRows k(backend, args.k_cache, used, args.k_rotation);
    const HostRows v(backend, args.v_cache, used, args.v_rotation);
    const HostRows stored_k(backend, stored.k, used, stored.k_rotation);
    const HostRows stored_v(backend, stored.v, used, stored.v_rotation);
    const std::vector<float> q = fetch<float>(backend, args.q);
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
                                                             {at, at + d_k},
                                                             keys,
                                                             values,
                                                             other_keys,
                                                             other_values}));
            }
        }
    }
}

std::vector<Explanation> explain(const LoadedModel& loaded, const ModelFlags& flags,
                                 const WindowPlan& plan, const Variant& base,
                                 const std::vector<Variant>& variants,
                                 const std::function<void(int64_t windows)>& progress) {
    StoringBackend backend(make_backend(flags.backend, flags.threads));
    Model model(loaded.file, backend, plan.ctx, flags.phi3_window);
    model.use_precision(loaded.model.precision());
    const ModelConfig& config = model.config();
    KvCache cache = make_cache(model, plan, base);
    std::vector<KvCache> others;
    std::vector<Explanation> result;
    for (const Variant& variant : variants) {
        others.push_back(make_cache(model, plan, variant));
        result.push_back({variant.name, config.layers, config.heads, config.kv_heads, {}});
        result.back().errors.resize(std::size_t(config.layers * config.heads));
    }
    backend.watch(cache, others, [&](Backend& real, const AttentionArgs& args, int64_t layer) {
        const std::vector<int64_t> asked = asked_rows(plan, fetch<int32_t>(real, args.q_position));
        for (std::size_t i = 0; i < others.size(); ++i) {
            const RotationSpec& spec = others[i].spec();
            const StoredLayer stored{others[i].k(layer), others[i].v(layer),
                                     spec.at(layer, Side::k), spec.at(layer, Side::v)};
            add_output_errors(
                real, args, stored, asked,
                std::span(result[i].errors)
                    .subspan(std::size_t(layer * config.heads), std::size_t(config.heads)));
        }
    });
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        if (rows.ends_window) progress(rows.window + 1);
    });
    return result;
}

}  // namespace rotkv::tools
