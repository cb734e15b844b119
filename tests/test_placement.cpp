// First and recent tokens in f16, end layers of another type: what models compute with such caches,
// where the parts end, and what is refused.
// Docs: docs/20-zoo.md
#include "ref/context_shift.h"
#include "ref/files/cache_file.h"
#include "ref/half.h"
#include "tests/laws.h"
#include "tests/refused_call.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_run.h"

#include <algorithm>
#include <cmath>

namespace rotkv::test {
namespace {

/// Values as f16, or as f32: rows that are the same wherever they are read, and yet in a format.
template <class Number>
class Plain final : public Format {
  public:
    Plain() : Format(sizeof(Number) == 2 ? "plain16" : "plain32") {}
    std::string refusal(int64_t) const override { return {}; }
    int64_t row_bytes(int64_t d) const override { return d * int64_t(sizeof(Number)); }
    void encode(std::span<std::byte> codes, std::span<const float> row,
                const RowContext&) const override {
        Number* const to = reinterpret_cast<Number*>(codes.data());
        for (size_t i = 0; i < row.size(); ++i) {
            if constexpr (sizeof(Number) == 2) to[i] = f32_to_f16(row[i]);
            if constexpr (sizeof(Number) == 4) to[i] = row[i];
        }
    }
    void decode(std::span<float> row, std::span<const std::byte> codes,
                const RowContext&) const override {
        const Number* const from = reinterpret_cast<const Number*>(codes.data());
        for (size_t i = 0; i < row.size(); ++i) {
            if constexpr (sizeof(Number) == 2) row[i] = f16_to_f32(from[i]);
            if constexpr (sizeof(Number) == 4) row[i] = from[i];
        }
    }
};

CacheType plain16() { return CacheType(std::make_shared<Plain<uint16_t>>()); }
CacheType plain32() { return CacheType(std::make_shared<Plain<float>>()); }

constexpr int64_t k_cells = 32;

// What attention's last bit comes to, where a value of a later layer is rounded to another f16.
constexpr double k_of_f16 = 5e-4;

KvCache placed(Model& model, const CacheType& k, const CacheType& v, const Placement& placement,
               const RotationSpec& spec = RotationSpec()) {
    return KvCache(model.backend(), placement.in(model.config().cache_shape(1, k_cells, k, v)),
                   spec);
}

Placement tokens(int64_t first, int64_t recent) {
    return {.tokens = {.first = first, .recent = recent}};
}

// The largest difference, in units of the largest value.
double difference(std::span<const float> a, std::span<const float> b) {
    REQUIRE(a.size() == b.size());
    double most = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        most = std::max(most, std::fabs(double(a[i]) - double(b[i])));
        size = std::max(size, std::fabs(double(a[i])));
    }
    return most / size;
}

// Heads that share keys, windows, sinks, softcap, rows of other layers, V inside K.
const char* const k_kinds[] = {"llama", "gemma2", "gpt-oss", "gemma4", "deepseek2", "qwen2"};

TEST_CASE("placement: parts of the same rows are the whole") {
    const std::vector<int32_t> text = some_tokens(20);
    for (const char* name : k_kinds) {
        Opened opened(TinyModel::make(name));
        for (const std::unique_ptr<Backend>& backend : all_backends()) {
            Model model(opened.gguf, *backend, {.context = 64});
            KvCache whole = placed(model, DType::f16, DType::f16, {});
            const std::vector<float> expected = run_parts(model, whole, text, 6);
            for (const auto& [first, recent] :
                 {std::pair<int64_t, int64_t>{0, 0}, {4, 0}, {0, 1}, {0, 7}, {3, 5}, {64, 64}}) {
                CAPTURE(name, backend->name(), first, recent);
                KvCache cache = placed(model, plain16(), plain16(), tokens(first, recent));
                CHECK(difference(expected, run_parts(model, cache, text, 6)) < k_of_f16);
                if (whole.shape().layers[0].v_in_k) continue;  // K's type is V's
                KvCache sides = placed(model, DType::f16, plain16(), tokens(first, recent));
                CHECK(difference(expected, run_parts(model, sides, text, 6)) < k_of_f16);
            }
        }
    }
}

TEST_CASE("placement: no tokens in f16 are the plain cache, to the bit") {
    const std::vector<int32_t> text = some_tokens(20);
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    const CacheType polar = *find_cache_type("polar");
    KvCache plain(*opened.ref, model.config().cache_shape(1, k_cells, polar, polar),
                  RotationSpec());
    KvCache none = placed(model, polar, polar, tokens(0, 0));
    CHECK(none.f16_rows(0).k.empty());
    CHECK(run_parts(model, plain, text, 6) == run_parts(model, none, text, 6));
}

TEST_CASE("placement: rows of few bits are read from the first cell that is in neither part on") {
    // The query at position p sees one cell in the main type as soon as p - first >= recent.
    const std::vector<int32_t> text = some_tokens(20);
    for (const char* name : {"llama", "deepseek2"}) {
        Opened opened(TinyModel::make(name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        const CacheType coarse = *find_cache_type("fp8_e5m2");
        KvCache whole = placed(model, DType::f16, DType::f16, {});
        const std::vector<float> expected = run_parts(model, whole, text, 20);
        const size_t width = expected.size() / text.size();
        for (const auto& [first, recent] :
             {std::pair<int64_t, int64_t>{4, 8}, {0, 3}, {5, 1}, {1, 2}}) {
            CAPTURE(name, first, recent);
            KvCache cache = placed(model, coarse, coarse, tokens(first, recent));
            const std::vector<float> found = run_parts(model, cache, text, 20);
            const size_t border = size_t(first + recent) * width;
            CHECK(difference(std::span(expected).first(border), std::span(found).first(border)) <
                  k_of_f16);
            CHECK(difference(std::span(expected).subspan(border, width),
                             std::span(found).subspan(border, width)) > 4 * k_of_f16);
        }
        // With no recent tokens, a query's own is of the main type, unless it is a first one.
        KvCache cache = placed(model, coarse, coarse, tokens(4, 0));
        const std::vector<float> found = run_parts(model, cache, text, 20);
        CHECK(difference(std::span(expected).first(4 * width), std::span(found).first(4 * width)) <
              k_of_f16);
        CHECK(difference(std::span(expected).subspan(4 * width, width),
                         std::span(found).subspan(4 * width, width)) > 4 * k_of_f16);
    }
}

TEST_CASE("placement: parts may be turned each in its own way") {
    const std::vector<int32_t> text = some_tokens(20);
    const RotationSpec spec =
        RotationSpec::of({.kind = Rotation::Kind::signs, .block = 16, .seed = 3},
                         {.kind = Rotation::Kind::sylvester, .block = 8});
    for (const char* name : {"llama", "gpt-oss"}) {
        Opened opened(TinyModel::make(name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        KvCache whole = placed(model, DType::f32, DType::f32, {});
        const std::vector<float> expected = run_parts(model, whole, text, 6);
        KvCache cache = placed(model, plain32(), plain32(), tokens(3, 4), spec);
        CHECK(difference(expected, run_parts(model, cache, text, 6)) < 3e-3);  // f16
        CHECK(!cache.f16_rows(0).k_rotation.on());
    }
}

TEST_CASE("placement: a shift turns the keys in f16 too") {
    const std::vector<int32_t> text = some_tokens(24);
    for (const char* name : {"llama", "gemma3", "deepseek2"}) {
        CAPTURE(name);
        Opened opened(TinyModel::make(name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        const auto rope = [&](int64_t layer) { return model.rope(layer); };
        KvCache whole = placed(model, DType::f16, DType::f16, {});
        KvCache cache = placed(model, plain16(), plain16(), tokens(2, 6));
        std::vector<float> ends[2];
        for (KvCache* one : {&whole, &cache}) {
            run_parts(model, *one, {text.begin(), text.begin() + 16}, 5);
            CHECK(shift_context(*one, 0, 16, 2, rope) == 7);
            ends[one == &cache] = run(model, *one, std::span(text).subspan(16, 8), 9);
        }
        CHECK(difference(ends[0], ends[1]) < k_of_f16);
    }
}

TEST_CASE("placement: what has no rows in f16 cannot become first or recent") {
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    const auto rope = [&](int64_t layer) { return model.rope(layer); };
    const std::vector<int32_t> text = some_tokens(16);
    KvCache cache = placed(model, plain16(), plain16(), tokens(4, 6));
    run_parts(model, cache, text, 16);
    const std::vector<int32_t> before(cache.host_positions().begin(), cache.host_positions().end());
    CHECK(refusal([&] { shift_context(cache, 0, 16, 2, rope); }, ErrorCode::unsupported) ==
          "cache: the first 4 tokens are kept in f16, one at position 9 cannot become one of them");
    CHECK(refusal([&] { cache.shift(0, 8, 16, 3, rope); }, ErrorCode::unsupported) ==
          "cache: recent tokens are kept in f16, older ones cannot move towards them");
    CHECK(std::ranges::equal(before, cache.host_positions()));
    CHECK(shift_context(cache, 0, 16, 4, rope) == 6);
    KvCache of_first = placed(model, plain16(), plain16(), tokens(4, 0));
    run_parts(model, of_first, text, 16);
    of_first.shift(0, 8, 16, 3, rope);  // recent ones have nothing of their own there

    const TemporaryFolder folder;
    const std::string path = (folder.path / "saved").string();
    const std::string words =
        "saved caches: the rows of first and recent tokens in f16 are not saved";
    CHECK(refusal([&] { save_cache(cache, 1, path); }, ErrorCode::unsupported) == words);
    CHECK(refusal([&] { load_cache(cache, 1, path); }, ErrorCode::unsupported) == words);
}

TEST_CASE("placement: a side of a layer has its own type, whatever the ends have") {
    const KvLayer layer{
        .kv_heads = 2, .d_k = 64, .d_v = 64, .type_k = DType::q4_0, .type_v = DType::q8_0};
    KvShape shape{.layers = std::vector<KvLayer>(5, layer)};
    shape.layers[2].source = 1;
    shape.layers[3].kv_heads = 0;
    Placement placement{.end_layers = 1, .ends = DType::q5_0};
    placement.layers = {{Side::k, 0, DType::f16}, {Side::v, 1, DType::q4_1}};
    CHECK(placement.any());
    const KvShape with = placement.in(shape);
    const std::vector<std::pair<CacheType, CacheType>> types = {{DType::f16, DType::q5_0},
                                                                {DType::q4_0, DType::q4_1},
                                                                {DType::q4_0, DType::q4_1},
                                                                {DType::q4_0, DType::q8_0},
                                                                {DType::q5_0, DType::q5_0}};
    for (size_t l = 0; l < types.size(); ++l) {
        CAPTURE(l);
        CHECK(with.layers[l].type_k == types[l].first);
        CHECK(with.layers[l].type_v == types[l].second);
    }
    const auto refused = [&](const LayerType& one) {
        return refusal([&] { Placement{.layers = {one}}.in(shape); }, ErrorCode::usage);
    };
    CHECK(refused({Side::k, 5, DType::f16}) == "k:5: expected layers 0 to 4");
    CHECK(refused({Side::v, 2, DType::f16}) ==
          "v:2: this layer keeps no keys and values of its own");
    CHECK(refused({Side::v, 3, DType::f16}) ==
          "v:3: this layer keeps no keys and values of its own");
    for (KvLayer& one : shape.layers) one.v_in_k = true;
    const KvShape latent = Placement{.layers = {{Side::k, 1, DType::q5_0}}}.in(shape);
    CHECK(latent.layers[1].type_v == CacheType(DType::q5_0));
}

TEST_CASE("placement: bytes are those of the type, and of so many tokens in f16") {
    const KvLayer layer{
        .kv_heads = 2, .d_k = 64, .d_v = 64, .type_k = DType::q4_0, .type_v = DType::q8_0};
    KvShape shape{.streams = 3, .cells = 100, .layers = std::vector<KvLayer>(6, layer)};
    shape.layers[4].source = 3;
    Placement placement = tokens(4, 16);
    placement.ends = DType::q8_0;
    placement.end_layers = 2;
    const KvShape with = placement.in(shape);
    // Layers with rows of their own: 0 1 2 3 5. The first and last two: 0 1, 3 5; 4 reads 3.
    const int64_t q8 = 2 * 2 * 68, mixed = 2 * (36 + 68);
    CHECK(with.bytes_per_token() == 4 * q8 + mixed);
    CHECK(with.layers[2].type_k == CacheType(DType::q4_0));
    CHECK(with.layers[4].type_k == CacheType(DType::q8_0));
    CHECK(with.f16_bytes_per_stream() == 20 * 5 * 2 * 2 * 128);
    KvShape small = with;
    small.cells = 12;
    CHECK(small.f16_bytes_per_stream() == 12 * 5 * 2 * 2 * 128);
    // Sides that are f16 or more have no second rows; V inside K has K's.
    KvShape half = with;
    for (KvLayer& one : half.layers) one.type_v = DType::f16;
    CHECK(half.f16_bytes_per_stream() == 20 * 5 * 2 * 128);
    for (KvLayer& one : half.layers) one.type_k = DType::f32;
    CHECK(half.f16_bytes_per_stream() == 0);
    CHECK(shape.f16_bytes_per_stream() == 0);
    CHECK(with != shape);
    const std::unique_ptr<Backend> ref = make_ref_backend();
    KvShape negative = shape;
    negative.f16_tokens.recent = -1;
    CHECK(refusal([&] { KvCache(*ref, negative, RotationSpec()); }, ErrorCode::bad_argument) ==
          "cache: expected no fewer than 0 tokens in f16");
}

}  // namespace
}  // namespace rotkv::test
