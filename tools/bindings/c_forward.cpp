// rotkv.h: batches of tokens through a model, and the words that come behind them.
#include "ref/activations.h"
#include "tools/bindings/open_model.h"
#include "tools/choose_words.h"

using namespace rotkv;
using namespace rotkv::bindings;

namespace {

// The caller's tokens, for a model's cache.
struct Batch {
    std::span<const int32_t> tokens;
    std::vector<int32_t> streams;
    std::span<const int32_t> positions;

    Batch(rotkv_cache* cache, const int32_t* given, const int32_t* of_streams,
          const int32_t* at_positions, int64_t count) {
        require(needed(cache, "cache").of != nullptr, ErrorCode::bad_argument,
                "cache: expected a model's, found one without a model");
        const KvShape& shape = cache->cache.shape();
        tokens = tokens_of(*cache->of, given, count, 1);
        streams = indices_or_zeros(of_streams, count, "streams", shape.streams - 1);
        positions = indices(at_positions, count, "positions", 0, shape.cells - 1);
    }

    // The residual stream [T][E] after the output norm, in the backend's memory.
    TensorView read_into(rotkv_cache& cache) const {
        cache.placed = -1;
        return cache.model->forward(cache.cache, tokens, streams, positions);
    }
};

// Rows of x [T][E] beside each other: in place, where they are so, or copied, neighbours at once.
TensorView rows_of(rotkv_cache& cache, const TensorView& x, std::span<const int32_t> wanted) {
    const auto rows = [](TensorView all, int64_t first, std::size_t count) {
        all.data += first * all.stride[2];
        all.n[2] = int64_t(count);
        return all;
    };
    const auto neighbours = [&](std::size_t from) {
        std::size_t to = from + 1;
        while (to < wanted.size() && wanted[to] == wanted[to - 1] + 1) ++to;
        return to - from;
    };
    if (neighbours(0) == wanted.size()) return rows(x, wanted[0], wanted.size());
    Buffer& memory = cache.next.hidden;
    const std::size_t bytes = wanted.size() * std::size_t(x.n[3]) * sizeof(float);
    if (memory.bytes() < bytes) memory = Buffer(cache.model->backend(), bytes);
    const TensorView to = memory.view(DType::f32, {int64_t(wanted.size()), x.n[3]});
    for (std::size_t i = 0, count; i < wanted.size(); i += count) {
        count = neighbours(i);
        cache.model->run(ScaleArgs{.dst = as_heads(rows(to, int64_t(i), count), 1, x.n[3]),
                                   .src = as_heads(rows(x, wanted[i], count), 1, x.n[3])});
    }
    return to;
}

// Logits [n][V] of at most k_max_logit_rows rows, in the backend's memory.
TensorView logits_of(rotkv_cache& cache, const TensorView& hidden) {
    Model& model = *cache.model;
    const int64_t words = model.config().words;
    Buffer& memory = cache.next.logits;
    const std::size_t bytes = std::size_t(hidden.n[2] * words) * sizeof(float);
    if (memory.bytes() < bytes) memory = Buffer(model.backend(), bytes);
    const TensorView to = memory.view(DType::f32, {hidden.n[2], words});
    model.run(LogitsArgs{.dst = to,
                         .hidden = hidden,
                         .weight = model.weights().output,
                         .softcap = model.config().final_softcap});
    return to;
}

}  // namespace

rotkv_status rotkv_model_forward(rotkv_cache* cache, const int32_t* tokens, const int32_t* streams,
                                 const int32_t* positions, int64_t count,
                                 const rotkv_array* hidden) {
    return at_border([&] {
        const Batch batch(cache, tokens, streams, positions, count);
        TensorView to;
        if (hidden != nullptr) to = view_of(*hidden, "hidden");
        const int64_t width = cache->of->model.config().width;
        if (hidden != nullptr && to != rotkv::view(to.data, DType::f32, {count, width})) {
            refuse("hidden",
                   "packed f32 [" + std::to_string(count) + "][" + std::to_string(width) + "]",
                   describe(to));
        }
        const Turn turn(*cache->open);
        const TensorView result = batch.read_into(*cache);
        if (hidden == nullptr) return;
        turn.backend().download({to.data, std::size_t(span_bytes(to))}, result.data);
    });
}

rotkv_status rotkv_model_next_tokens(rotkv_cache* cache, const int32_t* tokens,
                                     const int32_t* streams, const int32_t* positions,
                                     int64_t count, const int32_t* behind, int64_t n_behind,
                                     double temperature, const double* draws, int32_t* chosen) {
    return at_border([&] {
        const Batch batch(cache, tokens, streams, positions, count);
        const std::span<const int32_t> rows = indices(behind, n_behind, "behind", 0, count - 1);
        if (!(temperature >= 0)) refuse("temperature", "0 or more", std::to_string(temperature));
        if (temperature == 0 && draws != nullptr) {
            refuse("draws", "none at temperature 0, where nothing is drawn", "some");
        }
        const std::span<const double> u = elements(draws, temperature == 0 ? 0 : n_behind, "draws");
        for (const double one : u) {
            if (!(one >= 0 && one < 1)) refuse("draws", "0 to 1, less than 1", std::to_string(one));
        }
        const std::span<int32_t> to = elements(chosen, n_behind, "chosen");
        const Turn turn(*cache->open);
        const TensorView hidden = batch.read_into(*cache);
        for (std::size_t first = 0; first < rows.size(); first += k_max_logit_rows) {
            const std::size_t some = std::min(rows.size() - first, std::size_t(k_max_logit_rows));
            const TensorView wanted = rows_of(*cache, hidden, rows.subspan(first, some));
            tools::choose_words(turn.backend(), logits_of(*cache, wanted), temperature,
                                u.empty() ? u : u.subspan(first, some), to.subspan(first, some));
        }
        const auto strange = std::ranges::find(to, -1);
        if (strange == to.end()) return;
        throw Error(ErrorCode::bad_file,
                    "the model's logits are not finite numbers behind token " +
                        std::to_string(rows[std::size_t(strange - to.begin())]) + " of the batch");
    });
}
