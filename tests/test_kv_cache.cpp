// The cache: who gets which cell, and what moving keys to other positions does to them.
#include "ref/error.h"
#include "ref/kernels.h"
#include "ref/quant.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"

#include <cmath>
#include <cstring>

using namespace rotkv;
using namespace rotkv::test;

namespace {

KvShape shape_of(int64_t streams, int64_t cells) {
    return {.streams = streams,
            .cells = cells,
            .layers = std::vector<KvLayer>(2, {.kv_heads = 1, .d_k = 64, .d_v = 64})};
}

std::vector<int32_t> ints(Backend& backend, const TensorView& tensor) {
    const std::vector<std::byte> bytes = download(backend, tensor);
    std::vector<int32_t> values(bytes.size() / sizeof(int32_t));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
}

using Ints = std::vector<int32_t>;

RopeConfig rope_config() {
    RopeConfig config;
    config.n_rot = 64;
    config.pairs = RopePairs::neox;
    return config;
}

// A cache of one layer whose keys are `k` turned to positions first, first + 1, ...
struct TurnedKeys {
    TurnedKeys(Backend& backend, DType type, const RotationSpec& spec, int32_t first) {
        constexpr int64_t tokens = 24;
        CachedAttention c;
        c.heads = c.kv_heads = 2;
        c.cells = 32;
        c.type_k = c.type_v = type;
        c.spec = spec;
        c.fill(1, tokens, 31);
        Ints positions;
        for (int32_t p = 0; p < tokens; ++p) positions.push_back(first + p);
        c.positions = positions;
        const std::vector<float> table = rope_table(rope_config(), positions);
        for (int64_t row = 0; row < tokens * 2; ++row) {
            float* key = c.k.data() + row * 64;
            ref::rope_row(key, key, 64, table.data() + row / 2 * 64, 64, RopePairs::neox);
        }
        cache = std::make_unique<KvCache>(backend, c.shape(), spec);
        c.store(backend, *cache);
    }
    std::unique_ptr<KvCache> cache;
};

// All keys of layer 0 as they were before rotation.
std::vector<float> plain_keys(Backend& backend, const KvCache& cache) {
    const TensorView k = cache.k(0);
    const int64_t rows = 24 * 2;
    const Buffer memory(backend, size_t(rows * 64) * sizeof(float));
    const TensorView f32 = memory.view(DType::f32, {24, 2, 64});
    TensorView used = k;
    used.n[1] = 24;
    backend.run(DequantizeArgs{.dst = f32, .src = used});
    backend.run(HadamardArgs{
        .dst = f32, .src = f32, .rotation = cache.spec().at(0, Side::k), .inverse = true});
    return download_f32(backend, f32);
}

}  // namespace

TEST_CASE("kv_cache: cells are given in order, positions are shared by all layers") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, shape_of(2, 4), RotationSpec());
    const KvBatch first = cache.place(Ints{0, 0, 1}, Ints{5, 6, 9});
    CHECK(ints(*ref, first.cell) == Ints{0, 1, 0});
    CHECK(ints(*ref, first.stream) == Ints{0, 0, 1});
    CHECK(ints(*ref, first.position) == Ints{5, 6, 9});
    CHECK(ints(*ref, cache.positions()) == Ints{5, 6, -1, -1, 9, -1, -1, -1});
    CHECK(ints(*ref, cache.used()) == Ints{2, 1});

    cache.remove(0, 5, 6);
    CHECK(ints(*ref, cache.positions()) == Ints{-1, 6, -1, -1, 9, -1, -1, -1});
    const KvBatch second = cache.place(Ints{0, 0, 0}, Ints{7, 8, 9});
    CHECK(ints(*ref, second.cell) == Ints{0, 2, 3});
    CHECK(ints(*ref, cache.used()) == Ints{4, 1});

    cache.remove(0, 8, 10);
    CHECK(ints(*ref, cache.used()) == Ints{2, 1});
    cache.clear();
    CHECK(ints(*ref, cache.used()) == Ints{0, 0});
}

TEST_CASE("kv_cache: what does not fit changes nothing") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache(*ref, shape_of(2, 4), RotationSpec());
    cache.place(Ints{0, 0, 1}, Ints{0, 1, 0});
    const Ints before = ints(*ref, cache.positions());
    CHECK_THROWS_AS(cache.place(Ints{0, 0, 0}, Ints{2, 3, 4}), Error);
    CHECK_THROWS_AS(cache.place(Ints{1, 2}, Ints{1, 1}), Error);
    CHECK_THROWS_AS(cache.place(Ints{1, -1}, Ints{1, 1}), Error);
    CHECK_THROWS_AS(cache.place(Ints{1}, Ints{-1}), Error);
    CHECK_THROWS_AS(cache.place(Ints{1}, Ints{1, 2}), Error);
    CHECK_THROWS_AS(cache.remove(2, 0, 1), Error);
    CHECK(ints(*ref, cache.positions()) == before);

    KvShape block = shape_of(1, 4);
    block.layers[1].type_k = DType::q4_0;
    block.layers[1].d_k = 80;
    CHECK_THROWS_AS(KvCache(*ref, block, RotationSpec()), Error);
    KvShape weight = shape_of(1, 4);
    weight.layers[0].type_v = DType::q4_k;
    CHECK_THROWS_AS(KvCache(*ref, weight, RotationSpec()), Error);
    CHECK_THROWS_AS(KvCache(*ref, shape_of(0, 4), RotationSpec()), Error);
    CHECK_THROWS_AS(KvCache(*ref, shape_of(1, 4), spec_of("k=128 v=none")), Error);
}

TEST_CASE("kv_cache: bytes per token") {
    KvLayer layer{.kv_heads = 3, .d_k = 64, .d_v = 64};
    const auto of_30 = [&] { return KvShape{.layers = std::vector(30, layer)}.bytes_per_token(); };
    CHECK(of_30() == 30 * 3 * (64 + 64) * 2);
    layer.type_k = DType::q4_0;
    layer.type_v = DType::q8_0;
    CHECK(of_30() == 30 * 3 * (2 * 18 + 2 * 34));
    layer.v_in_k = true;
    CHECK(of_30() == 30 * 3 * 2 * 18);

    KvShape shape{.layers = {layer, {.kv_heads = 2, .d_k = 8, .d_v = 4}, {}, layer}};
    CHECK(shape.bytes_per_token() == 2 * 3 * 2 * 18 + 2 * (8 + 4) * 2);
    shape.layers[3].source = 0;  // the first layer's rows again
    CHECK(shape.bytes_per_token() == 3 * 2 * 18 + 2 * (8 + 4) * 2);
}

TEST_CASE("kv_store: a cell of -1 is skipped, V stays out where it is a view of K") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const Buffer cache = upload(*ref, std::vector<float>(3 * 64, 7.0f));
    const std::vector<float> x = normal_vector(2 * 64, 1);
    const Buffer k = upload(*ref, x), stream = upload(*ref, Ints{0, 0}),
                 cell = upload(*ref, Ints{-1, 2});
    const TensorView keys = cache.view(DType::f32, {1, 3, 1, 64});
    ref->run(KvStoreArgs{.k_cache = keys,
                         .k = k.view(DType::f32, {2, 1, 64}),
                         .stream = stream.view(DType::i32, {2}),
                         .cell = cell.view(DType::i32, {2})});
    const std::vector<float> stored = download_f32(*ref, keys);
    for (size_t i = 0; i < 128; ++i) REQUIRE(stored[i] == 7.0f);
    CHECK(std::memcmp(&stored[128], &x[64], 64 * sizeof(float)) == 0);
}

TEST_CASE("kv_shift: equals recomputing the keys at their new positions") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    for (const char* text : {"k=none v=none", "k=64 v=none", "k=64:2 v=none"}) {
        const RotationSpec spec = spec_of(text);
        const TurnedKeys moved(*ref, DType::f32, spec, 100);
        const TurnedKeys target(*ref, DType::f32, spec, 83);
        moved.cache->shift(0, 0, 1000, -17, [](int64_t) { return rope_config(); });
        INFO(text);
        CHECK(distance(plain_keys(*ref, *moved.cache), plain_keys(*ref, *target.cache)) < 1e-5);
        CHECK(ints(*ref, moved.cache->positions()) == ints(*ref, target.cache->positions()));
    }
}

TEST_CASE("kv_shift: by a and then by b equals by a + b") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const RotationSpec spec = spec_of("k=64:2 v=none");
    const auto rope = [](int64_t) { return rope_config(); };
    const TurnedKeys twice(*ref, DType::f32, spec, 50), once(*ref, DType::f32, spec, 50);
    twice.cache->shift(0, 0, 1000, 30, rope);
    twice.cache->shift(0, 0, 1000, -12, rope);
    once.cache->shift(0, 0, 1000, 18, rope);
    CHECK(distance(plain_keys(*ref, *twice.cache), plain_keys(*ref, *once.cache)) < 1e-5);
}

TEST_CASE("kv_shift: a quantized cache is turned, not garbled") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const RotationSpec spec = spec_of("k=64 v=none");
    const TurnedKeys moved(*ref, DType::q8_0, spec, 100);
    const TurnedKeys target(*ref, DType::f32, spec, 83);
    moved.cache->shift(0, 0, 1000, -17, [](int64_t) { return rope_config(); });
    // Two roundings to 8 bits: steps of 1/127 of a block's largest value, half of it each time.
    CHECK(distance(plain_keys(*ref, *moved.cache), plain_keys(*ref, *target.cache)) < 0.02);
}

TEST_CASE("kv_shift: only the named positions move, and none below 0") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const TurnedKeys keys(*ref, DType::f32, RotationSpec(), 10);
    const std::vector<float> before = plain_keys(*ref, *keys.cache);
    const auto rope = [](int64_t) { return rope_config(); };
    CHECK_THROWS_AS(keys.cache->shift(0, 10, 20, -11, rope), Error);
    CHECK(distance(plain_keys(*ref, *keys.cache), before) == 0);
    CHECK(ints(*ref, keys.cache->positions())[0] == 10);

    keys.cache->shift(0, 20, 30, 5, rope);
    const Ints positions = ints(*ref, keys.cache->positions());
    CHECK(positions[9] == 19);
    CHECK(positions[10] == 25);
    CHECK(positions[19] == 34);
    CHECK(positions[20] == 30);  // the end is not among them
    const std::vector<float> after = plain_keys(*ref, *keys.cache);
    CHECK(std::memcmp(before.data(), after.data(), 10 * 128 * sizeof(float)) == 0);
    for (size_t row = 10 * 128; row < 20 * 128; row += 128) {
        CHECK(std::memcmp(&before[row], &after[row], 128 * sizeof(float)) != 0);
    }
    CHECK(std::memcmp(&before[20 * 128], &after[20 * 128], 4 * 128 * sizeof(float)) == 0);
}
