// rotkv.h: caches behind handles.
#include "ref/files/cache_file.h"
#include "ref/files/model_fingerprint.h"
#include "tools/bindings/open_model.h"
#include "tools/bindings/rope.h"
#include "tools/loaded_model.h"

using namespace rotkv;
using namespace rotkv::bindings;

constexpr int32_t k_most_positions = 1 << 29;  // so that sums of two fit

// The body of a function on a cache, in its turn.
static rotkv_status on(rotkv_cache* cache, const std::function<void(Backend&)>& body) {
    return at_border([&] {
        const Turn turn(*needed(cache, "cache").open);
        body(turn.backend());
    });
}

static const KvLayer& layer_of(const rotkv_cache& cache, int64_t layer) {
    require_number("layer", layer, 0, cache.cache.shape().n_layers() - 1);
    return cache.cache.shape().layers[std::size_t(layer)];
}

static void require_batch(const rotkv_cache& cache) {
    require(cache.placed >= 0, ErrorCode::bad_argument,
            "cache: no batch: rotkv_cache_place() comes first");
}

static void require_stream(const rotkv_cache& cache, int64_t stream) {
    require_number("stream", stream, 0, cache.cache.shape().streams - 1);
}

// Positions of a stream's cells up to the last one in use.
static std::span<const int32_t> positions_of(const rotkv_cache& cache, int64_t stream) {
    require_stream(cache, stream);
    const std::size_t cells = std::size_t(cache.cache.shape().cells);
    std::span<const int32_t> all =
        cache.cache.host_positions().subspan(std::size_t(stream) * cells, cells);
    while (!all.empty() && all.back() < 0) all = all.first(all.size() - 1);
    return all;
}

static uint64_t fingerprint_of(const rotkv_cache& cache) {
    return cache.of == nullptr ? 0 : model_fingerprint(cache.of->file);
}

rotkv_status rotkv_cache_open(rotkv_backend* backend, const rotkv_cache_shape* shape,
                              const char* cache_words, rotkv_cache** cache) {
    return at_border([&] {
        needed(cache, "cache") = nullptr;
        const rotkv_cache_shape given = known_part(shape, "shape");
        const tools::Variant variant = cache_of_words(cache_words);
        require_no_placement(variant, cache_words);
        require_number("shape.streams", given.streams, 1, 1 << 16);
        require_number("shape.cells", given.cells, 1, 1 << 24);
        require_number("shape.layers", given.layers, 1, 1 << 16);
        require_number("shape.kv_heads", given.kv_heads, 1, 1 << 16);
        require_number("shape.d_k", given.d_k, 1, 1 << 16);
        require_number("shape.d_v", given.d_v, 1, 1 << 16);
        const double values = double(given.streams) * double(given.cells) * double(given.layers) *
                              double(given.kv_heads) * double(given.d_k + given.d_v);
        if (values > double(int64_t(1) << 38)) {
            refuse("shape", "at most 2^38 values", std::to_string(values));
        }
        KvLayer layer{.kv_heads = given.kv_heads, .d_k = given.d_k, .d_v = given.d_v};
        layer.type_k = variant.type_k;
        layer.type_v = variant.type_v;
        const KvShape all{.streams = given.streams,
                          .cells = given.cells,
                          .layers = std::vector<KvLayer>(std::size_t(given.layers), layer)};
        const RotationSpec spec = decide_rotation(variant.rotation, all);
        require_rows_of_kernels(all, spec);
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        *cache = new rotkv_cache{open, nullptr, {}, KvCache(turn.backend(), all, spec), {}};
    });
}

void rotkv_cache_close(rotkv_cache* cache) {
    if (cache == nullptr) return;
    const std::shared_ptr<OpenBackend> open = cache->open;
    in_turn(open, [&] { delete cache; });
}

rotkv_status rotkv_cache_in_words(rotkv_cache* cache, char* text, size_t capacity, size_t* length) {
    return on(cache, [&](Backend&) {
        give_text(tools::describe_cache(cache->cache), text, capacity, length);
    });
}

rotkv_status rotkv_cache_place(rotkv_cache* cache, const int32_t* streams, const int32_t* positions,
                               int64_t tokens) {
    return on(cache, [&](Backend&) {
        require_number("tokens", tokens, 0, INT32_MAX);
        const std::vector<int32_t> stream =
            indices_or_zeros(streams, tokens, "streams", cache->cache.shape().streams - 1);
        const std::span<const int32_t> position =
            indices(positions, tokens, "positions", 0, k_most_positions);
        cache->placed = -1;
        cache->batch = cache->cache.place(stream, position);
        cache->placed = tokens;
    });
}

rotkv_status rotkv_cache_store(rotkv_cache* cache, int64_t layer, const rotkv_array* k,
                               const rotkv_array* v) {
    return on(cache, [&](Backend& backend) {
        const KvLayer& of = layer_of(*cache, layer);
        require_rows_of_kernels(cache->cache.shape(), cache->cache.spec());
        require_batch(*cache);
        require(!of.source, ErrorCode::bad_argument, "store: the layer reads another one's rows");
        if (!of.v_in_k) needed(v, "v");
        if (of.v_in_k && v != nullptr) refuse("v", "null, V lies in K", "rows");
        const KvCache& to = cache->cache;
        Arrays arrays(backend);
        const Rotation none;
        backend.run(
            KvStoreArgs{.k_cache = to.k(layer),
                        .v_cache = of.v_in_k ? TensorView() : to.v(layer),
                        .k = arrays.in(needed(k, "k"), "k"),
                        .v = v == nullptr ? TensorView() : arrays.in(*v, "v"),
                        .stream = cache->batch.stream,
                        .cell = cache->batch.cell,
                        .k_rotation = to.spec().at(layer, Side::k),
                        .v_rotation = of.v_in_k ? none : to.spec().at(layer, Side::v),
                        .k_format = to.format_rows(layer, Side::k),
                        .v_format = of.v_in_k ? FormatRows() : to.format_rows(layer, Side::v),
                        .position = cache->batch.position});
        arrays.finish();
    });
}

rotkv_status rotkv_cache_attend(rotkv_cache* cache, int64_t layer, const rotkv_array* dst,
                                const rotkv_array* lse, const rotkv_array* q, float scale,
                                float softcap, int64_t window) {
    return on(cache, [&](Backend& backend) {
        layer_of(*cache, layer);
        require_rows_of_kernels(cache->cache.shape(), cache->cache.spec());
        require_batch(*cache);
        const KvCache& from = cache->cache;
        Arrays arrays(backend);
        backend.run(AttentionArgs{.dst = arrays.out(needed(dst, "dst"), "dst"),
                                  .lse = lse == nullptr ? TensorView() : arrays.out(*lse, "lse"),
                                  .q = arrays.in(needed(q, "q"), "q"),
                                  .k_cache = from.k(layer),
                                  .v_cache = from.v(layer),
                                  .position = from.positions(),
                                  .used = from.used(),
                                  .q_stream = cache->batch.stream,
                                  .q_position = cache->batch.position,
                                  .scale = scale,
                                  .softcap = softcap,
                                  .window = window,
                                  .k_rotation = from.spec().at(layer, Side::k),
                                  .v_rotation = from.spec().at(layer, Side::v)});
        arrays.finish();
    });
}

rotkv_status rotkv_cache_shift(rotkv_cache* cache, int64_t stream, int32_t from, int32_t to,
                               int32_t difference, const rotkv_rope_config* config) {
    return on(cache, [&](Backend&) {
        require_stream(*cache, stream);
        require_number("from", from, 0, INT32_MAX);
        require_number("to", to, from, INT32_MAX);
        require_number("difference", difference, -k_most_positions, k_most_positions);
        if (config == nullptr && cache->of == nullptr) {
            refuse("config", "RoPE of a cache without a model", "null");
        }
        const std::optional<RopeConfig> rope =
            config == nullptr ? std::nullopt : std::optional(rope_of(config));
        cache->placed = -1;
        cache->cache.shift(stream, from, to, difference,
                           [&](int64_t layer) { return rope ? *rope : cache->model->rope(layer); });
    });
}

rotkv_status rotkv_cache_remove(rotkv_cache* cache, int64_t stream, int32_t from, int32_t to) {
    return on(cache, [&](Backend&) {
        require_stream(*cache, stream);
        cache->placed = -1;
        cache->cache.remove(stream, from, to);
    });
}

rotkv_status rotkv_cache_clear(rotkv_cache* cache) {
    return on(cache, [&](Backend&) {
        cache->placed = -1;
        cache->cache.clear();
    });
}

rotkv_status rotkv_cache_positions(rotkv_cache* cache, int64_t stream, int32_t* positions,
                                   int64_t capacity, int64_t* count) {
    return on(cache, [&](Backend&) {
        give_list(positions_of(*cache, stream), positions, capacity, count, "positions");
    });
}

rotkv_status rotkv_cache_bytes(rotkv_cache* cache, int64_t layer, int64_t stream, int32_t side,
                               uint8_t* bytes, int64_t capacity, int64_t* count) {
    return on(cache, [&](Backend&) {
        const KvLayer& of = layer_of(*cache, layer);
        require_number("side", side, 0, 1);
        require(of.kv_heads > 0 && !of.source && !(side == 1 && of.v_in_k), ErrorCode::bad_argument,
                "bytes: that layer has no rows of its own on that side");
        const Side one = side == 0 ? Side::k : Side::v;
        const int64_t row = row_bytes(of.type(one), one == Side::k ? of.d_k : of.d_v);
        const std::size_t n = positions_of(*cache, stream).size();
        std::vector<std::byte> cells(n * std::size_t(of.kv_heads * row));
        cache->cache.read_cells(layer, stream, one, cells);
        give_list(std::span(reinterpret_cast<const uint8_t*>(cells.data()), cells.size()), bytes,
                  capacity, count, "bytes");
    });
}

rotkv_status rotkv_cache_save(rotkv_cache* cache, const char* path) {
    return on(cache, [&](Backend&) {
        save_cache(cache->cache, fingerprint_of(*cache), text_at(path, "path"));
    });
}

rotkv_status rotkv_cache_load(rotkv_cache* cache, const char* path) {
    return on(cache, [&](Backend&) {
        cache->placed = -1;
        load_cache(cache->cache, fingerprint_of(*cache), text_at(path, "path"));
    });
}
