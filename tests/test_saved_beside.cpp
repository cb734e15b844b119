// What a saved cache holds by its file alone, and two of them beside each other.
#include "ref/files/cache_contents.h"
#include "ref/quant.h"
#include "tests/saved_cache.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"
#include "tools/saved_beside.h"
#include "tools/saved_report.h"
#include "tools/state_beside.h"

#include <cstring>
#include <numeric>

using namespace rotkv;
using namespace rotkv::test;
using namespace rotkv::tools;

namespace {

using Ints = std::vector<int32_t>;

SavedCache parsed(const std::string& bytes, const std::string& name = "a.rkv") {
    const std::span<const std::byte> all = std::as_bytes(std::span(bytes));
    return parse_saved_cache({all.begin(), all.end()}, name);
}

SavedCache saved(const KvCache& cache, const std::string& name = "a.rkv") {
    return parse_saved_cache(saved_bytes(cache, k_model), name);
}

// 20 tokens in three layers of two heads of 64, random numbers.
KvCache filled(Backend& backend, const CacheType& type, const Rotation& rotation) {
    KvLayer layer{.kv_heads = 2, .d_k = 64, .d_v = 64};
    layer.type_k = layer.type_v = type;
    KvCache cache(backend, {.streams = 1, .cells = 20, .layers = {layer, layer, layer}},
                  RotationSpec::of(rotation, rotation));
    Random random(5);
    const size_t bytes = size_t(row_bytes(type, 64));
    for (int64_t i = 0; i < 6; ++i) {
        const Side side = i % 2 == 0 ? Side::k : Side::v;
        std::vector<std::byte> rows(40 * bytes);
        for (size_t r = 0; r < 40; ++r) {
            std::vector<float> row(64);
            for (float& x : row) x = float(2 * random.uniform() - 1);
            const RowContext context{i / 2, int64_t(r % 2), side, int64_t(r / 2)};
            const std::span<std::byte> to = std::span(rows).subspan(r * bytes, bytes);
            if (type.format() != nullptr) {
                type.format()->encode(to, row, context);
            } else {
                ref::quantize_row(type.cells(), to.data(), row.data(), 64);
            }
        }
        cache.write_cells(i / 2, 0, side, rows);
    }
    Ints positions(20);
    std::iota(positions.begin(), positions.end(), 0);
    cache.set_positions(positions);
    return cache;
}

std::vector<std::byte> cells_of(const KvCache& cache, int64_t layer, Side side, int64_t tokens) {
    const KvLayer& kept = cache.shape().layers[size_t(layer)];
    const int64_t d = side == Side::k ? kept.d_k : kept.d_v;
    std::vector<std::byte> rows(size_t(tokens * kept.kv_heads * row_bytes(kept.type(side), d)));
    cache.read_cells(layer, 0, side, rows);
    return rows;
}

std::string refused(const SavedCache& a, const SavedCache& b) {
    try {
        hold_beside(a, b);
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::bad_file);
        return error.what();
    }
    return "no error";
}

const Rotation k_turned{Rotation::Kind::sylvester, 32};

}  // namespace

TEST_CASE("saved beside: what a file says is read without model and cache") {
    const SavedCache small = parsed(sealed(small_head() + small_positions() + small_data()));
    CHECK((small.version == 2 && small.fingerprint == k_model && small.cells == 4));
    CHECK((small.layers == 1 && small.streams.size() == 2 && small.tokens() == 3));
    CHECK(small.streams[0].position == Ints{7, -1, 8});
    const KvShape shape = shape_of(small);
    const std::vector<SavedRows> rows = rows_of(small, shape);
    REQUIRE(rows.size() == 4);  // K, V of stream 0; of stream 1
    CHECK((rows[1].stream == 0 && rows[1].side == Side::v && rows[1].bytes.size() == 16));
    std::vector<float> values(2);
    std::memcpy(values.data(), rows[3].bytes.data(), 8);
    CHECK(values == std::vector<float>{50, 60});

    const nlohmann::ordered_json said = describe(small, stderr);
    CHECK(said["model"] == "0x0123456789abcdef");
    CHECK(said["streams"][0] ==
          nlohmann::ordered_json{{"tokens", 2}, {"cells", 3}, {"first", 7}, {"last", 8}});
    CHECK(said["layers"][0]["rotation_of_K"] == "none");
    const std::string path = std::string(ROTKV_GOLDEN_DIR) + "/cache_version_1.rkv";
    const SavedCache old = read_saved_cache(path);
    CHECK((old.version == 1 && old.streams[1].tokens == 9));
    CHECK(describe(old, stderr)["layers"][0]["rotation"] == "k=signs/64/7 v=sylvester/32");
    CHECK(hold_beside(old, old).differ() == 0);
}

TEST_CASE("saved beside: one element that is stored otherwise is found, and by how much") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache = filled(*ref, DType::q8_0, {});
    const SavedCache before = saved(cache);
    CHECK(hold_beside(before, saved(cache)).differ() == 0);
    std::vector<std::byte> rows = cells_of(cache, 1, Side::v, 20);
    const int64_t heads = cache.shape().layers[1].kv_heads, d = cache.shape().layers[1].d_v;
    const size_t at = size_t((7 * heads + 1) * row_bytes(DType::q8_0, d)) + 2 + 5;
    const int8_t code = int8_t(rows[at]);
    rows[at] = std::byte(code > 0 ? code - 3 : code + 3);
    cache.write_cells(1, 0, Side::v, rows);
    const SavedBeside found = hold_beside(before, saved(cache));
    CHECK(found.differ() == 1);
    CHECK(found.elements() == 20 * cache.shape().n_layers() * 2 * heads * d);
    for (const HeadBeside& head : found.heads) {
        const bool changed = head.layer == 1 && head.side == Side::v && head.head == 1;
        CHECK(head.apart.differ() == changed);
        if (!changed) continue;
        CHECK(head.apart.most == Approx(3).epsilon(1e-5));
        CHECK((head.stream == 0 && head.position == 7 && head.apart.channel == 5));
    }
    CHECK((!within(found, 2.9) && within(found, 3.1)));
}

TEST_CASE("saved beside: cells may lie elsewhere, tokens are held together by position") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvCache cache = filled(*ref, DType::f16, k_turned), moved = filled(*ref, DType::f16, k_turned);
    Ints positions(20);
    for (int32_t c = 0; c < 20; ++c) positions[size_t(c)] = 19 - c;
    for (int64_t l = 0; l < cache.shape().n_layers(); ++l) {
        for (const Side side : {Side::k, Side::v}) {
            const std::vector<std::byte> rows = cells_of(cache, l, side, 20);
            const size_t bytes = rows.size() / 20;
            std::vector<std::byte> turned;
            for (size_t c = 20; c-- > 0;) {
                turned.insert(turned.end(), rows.begin() + int64_t(c * bytes),
                              rows.begin() + int64_t((c + 1) * bytes));
            }
            moved.write_cells(l, 0, side, turned);
        }
    }
    moved.set_positions(positions);
    CHECK(hold_beside(saved(cache), saved(moved)).differ() == 0);
    moved.remove(0, 4, 5);
    CHECK(refused(saved(cache), saved(moved, "b.rkv")) ==
          "b.rkv: stream 0: token 4: expected position 4, as a.rkv has, found position 5");
}

TEST_CASE("saved beside: a format of the zoo has no step, but its elements are compared") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const CacheType type = *find_cache_type("tqmse3");
    KvCache cache = filled(*ref, type, {});
    const SavedCache before = saved(cache);
    std::vector<std::byte> rows = cells_of(cache, 0, Side::k, 20);
    for (size_t i = 0; i < size_t(row_bytes(type, cache.shape().layers[0].d_k)); ++i) {
        rows[i] = ~rows[i];
    }
    cache.write_cells(0, 0, Side::k, rows);
    const SavedBeside found = hold_beside(before, saved(cache));
    REQUIRE(found.differ() > 0);
    for (const HeadBeside& head : found.heads) {
        CHECK(!head.in_steps);
        const bool changed = head.layer == 0 && head.side == Side::k && head.head == 0;
        CHECK((head.apart.differ() > 0) == changed);
        CHECK((head.position == 0) == changed);
    }
    CHECK(!within(found, 1e30));
}

TEST_CASE("saved beside: states are compared too") {
    Opened opened(TinyModel::make("qwen35"));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    const KvCache cache =
        filled_cache(model, model.config().cache_shape(1, 20, DType::f16, DType::f16),
                     RotationSpec(), some_tokens(20));
    REQUIRE(cache.state() != nullptr);
    const SavedCache before = saved(cache);
    REQUIRE(before.version == 3);
    const SavedBeside same = hold_beside(before, saved(cache));
    CHECK((same.states.elements > 0 && same.differ() == 0));
    SavedCache other = before;
    other.file[other.data_at + other.data_bytes - 1] ^= std::byte(0x40);
    CHECK(hold_beside(before, other).states.differ() == 1);
}

TEST_CASE("saved beside: what differs in meaning is named") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const SavedCache a = saved(filled(*ref, DType::q8_0, {}));
    const auto against = [&](const KvCache& cache, uint64_t model = k_model) {
        return refused(a, parse_saved_cache(saved_bytes(cache, model), "b.rkv"));
    };
    CHECK(against(filled(*ref, DType::q8_0, k_turned)) ==
          "b.rkv: layer 0: rotation of K: expected 'none', as a.rkv has, found '32'");
    CHECK(against(filled(*ref, DType::f16, {})) ==
          "b.rkv: layer 0: type of K: expected 'q8_0', as a.rkv has, found 'f16'");
    CHECK(against(filled(*ref, DType::q8_0, {}), 1) ==
          "b.rkv: model: expected 0x0123456789abcdef, as a.rkv has, found 0x0000000000000001");
}

TEST_CASE("saved beside: hostile files are refused in one line") {
    const std::string head = small_head(), rest = small_positions() + small_data();
    const auto says = [](const std::string& body, const std::string& words) {
        try {
            shape_of(parsed(sealed(body)));
        } catch (const Error& error) {
            const std::string what = error.what();
            CHECK(error.code() == ErrorCode::bad_file);
            CHECK((what.starts_with("a.rkv: ") && what.find('\n') == std::string::npos));
            return what.find(words) != std::string::npos;
        }
        return words == "no error";
    };
    CHECK(says(head + rest, "no error"));
    // The streams at 36, the layers at 44, their extents from 52 on, the type of K at 100.
    const auto with = [&](size_t at, uint64_t n) {
        return std::string(head).replace(at, 8, raw(n)) + rest;
    };
    for (const uint64_t n : {uint64_t(1) << 30, uint64_t(1) << 62, ~uint64_t(0)}) {
        CHECK(says(with(36, n), "streams: " + std::to_string(n) + " does not fit"));
        CHECK(says(with(44, n), "layers: " + std::to_string(n) + " does not fit"));
        CHECK(says(with(52, n), "layer 0: kv_heads: expected 0 .. 1048576"));
        CHECK(says(with(60, n), "layer 0: d_k: expected 0 .. 1048576"));
        CHECK(says(with(76, n), "layer 0: v_in_k: expected 0 .. 1"));
        CHECK(says(with(92, n), "layer 0: source: expected 0 .. 0"));
    }
    CHECK(says(with(52, 1 << 20), "layer 0: keys, values and states: expected bytes of them"));
    CHECK(says(with(60, 0), "layer 0: d_k: expected heads that f32 can keep, found no channels"));
    CHECK(says(with(60, 1), "expected 36 bytes of keys, values and states, found 48"));
    CHECK(says(std::string(head).replace(108, 3, "q\n\x1b") + rest,
               "layer 0: type of K: expected a type of saved caches, found "));
    // Version 1 says how many layers there are, and nothing of each.
    const auto alike = [&](uint64_t layers) {
        return "rotkv-kv" + raw(uint32_t(1)) + numbers({0, k_model}) + text("f32") + text("f32") +
               text("k=none v=none") + numbers({4, layers, 2, 0, 2, 2, 0, 0}) + rest;
    };
    CHECK(says(alike(65537), "layers: "));
    CHECK(says(alike(1), "expected 0 bytes of keys, values and states, found 48"));
    const std::string good = sealed(head + rest);
    for (size_t n = 0; n < good.size(); ++n) {
        REQUIRE_THROWS_AS(parsed(good.substr(0, n)), Error);
    }
}
