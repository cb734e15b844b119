#pragma once
// One call of attention with everything that belongs to it: a cache filled through kv_store, then
// queries. The laws run it on the reference; parity runs it on every backend and compares.
// Docs: docs/05-attention.md

#include "ref/backend.h"
#include "ref/kv_cache.h"
#include "tests/random.h"
#include "tests/rotation_of.h"

#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace rotkv::test {

/// f32 values in a backend's memory.
inline Buffer upload(Backend& backend, const std::vector<float>& values) {
    Buffer buffer(backend, values.size() * sizeof(float));
    buffer.upload(std::as_bytes(std::span(values)));
    return buffer;
}
inline Buffer upload(Backend& backend, const std::vector<int32_t>& values) {
    Buffer buffer(backend, values.size() * sizeof(int32_t));
    buffer.upload(std::as_bytes(std::span(values)));
    return buffer;
}

/// The bytes of a view without gaps, on the host.
inline std::vector<std::byte> download(Backend& backend, const TensorView& tensor) {
    std::vector<std::byte> bytes(size_t(span_bytes(tensor)));
    backend.download(bytes, tensor.data);
    return bytes;
}
inline std::vector<float> download_f32(Backend& backend, const TensorView& tensor) {
    const std::vector<std::byte> bytes = download(backend, tensor);
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

struct CachedAttention {
    int64_t heads = 4, kv_heads = 2, d_k = 64, d_v = 64;
    int64_t cells = 64;
    DType type_k = DType::f32, type_v = DType::f32;
    RotationSpec spec;
    bool v_in_k = false;
    int64_t v_first = 0;
    float scale = 0.125f, softcap = 0;
    int64_t window = 0;
    bool chunked = false;
    CellBounds bounds;
    Precision precision = Precision::f32;
    std::vector<float> sinks;  ///< [H] or empty

    // The tokens stored, and the queries asked. A batch of a model asks what it stores.
    std::vector<int32_t> streams, positions;      ///< [stored]
    std::vector<float> k, v;                      ///< [stored][K][Dk], [stored][K][Dv]
    std::vector<int32_t> q_streams, q_positions;  ///< [T]
    std::vector<float> q;                         ///< [T][H][Dk]

    /// `tokens` in each of `n_streams` streams, keys with loud channels; each token asks once.
    void fill(int64_t n_streams, int64_t tokens, uint64_t seed) {
        streams.clear();
        positions.clear();
        for (int32_t s = 0; s < n_streams; ++s) {
            for (int32_t p = 0; p < tokens; ++p) {
                streams.push_back(s);
                positions.push_back(p);
            }
        }
        const int64_t stored = int64_t(streams.size());
        k = loud_channels(stored * kv_heads, d_k, seed, 16, 12.0);
        v = loud_channels(stored * kv_heads, d_v, seed + 1, 32, 6.0);
        q_streams = streams;
        q_positions = positions;
        q = normal_vector(stored * heads * d_k, seed + 2);
    }

    KvLayer layer() const {
        return {.kv_heads = kv_heads,
                .d_k = d_k,
                .d_v = d_v,
                .type_k = type_k,
                .type_v = type_v,
                .v_in_k = v_in_k,
                .v_first = v_first};
    }

    KvShape shape() const {
        KvShape shape{.streams = 1, .cells = cells, .layers = {layer()}};
        for (const int32_t s : streams) shape.streams = std::max(shape.streams, int64_t(s) + 1);
        return shape;
    }

    /// Stores the tokens, `per_call` at a time (0: all at once).
    void store(Backend& backend, KvCache& cache, size_t per_call = 0) const {
        const size_t step = per_call == 0 ? streams.size() : per_call;
        for (size_t first = 0; first < streams.size(); first += step) {
            const size_t count = std::min(step, streams.size() - first);
            const KvBatch batch = cache.place(std::span(streams).subspan(first, count),
                                              std::span(positions).subspan(first, count));
            store_rows(backend, cache, batch, first, count);
        }
    }

    /// Stores the keys and values of tokens first .. first + count, which have their cells, in one
    /// layer.
    void store_rows(Backend& backend, KvCache& cache, const KvBatch& batch, size_t first,
                    size_t count, int64_t layer = 0) const {
        const auto rows = [&](const std::vector<float>& x, int64_t d) {
            const auto begin = x.begin() + int64_t(first) * kv_heads * d;
            return upload(backend,
                          std::vector<float>(begin, begin + int64_t(count) * kv_heads * d));
        };
        const Buffer k_rows = rows(k, d_k), v_rows = rows(v, d_v);
        KvStoreArgs args{.k_cache = cache.k(layer),
                         .k = k_rows.view(DType::f32, {int64_t(count), kv_heads, d_k}),
                         .stream = batch.stream,
                         .cell = batch.cell,
                         .k_rotation = spec.at(layer, Side::k),
                         .v_rotation = spec.at(layer, Side::v),
                         .k_format = cache.format_rows(layer, Side::k),
                         .v_format = cache.format_rows(layer, Side::v),
                         .position = batch.position};
        if (!v_in_k) {
            args.v_cache = cache.v(layer);
            args.v = v_rows.view(DType::f32, {int64_t(count), kv_heads, d_v});
        }
        backend.run(args);
        backend.synchronize();
    }

    /// The queries' outputs [T][H][Dv], and their lse [T][H] if it is asked for.
    std::vector<float> attend(Backend& backend, const KvCache& cache, int64_t layer = 0,
                              std::vector<float>* lse = nullptr) const {
        const int64_t tokens = int64_t(q_streams.size());
        const Buffer q_rows = upload(backend, q);
        const Buffer stream = upload(backend, q_streams), position = upload(backend, q_positions);
        const Buffer dst(backend, size_t(tokens * heads * d_v) * sizeof(float));
        const Buffer sums(backend, size_t(tokens * heads) * sizeof(float));
        const Buffer sink = upload(backend, sinks.empty() ? std::vector<float>{0.0f} : sinks);
        AttentionArgs args{.dst = dst.view(DType::f32, {tokens, heads, d_v}),
                           .q = q_rows.view(DType::f32, {tokens, heads, d_k}),
                           .k_cache = cache.k(layer),
                           .v_cache = cache.v(layer),
                           .position = cache.positions(),
                           .used = cache.used(),
                           .q_stream = stream.view(DType::i32, {tokens}),
                           .q_position = position.view(DType::i32, {tokens}),
                           .scale = scale,
                           .softcap = softcap,
                           .window = window,
                           .chunked = chunked,
                           .bounds = bounds,
                           .k_rotation = spec.at(layer, Side::k),
                           .v_rotation = spec.at(layer, Side::v),
                           .precision = precision};
        if (!sinks.empty()) args.sinks = sink.view(DType::f32, {heads});
        if (lse != nullptr) args.lse = sums.view(DType::f32, {tokens, heads});
        backend.run(args);
        if (lse != nullptr) *lse = download_f32(backend, args.lse);
        return download_f32(backend, args.dst);
    }

    std::vector<float> run(Backend& backend, std::vector<float>* lse = nullptr) const {
        KvCache cache(backend, shape(), spec);
        store(backend, cache);
        return attend(backend, cache, 0, lse);
    }
};

/// Attention in f64 straight from its definition: no cache, no rotation, no quantization.
/// o = sum_t p_t v_t, p_t = exp(s_t) / (exp(sink) + sum exp(s_t)), s_t = cap(scale q . k_t).
/// lse [T][H], if it is asked for: log(exp(sink) + sum exp(s_t)).
inline std::vector<double> dense_attention(const CachedAttention& c,
                                           std::vector<double>* lse = nullptr) {
    const int64_t group = c.heads / c.kv_heads;
    const auto value = [&](size_t t, int64_t kv, int64_t j) {
        return c.v_in_k
                   ? double(c.k[(t * size_t(c.kv_heads) + size_t(kv)) * size_t(c.d_k) +
                                size_t(c.v_first + j)])
                   : double(c.v[(t * size_t(c.kv_heads) + size_t(kv)) * size_t(c.d_v) + size_t(j)]);
    };
    std::vector<double> out(c.q_streams.size() * size_t(c.heads * c.d_v), 0.0);
    for (size_t i = 0; i < c.q_streams.size(); ++i) {
        for (int64_t h = 0; h < c.heads; ++h) {
            double* o = out.data() + (i * size_t(c.heads) + size_t(h)) * size_t(c.d_v);
            double sum = c.sinks.empty() ? 0.0 : std::exp(double(c.sinks[size_t(h)]));
            for (size_t t = 0; t < c.streams.size(); ++t) {
                const int64_t distance = int64_t(c.q_positions[i]) - c.positions[t];
                if (c.streams[t] != c.q_streams[i] || c.q_positions[i] < 0 || distance < 0)
                    continue;
                const bool chunk = c.window > 0 && c.chunked;
                if (c.window > 0 && !chunk && distance >= c.window) continue;
                if (chunk && c.positions[t] / c.window < c.q_positions[i] / c.window) continue;
                if (c.positions[t] < c.bounds.position.from) continue;
                if (c.positions[t] >= c.bounds.position.to) continue;
                if (distance < c.bounds.distance.from || distance >= c.bounds.distance.to) continue;
                double s = 0;
                for (int64_t j = 0; j < c.d_k; ++j) {
                    s +=
                        double(c.q[(i * size_t(c.heads) + size_t(h)) * size_t(c.d_k) + size_t(j)]) *
                        double(c.k[(t * size_t(c.kv_heads) + size_t(h / group)) * size_t(c.d_k) +
                                   size_t(j)]);
                }
                s *= double(c.scale);
                if (c.softcap > 0) s = double(c.softcap) * std::tanh(s / double(c.softcap));
                const double p = std::exp(s);
                sum += p;
                for (int64_t j = 0; j < c.d_v; ++j) o[j] += p * value(t, h / group, j);
            }
            for (int64_t j = 0; j < c.d_v; ++j) o[j] /= sum > 0 ? sum : 1.0;
            if (lse != nullptr) lse->push_back(std::log(sum));
        }
    }
    return out;
}

/// The largest |a - b| over the largest |b|: a distance for laws that hold up to rounding. Infinite
/// if there is a NaN.
template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
    double largest = 0, apart = 0;
    for (size_t i = 0; i < b.size(); ++i) {
        largest = std::max(largest, std::fabs(double(b[i])));
        const double d = std::fabs(double(a[i]) - double(b[i]));
        if (std::isnan(d)) return INFINITY;
        apart = std::max(apart, d);
    }
    return a.size() == b.size() ? apart / std::max(largest, 1e-30) : INFINITY;
}

}  // namespace rotkv::test
