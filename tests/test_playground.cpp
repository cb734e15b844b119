// The playground's stages against the cache that they take apart, and its C interface.
#include "ref/error.h"
#include "ref/kernels.h"
#include "ref/kv_cache.h"
#include "ref/quant.h"
#include "tests/catch.h"
#include "tools/playground/example_keys.h"
#include "tools/playground/exports.h"
#include "tools/playground/stored_keys.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

using namespace rotkv;
using namespace rotkv::playground;
using nlohmann::json;

namespace {

constexpr int64_t k_d = 64, k_first = 1024, k_count = 16;

std::vector<float> example_keys() {
    return keys_like(example_row("a few loud", k_d, 4), k_count, 5);
}

Cache cache_of(const char* type, const Rotation& rotation) {
    return {
        .type = *find_cache_type(type), .rotation = rotation, .d = k_d, .first_position = k_first};
}

// What class KvCache keeps of the first key: stored and, where there is a difference, moved by it.
std::vector<std::byte> kept(const Cache& cache, const std::vector<float>& keys, int32_t difference,
                            RopePairs pairs) {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const KvLayer layer{.kv_heads = 1, .d_k = k_d, .d_v = k_d, .type_k = cache.type};
    KvCache all(*ref, {.cells = k_count, .layers = {layer}}, RotationSpec::of(cache.rotation, {}));
    std::vector<int32_t> positions;
    for (int32_t i = 0; i < k_count; ++i) positions.push_back(int32_t(k_first) + i);
    const KvBatch batch = all.place(std::vector<int32_t>(k_count, 0), positions);
    KvStoreArgs args;
    args.k = args.v = view(keys.data(), DType::f32, {k_count, 1, k_d});
    args.k_cache = all.k(0);
    args.v_cache = all.v(0);
    args.stream = batch.stream;
    args.cell = batch.cell;
    args.position = batch.position;
    args.k_rotation = cache.rotation;
    args.k_format = all.format_rows(0, Side::k);
    ref->run(args);
    if (difference != 0) {
        RopeConfig rope;
        rope.pairs = pairs;
        rope.n_rot = k_d;
        all.shift(0, 0, INT32_MAX, difference, [&](int64_t) { return rope; });
    }
    std::vector<std::byte> bytes(size_t(row_bytes(cache.type, k_d)));
    all.read_cells(0, 0, Side::k, bytes);
    return bytes;
}

const std::vector<Cache>& caches() {
    static const std::vector<Cache> all = {
        cache_of("q4_0", {.kind = Rotation::Kind::sylvester, .block = 64}), cache_of("q5_1", {}),
        cache_of("tqmse3", {.kind = Rotation::Kind::signs, .block = 32, .seed = 7}),
        cache_of("fp8_e4m3:32", {.kind = Rotation::Kind::sylvester, .block = 2})};
    return all;
}

json answered(const char* text) { return json::parse(text); }

}  // namespace

TEST_CASE("playground: what is shown as stored is what the cache keeps") {
    const std::vector<float> keys = example_keys();
    for (const Cache& cache : caches()) {
        INFO(cache.type.name());
        std::vector<std::byte> bytes = store(cache, keys).bytes;
        bytes.resize(size_t(row_bytes(cache.type, k_d)));
        CHECK(bytes == kept(cache, keys, 0, RopePairs::norm));
    }
}

TEST_CASE("playground: a shift's last step is what the cache keeps behind one") {
    const std::vector<float> keys = example_keys();
    for (const Cache& cache : caches()) {
        for (const RopePairs pairs : {RopePairs::norm, RopePairs::neox}) {
            INFO(cache.type.name());
            const std::vector<ShiftStep> steps = shift(cache, keys, -100, pairs, false);
            REQUIRE(steps.size() == 5);
            const std::vector<std::byte> bytes = kept(cache, keys, -100, pairs);
            std::vector<float> cells(k_d);
            if (cache.type.format() != nullptr) {
                cache.type.format()->decode(cells, bytes, {.position = k_first - 100});
            } else {
                ref::dequantize_row(cache.type.cells(), cells.data(), bytes.data(), k_d);
            }
            CHECK(steps.back().row == cells);
            CHECK(steps.back().error > steps.front().error);  // a second rounding
            if (cache.rotation.block < 32) continue;  // pairs of pairs are nearly what RoPE turns
            const std::vector<ShiftStep> wrong = shift(cache, keys, -100, pairs, true);
            CHECK(wrong.back().error > 5 * steps.back().error);
        }
    }
}

TEST_CASE("playground: codes, scale and minimum of a block are what is read") {
    const std::vector<float> keys = example_keys();
    for (const DType type : quantized_types()) {
        INFO(type_info(type).name);
        const Cache cache{.type = type, .d = k_d};
        const StoredKeys stored = store(cache, keys);
        const CodeInfo& codes = type_info(type).codes;
        const std::vector<StoredBlock> blocks =
            blocks_of(type, std::span(stored.bytes).first(size_t(row_bytes(type, k_d))));
        REQUIRE(blocks.size() == 2);
        for (int64_t i = 0; i < k_d; ++i) {
            const StoredBlock& block = blocks[size_t(i / 32)];
            const int code = block.codes[size_t(i % 32)];
            const int level = codes.levels != nullptr ? codes.levels[code] : code - codes.zero();
            CHECK(std::isnan(block.minimum) != codes.minimum);
            CHECK(block.scale * float(level) + (codes.minimum ? block.minimum : 0.0f) ==
                  stored.cells[size_t(i)]);
        }
    }
}

TEST_CASE("playground: weights are the softmax of the scores, and rotation changes neither") {
    const std::vector<float> keys = example_keys(), q = example_query(k_d, 6);
    const Cache cache = cache_of("f32", {.kind = Rotation::Kind::signs, .block = 64, .seed = 3});
    const Attended exact = attend(q, keys, {});
    const Attended turned = attend(q, store(cache, keys).cells, cache.rotation);
    double sum = 0;
    for (const double score : exact.score) sum += std::exp(score);
    for (size_t c = 0; c < size_t(k_count); ++c) {
        CHECK(std::abs(double(exact.weight[c]) - std::exp(exact.score[c]) / sum) < 1e-6);
        CHECK(std::abs(exact.score[c] - turned.score[c]) < 1e-5);
    }
    Attended other = exact;
    other.score[3] -= 2;
    other.weight[3] -= 0.25f;
    other.weight[5] += 0.25f;
    CHECK(change(exact, other).largest_score == 2);
    CHECK(std::abs(change(exact, other).probability - 0.25) < 1e-6);
    other.score[1] = std::numeric_limits<double>::quiet_NaN();
    CHECK(std::isnan(change(exact, other).largest_score));
}

TEST_CASE("playground: errors and refusals are words and nulls, never numbers") {
    CHECK(answered(rotkv_playground_types(0))["error"].is_string());
    CHECK(answered(rotkv_playground_types(257))["error"].is_string());
    CHECK(answered(rotkv_playground_example("loud", 64, 1))["error"].is_string());
    CHECK(answered(rotkv_playground_example("normal", 64, 1))["row"].size() == 64);
    CHECK(answered(rotkv_playground_store(80, "q4_0", "none", 1))["error"].is_string());
    CHECK(answered(rotkv_playground_store(64, "q4_9", "none", 1))["error"].is_string());
    CHECK(answered(rotkv_playground_store(64, "exl3:99", "none", 1))["error"].is_string());
    CHECK(answered(rotkv_playground_store(64, "q4_0", "128", 1))["error"].is_string());
    CHECK(answered(rotkv_playground_store(64, "q4_0", "", 1))["error"].is_string());
    const json torn = answered(rotkv_playground_shift(64, "kivi_keys:2", "none", 1, -100, 0, 0));
    CHECK(torn["error"].is_string());  // groups of tokens
    rotkv_playground_row()[3] = std::numeric_limits<float>::infinity();
    const json found = answered(rotkv_playground_store(64, "q4_0", "64", 1));
    CHECK(found["relative_error"].is_null());
    CHECK(found["largest_score_change"].is_null());
    CHECK(found["back"][0].is_null());
    CHECK(std::isnan(relative_error(std::vector<float>{1}, std::vector<float>{0})));
    CHECK(relative_error(std::vector<float>{0}, std::vector<float>{0}) == 0);
}

TEST_CASE("playground: examples fill rows of 16 channels and more, and are refused for fewer") {
    for (const char* name : example_names()) {
        for (int32_t d = 1; d <= 256; ++d) {
            INFO(name << ", " << d);
            const json found = json::parse(rotkv_playground_example(name, d, 3));
            if (d < 16) {
                CHECK(found.contains("error"));
            } else {
                CHECK(found["row"].size() == size_t(d));
            }
        }
    }
    const json unknown = json::parse(rotkv_playground_example("\xff", 64, 3));
    CHECK(unknown.contains("error"));
}
