// Caches that matrices turn: models see nothing of them, their keys move, and they are saved.
#include "ref/context_shift.h"
#include "ref/rotation_policy.h"
#include "ref/rotation_words.h"
#include "tests/laws.h"
#include "tests/saved_cache.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"
#include "tools/watch/one_layer.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// An orthogonal matrix for each KV head, no two alike.
MatrixPointer for_heads(int64_t heads, std::vector<int64_t> parts, uint64_t seed) {
    std::vector<float> values;
    int64_t d = 0;
    for (int64_t h = 0; h < heads; ++h) {
        const auto source = find_matrix_source("dense:" + std::to_string(seed + uint64_t(h)));
        const MatrixPointer one = source->at({.parts = parts});
        values.insert(values.end(), one->values().begin(), one->values().end());
        d = one->d();
    }
    return std::make_shared<const RotationMatrix>("test", heads, d, std::move(values));
}

// Of every layer and KV head its own.
RotationSpec spec_for(const KvShape& shape, uint64_t seed) {
    std::vector<RotationSpec::Layer> layers;
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[size_t(l)];
        RotationSpec::Layer entry;
        if (layer.source) {
            entry = layers[size_t(*layer.source)];
        } else if (layer.kv_heads > 0) {
            const uint64_t own = seed + uint64_t(100 * l);
            std::vector<int64_t> parts = {layer.d_k};
            if (layer.v_in_k) parts = {layer.d_v, layer.d_k - layer.d_v};
            entry.k_matrix = for_heads(layer.kv_heads, parts, own);
            entry.v_matrix =
                layer.v_in_k
                    ? std::make_shared<const RotationMatrix>(entry.k_matrix->part(0, layer.d_v))
                    : for_heads(layer.kv_heads, {layer.d_v}, own + 50);
        }
        layers.push_back(entry);
    }
    return RotationSpec(layers);
}

KvCache turned_cache(Opened& opened, const Model& model) {
    const KvShape shape = model.config().cache_shape(1, 32, DType::f32, DType::f32);
    return opened.cache(model, spec_for(shape, 1));
}

RopeConfig rope_of(int64_t n_rot) {
    RopeConfig rope;
    rope.n_rot = n_rot;
    rope.base = 100;
    return rope;
}

// Rows of a cache in plain channels.
std::vector<float> plain_keys(Backend& backend, const KvCache& cache) {
    const TensorView cells = cache.k(0), matrix = cache.matrix(0, Side::k);
    const Buffer memory(backend, size_t(cells.rows() * cells.n[3]) * sizeof(float));
    const TensorView x = memory.view(DType::f32, {cells.n[0] * cells.n[1], cells.n[2], cells.n[3]});
    backend.run(DequantizeArgs{
        .dst = memory.view(DType::f32, {cells.n[0], cells.n[1], cells.n[2], cells.n[3]}),
        .src = cells});
    if (!matrix.empty()) {
        backend.run(TurnArgs{.dst = x, .src = x, .matrix = matrix, .inverse = true});
    }
    return download_f32(backend, x);
}

// Tokens 0 .. 5 of both streams in a cache of one layer, keys turned as the model turns them.
void store(Backend& backend, KvCache& cache, const std::vector<float>& k) {
    const KvLayer& layer = cache.shape().layers[0];
    const int64_t tokens = int64_t(k.size()) / layer.kv_heads / layer.d_k;
    std::vector<int32_t> streams, positions;
    for (int64_t t = 0; t < tokens; ++t) {
        streams.push_back(int32_t(t * 2 / tokens));
        positions.push_back(int32_t(t % (tokens / 2)));
    }
    const KvBatch batch = cache.place(streams, positions);
    const Buffer rows = upload(backend, k);
    const TensorView x = rows.view(DType::f32, {tokens, layer.kv_heads, layer.d_k});
    if (!cache.matrix(0, Side::k).empty()) {
        backend.run(TurnArgs{.dst = x, .src = x, .matrix = cache.matrix(0, Side::k)});
    }
    KvStoreArgs args{.k_cache = cache.k(0),
                     .k = x,
                     .stream = batch.stream,
                     .cell = batch.cell,
                     .k_format = cache.format_rows(0, Side::k),
                     .position = batch.position};
    if (!layer.v_in_k) {
        args.v_cache = cache.v(0);
        args.v = x;
        args.v_format = cache.format_rows(0, Side::v);
    }
    backend.run(args);
    backend.synchronize();
}

}  // namespace

TEST_CASE("matrix rotation: turn and back are what they say, head by head") {
    const MatrixPointer m = for_heads(2, {24}, 5);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        const Buffer matrix =
            upload(*backend, std::vector<float>(m->values().begin(), m->values().end()));
        const std::vector<float> x = normal_vector(3 * 4 * 24, 8);
        const Buffer memory = upload(*backend, x);
        const TensorView rows = memory.view(DType::f32, {3, 4, 24});
        TurnArgs args{.dst = rows, .src = rows, .matrix = matrix.view(DType::f32, {2, 24, 24})};
        if (!backend->supports(args).yes) continue;
        backend->run(args);
        const std::vector<float> y = download_f32(*backend, rows);
        for (int64_t row = 0; row < 12; ++row) {
            for (int64_t i = 0; i < 24; ++i) {
                double sum = 0;  // heads 0 and 1 read KV head 0, heads 2 and 3 KV head 1
                for (int64_t j = 0; j < 24; ++j) {
                    sum += double(m->values()[size_t(((row % 4 / 2) * 24 + i) * 24 + j)]) *
                           double(x[size_t(row * 24 + j)]);
                }
                CHECK(std::fabs(double(y[size_t(row * 24 + i)]) - sum) < 1e-5);
            }
        }
        args.inverse = true;
        backend->run(args);
        const std::vector<float> back = download_f32(*backend, rows);
        for (size_t i = 0; i < x.size(); ++i) {
            CHECK(std::fabs(double(back[i]) - double(x[i])) < 1e-5);
        }
    }
}

TEST_CASE("matrix rotation: every architecture answers as without it") {
    const std::vector<int32_t> tokens = some_tokens(13);
    for (const Architecture& architecture : architectures()) {
        INFO(architecture.name);
        Opened opened(TinyModel::make(architecture.name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        KvCache plain = opened.cache(model), turned = turned_cache(opened, model);
        const std::vector<float> expected = run_parts(model, plain, tokens, 5);
        CHECK(distance(run_parts(model, turned, tokens, 5), expected) < 1e-5);
        const int64_t first = [&] {
            for (int64_t l = 0;; ++l) {
                if (turned.shape().layers[size_t(l)].kv_heads > 0) return l;
            }
        }();
        CHECK(distance(download_f32(*opened.ref, turned.k(first)),
                       download_f32(*opened.ref, plain.k(first))) > 0.1);
    }
}

TEST_CASE("matrix rotation: a shifted cache answers as one that no matrix turns") {
    const std::vector<int32_t> tokens = some_tokens(16);
    for (const char* name : {"llama", "gemma3", "cohere2", "deepseek2"}) {
        Opened opened(TinyModel::make(name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        const auto answer = [&](KvCache cache) {
            run(model, cache, std::span(tokens).first(11), 0);
            shift_context(cache, 0, 11, 3, [&](int64_t layer) { return model.rope(layer); });
            return run(model, cache, std::span(tokens).last(5), 7);
        };
        INFO(name);
        CHECK(distance(answer(turned_cache(opened, model)), answer(opened.cache(model))) < 1e-5);
    }
}

TEST_CASE("matrix rotation: keys move in every type, and those that stay keep their bytes") {
    const int64_t kv_heads = 3, d = 64;
    const std::vector<float> k = normal_vector(12 * kv_heads * d, 3);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        if (!backend->supports(TurnArgs{}).yes) continue;
        for (const char* type : {"f32", "q8_0", "q4_0", "tqmse4"}) {
            INFO(backend->name() << " " << type);
            const CacheType kept = *find_cache_type(type);
            const KvLayer layer{
                .kv_heads = kv_heads, .d_k = d, .d_v = d, .type_k = kept, .type_v = kept};
            const KvShape shape{.streams = 2, .cells = 9, .layers = {layer}};
            KvCache plain(*backend,
                          {.streams = 2,
                           .cells = 9,
                           .layers = {{.kv_heads = kv_heads,
                                       .d_k = d,
                                       .d_v = d,
                                       .type_k = DType::f32,
                                       .type_v = DType::f32}}},
                          RotationSpec());
            KvCache turned(*backend, shape, spec_for(shape, 7));
            store(*backend, plain, k);
            store(*backend, turned, k);
            const std::vector<std::byte> before = contents(*backend, turned);
            for (KvCache* cache : {&plain, &turned}) {
                cache->shift(1, 2, 5, 4, [](int64_t) { return rope_of(64); });
            }
            const std::vector<float> expected = plain_keys(*backend, plain);
            const std::vector<float> found = plain_keys(*backend, turned);
            const std::vector<std::byte> after = contents(*backend, turned);
            double error = 0, square = 0;
            for (int64_t c = 9; c < 15; ++c) {  // the tokens of stream 1
                for (int64_t i = c * kv_heads * d; i < (c + 1) * kv_heads * d; ++i) {
                    error += std::pow(double(found[size_t(i)]) - double(expected[size_t(i)]), 2);
                    square += std::pow(double(expected[size_t(i)]), 2);
                }
            }
            // once when stored, and three of six once more when moved
            const double most = std::string(type) == "f32"    ? 1e-12
                                : std::string(type) == "q8_0" ? 1e-4
                                                              : 0.03;
            CHECK(error / square < most);
            CHECK(turned.host_positions()[9 + 3] == 7);
            // Stream 0 and the tokens before 2 are as they were.
            KvCache untouched(*backend, shape, turned.spec());
            store(*backend, untouched, k);
            for (const int64_t stream : {0, 1}) {
                const int64_t still = stream == 0 ? 6 : 2;
                std::vector<std::byte> rows(size_t(still * kv_heads * row_bytes(kept, d)));
                std::vector<std::byte> same = rows;
                turned.read_cells(0, stream, Side::k, rows);
                untouched.read_cells(0, stream, Side::k, same);
                CHECK(rows == same);
            }
            CHECK(before != after);
        }
    }
}

TEST_CASE("matrix rotation: of a latent row what lies behind V moves, the latent stays") {
    for (const char* type : {"f32", "q8_0", "tqmse4"}) {
        INFO(type);
        const CacheType kept = *find_cache_type(type);
        const KvLayer layer{
            .kv_heads = 1, .d_k = 96, .d_v = 64, .type_k = kept, .type_v = kept, .v_in_k = true};
        KvLayer exact = layer;
        exact.type_k = exact.type_v = DType::f32;
        const std::vector<float> k = normal_vector(12 * 96, 3);
        const std::unique_ptr<Backend> ref = make_ref_backend();
        const KvShape shape{.streams = 2, .cells = 6, .layers = {layer}};
        KvCache turned(*ref, shape, spec_for(shape, 7));
        KvCache plain(*ref, {.streams = 2, .cells = 6, .layers = {exact}}, RotationSpec());
        for (KvCache* cache : {&plain, &turned}) {
            store(*ref, *cache, k);
            cache->shift(0, 1, 6, 3, [](int64_t) { return rope_of(32); });
        }
        const std::vector<float> expected = plain_keys(*ref, plain),
                                 found = plain_keys(*ref, turned);
        double error = 0;
        for (size_t i = 0; i < found.size(); ++i) {
            error = std::max(error, std::fabs(double(found[i]) - double(expected[i])));
        }
        CHECK(error < (std::string(type) == "f32"    ? 1e-5
                       : std::string(type) == "q8_0" ? 0.1
                                                     : 1.5));
    }
}

TEST_CASE("matrix rotation: a saved cache knows its matrix, and no other takes it") {
    const TemporaryFolder folder;
    const std::string path = folder.file("m.rkv");
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const KvLayer layer{
        .kv_heads = 2, .d_k = 32, .d_v = 32, .type_k = DType::q8_0, .type_v = DType::q8_0};
    const KvShape shape{.streams = 2, .cells = 6, .layers = {layer}};
    KvCache saved(*ref, shape, spec_for(shape, 7)), again(*ref, shape, spec_for(shape, 7));
    store(*ref, saved, normal_vector(12 * 2 * 32, 3));
    save_cache(saved, k_model, path);
    load_cache(again, k_model, path);
    CHECK(contents(*ref, again) == contents(*ref, saved));
    KvCache other(*ref, shape, spec_for(shape, 8)), none(*ref, shape, RotationSpec());
    const std::string name = rotation_name(saved.spec(), 0, Side::k);
    CHECK(name.starts_with("matrix:"));
    CHECK(name.size() == 7 + 16);
    CHECK(refusal(*ref, other, k_model, path) == "layer 0: rotation of K: expected '" +
                                                     rotation_name(other.spec(), 0, Side::k) +
                                                     "', found '" + name + "'");
    CHECK(refusal(*ref, none, k_model, path) ==
          "layer 0: rotation of K: expected 'none', found '" + name + "'");
    CHECK(describe(saved.spec(), 0, Side::k) == "test, " + name + " (not asked for)");
}

TEST_CASE("matrix rotation: matrices that do not fit a cache are refused") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const auto refused = [&](const KvLayer& layer, const MatrixPointer& k, const MatrixPointer& v) {
        try {
            KvCache(*ref, {.streams = 1, .cells = 4, .layers = {layer}},
                    RotationSpec({{.k_matrix = k, .v_matrix = v}}));
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("accepted");
    };
    const KvLayer two{.kv_heads = 2, .d_k = 32, .d_v = 32};
    CHECK(refused(two, for_heads(1, {32}, 1), for_heads(2, {32}, 1)) == "accepted");
    CHECK(refused(two, for_heads(3, {32}, 1), nullptr) ==
          "cache K of type f16: expected 1 or 2 rotation matrices of 32 channels, found 3 of 32");
    CHECK(refused(two, nullptr, for_heads(2, {16}, 1)).find("found 2 of 16") != std::string::npos);
    const KvLayer row{.kv_heads = 1, .d_k = 96, .d_v = 64, .v_in_k = true};
    const MatrixPointer mixes = for_heads(1, {96}, 1), apart = for_heads(1, {64, 32}, 1);
    const auto part = std::make_shared<const RotationMatrix>(apart->part(0, 64));
    CHECK(refused(row, apart, part) == "accepted");
    CHECK(refused(row, apart, nullptr).find("of both or of neither") != std::string::npos);
    CHECK(refused(row, mixes, part).find("mixes channels 0 to 63") != std::string::npos);
    CHECK(refused(row, apart, for_heads(1, {64}, 2)).find("the part of its rotation matrix") !=
          std::string::npos);
    const Rotation also{.kind = Rotation::Kind::sylvester, .block = 32};
    CHECK_THROWS_AS(RotationSpec({{.k = also, .k_matrix = for_heads(1, {32}, 1)}}), Error);
}

TEST_CASE(
    "matrix rotation: one layer of a cache that a matrix turns, the others of one it does not") {
    const std::vector<int32_t> tokens = some_tokens(9);
    Opened opened(TinyModel::make("gemma3"));
    tools::OneLayer one_layer;
    Model model(opened.gguf, *opened.ref, {.context = 64, .observer = one_layer.observer()});
    KvCache plain = opened.cache(model), turned = turned_cache(opened, model);
    const std::vector<float> expected = run(model, plain, tokens, 0);
    for (KvCache* own : {&plain, &turned}) {
        KvCache& other = own == &plain ? turned : plain;
        own->clear();
        one_layer.replace(other, 1);
        CHECK(distance(run(model, *own, tokens, 0), expected) < 1e-5);
        one_layer.restore();
    }
}
