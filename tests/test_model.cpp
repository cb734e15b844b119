// Every architecture's forward pass against the same model written down in f64.
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/rotation_of.h"
#include "tests/tiny_model.h"

#include <algorithm>
#include <numeric>

using namespace rotkv;
using namespace rotkv::test;

namespace {

std::vector<int32_t> some_tokens(int64_t n) {
    Random random(99);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(random.below(TinyModel::words)));
    return tokens;
}

// The file of a small model, and the reference to run it on.
struct Opened {
    TemporaryFile file;
    GgufFile gguf;
    std::unique_ptr<Backend> ref = make_ref_backend();

    explicit Opened(const TinyModel& tiny)
        : file(tiny.name + ".gguf"), gguf(written(tiny, file.path())) {}

    static GgufFile written(const TinyModel& tiny, const std::string& path) {
        tiny.write(path);
        return GgufFile::open(path);
    }
    KvCache cache(const Model& model, const RotationSpec& spec = RotationSpec()) {
        const KvShape shape = model.config().cache_shape(1, 32, DType::f32, DType::f32);
        return KvCache(*ref, shape, spec);
    }
};

// The model's own result for tokens of stream 0 at positions first, first + 1 ...
std::vector<float> run(Model& model, KvCache& cache, std::span<const int32_t> tokens,
                       int32_t first) {
    std::vector<int32_t> positions(tokens.size());
    std::iota(positions.begin(), positions.end(), first);
    const std::vector<int32_t> streams(tokens.size(), 0);
    return download_f32(model.backend(), model.forward(cache, tokens, streams, positions));
}

// The same from position 0, `per_call` tokens at a time.
std::vector<float> run_model(const TinyModel& tiny, const std::vector<int32_t>& tokens,
                             size_t per_call, int64_t context = 64, bool phi3_window = false) {
    Opened opened(tiny);
    Model model(opened.gguf, *opened.ref, {.context = context, .phi3_window = phi3_window});
    KvCache cache = opened.cache(model);
    std::vector<float> result;
    for (size_t first = 0; first < tokens.size(); first += per_call) {
        const size_t count = std::min(per_call, tokens.size() - first);
        const std::vector<float> part =
            run(model, cache, std::span(tokens).subspan(first, count), int32_t(first));
        result.insert(result.end(), part.begin(), part.end());
    }
    return result;
}

std::string failure(const TinyModel& tiny) {
    try {
        run_model(tiny, {0}, 1);
    } catch (const Error& error) {
        return error.what();
    }
    return "accepted";
}

}  // namespace

TEST_CASE("model: every architecture equals its definition in f64") {
    for (const Architecture& architecture : architectures()) {
        const TinyModel tiny = TinyModel::make(architecture.name);
        const std::vector<int32_t> tokens = some_tokens(19);
        INFO(architecture.name);
        CHECK(distance(run_model(tiny, tokens, 19), tiny.forward(tokens)) < 1e-5);
        CHECK(distance(run_model(tiny, tokens, 7), tiny.forward(tokens)) < 1e-5);
    }
}

TEST_CASE("model: counts may be lists, one a layer, and matrices fused, in every architecture") {
    const std::vector<int32_t> tokens = some_tokens(19);
    for (const Architecture& architecture : architectures()) {
        TinyModel tiny = TinyModel::make(architecture.name, true);
        tiny.fused = !tiny.fused;
        INFO(architecture.name);
        CHECK(distance(run_model(tiny, tokens, 19), tiny.forward(tokens)) < 1e-5);
    }
}

TEST_CASE("model: lists that do not fit the layers, and counts of none, are refused by key") {
    const auto refused = [](const char* key, const GgufValue& value) {
        GgufWriter writer;
        for (const auto& [name, number] :
             std::map<std::string, uint32_t>{{"block_count", 2},
                                             {"embedding_length", 8},
                                             {"context_length", 64},
                                             {"attention.head_count", 2},
                                             {"feed_forward_length", 8}}) {
            if (name != key) writer.add("gemma3." + name, number);
        }
        writer.add("general.architecture", std::string_view("gemma3"));
        writer.add(std::string("gemma3.") + key, value);
        const std::vector<float> embedding(8 * 4, 1.0f);
        writer.add_tensor("token_embd.weight", view(embedding.data(), DType::f32, {4, 8}));
        const TemporaryFile file("lists.gguf");
        writer.write(file.path());
        try {
            read_config(GgufFile::open(file.path()), 8);
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("accepted");
    };
    using Ints = std::vector<int32_t>;
    CHECK(refused("attention.head_count_kv", GgufArray(Ints{1, 2})) == "accepted");
    CHECK(refused("attention.head_count_kv", GgufArray(Ints{1, 2, 2}))
              .find("gemma3.attention.head_count_kv: expected 2 values, one a layer, found 3") !=
          std::string::npos);
    CHECK(refused("feed_forward_length", GgufArray(Ints{8, 0}))
              .find("feed_forward_length: expected 1 to 268435456, found 0") != std::string::npos);
    CHECK(refused("attention.head_count", uint32_t(0)).find("expected 1 to") != std::string::npos);
    CHECK(refused("attention.head_count_kv", GgufArray(Ints{1, 3}))
              .find("layer 1 of 2 query and 3 KV heads") != std::string::npos);
    CHECK(refused("attention.sliding_window", uint32_t(0)) == "accepted");
    CHECK(refused("attention.sliding_window_pattern", GgufArray(std::vector<bool>{true}))
              .find("sliding_window_pattern: expected 2 values") != std::string::npos);
    CHECK(refused("block_count", uint32_t(5000)).find("at most 4096 layers") != std::string::npos);
}

TEST_CASE("model: layers may differ in their heads, and who cannot tell them apart says so") {
    ModelConfig config;
    config.plan = {{.heads = 2, .kv_heads = 1, .d_k = 8, .d_v = 8}, {.heads = 2, .kv_heads = 2}};
    CHECK_THROWS_WITH(config.equal_heads("rotkv-x"),
                      "rotkv-x: expected layers of equal heads, this model's differ");
}

TEST_CASE("model: a longer run than the original context takes the long RoPE factors") {
    const TinyModel tiny = TinyModel::make("phi3");
    TinyModel stretched = tiny;
    stretched.factors.assign(stretched.factors.size(), 9.0f);
    const std::vector<int32_t> tokens = some_tokens(19);
    CHECK(distance(run_model(tiny, tokens, 19, 5000), stretched.forward(tokens)) < 1e-5);
}

TEST_CASE("model: frequency factors in one tensor hold for every context") {
    TinyModel tiny = TinyModel::make("llama");
    for (int64_t i = 0; i < TinyModel::d / 2; ++i) tiny.factors.push_back(1.0f + 0.5f * float(i));
    const std::vector<int32_t> tokens = some_tokens(19);
    CHECK(distance(run_model(tiny, tokens, 19), tiny.forward(tokens)) < 1e-5);
    CHECK(distance(run_model(tiny, tokens, 19, 5000), tiny.forward(tokens)) < 1e-5);
}

TEST_CASE("model: another run on the same weights is as one that loads them") {
    const std::vector<int32_t> tokens = some_tokens(19);
    for (const Architecture& architecture : architectures()) {
        const TinyModel tiny = TinyModel::make(architecture.name);
        Opened opened(tiny);
        const Model first(opened.gguf, *opened.ref, {.context = 8});
        Model second(first, {.context = 64});
        KvCache cache = opened.cache(second);
        INFO(architecture.name);
        CHECK(distance(run(second, cache, tokens, 0), tiny.forward(tokens)) < 1e-5);
    }
}

TEST_CASE("model: a shifted cache answers as one that was filled at the new positions") {
    const std::vector<int32_t> tokens = some_tokens(12);
    for (const char* name : {"llama", "gemma3"}) {  // one RoPE for all layers, and two
        Opened opened(TinyModel::make(name));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        const auto answer = [&](int32_t first, int32_t difference) {
            KvCache cache = opened.cache(model, spec_of("k=16 v=none"));
            run(model, cache, std::span(tokens).first(11), first);
            cache.shift(0, 0, 64, difference, [&](int64_t layer) { return model.rope(layer); });
            return run(model, cache, std::span(tokens).last(1), first + 11 + difference);
        };
        INFO(name);
        CHECK(distance(answer(20, -13), answer(7, 0)) < 1e-5);
    }
}

TEST_CASE("model: each layer stores its keys and values under rotations of its own") {
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 64});
    std::vector<RotationSpec::Layer> layers;
    for (uint64_t l = 0; l < uint64_t(TinyModel::layers); ++l) {
        layers.push_back(
            {.k = {Rotation::Kind::signs, 16, l, 0}, .v = {Rotation::Kind::signs, 8, l + 100, 0}});
    }
    const RotationSpec spec(layers);
    KvCache plain = opened.cache(model), turned = opened.cache(model, spec);
    const std::vector<int32_t> tokens = some_tokens(19);
    CHECK(distance(run(model, turned, tokens, 0), run(model, plain, tokens, 0)) < 1e-5);
    const auto rows_of = [&](const KvCache& cache, int64_t layer, Side side) {
        TensorView rows = side == Side::k ? cache.k(layer) : cache.v(layer);
        rows.n[1] = 19;
        return rows;
    };
    for (int64_t layer = 0; layer < TinyModel::layers; ++layer) {
        for (const Side side : {Side::k, Side::v}) {
            const TensorView rows = rows_of(turned, layer, side);
            opened.ref->run(HadamardArgs{
                .dst = rows, .src = rows, .rotation = spec.at(layer, side), .inverse = true});
            INFO("layer " << layer << (side == Side::k ? " k" : " v"));
            CHECK(distance(download_f32(*opened.ref, rows),
                           download_f32(*opened.ref, rows_of(plain, layer, side))) < 1e-5);
        }
    }
}

TEST_CASE("model: who looks on sees every call, its layer, and the precision asked for") {
    Opened opened(TinyModel::make("gemma3"));
    std::vector<int64_t> layers;
    int64_t products = 0, attentions = 0;
    const Observer look = [&](int64_t layer, const Call& call, Backend& backend) {
        layers.push_back(layer);
        Call exact = call;
        if (auto* product = std::get_if<MatmulArgs>(&exact)) {
            products += product->precision == Precision::bf16;
            product->precision = Precision::f32;
        } else if (auto* attention = std::get_if<AttentionArgs>(&exact)) {
            attentions += attention->precision == Precision::f16;
            attention->precision = Precision::f32;
        }
        backend.run(exact);
    };
    Model model(opened.gguf, *opened.ref,
                {.context = 64,
                 .precision = {.products = Precision::bf16, .attention = Precision::f16},
                 .observer = look});
    KvCache cache = opened.cache(model);
    run(model, cache, some_tokens(3), 0);
    CHECK(products == TinyModel::layers * 7);  // q, k, v, their output, gate, up, down
    CHECK(attentions == TinyModel::layers);
    REQUIRE(layers.size() > 2);
    CHECK(layers.front() == -1);  // the embeddings
    CHECK(layers.back() == -1);   // the last norm
    const std::span<const int64_t> inside = std::span(layers).subspan(1, layers.size() - 2);
    CHECK(inside.front() == 0);
    CHECK(inside.back() == TinyModel::layers - 1);
    CHECK(std::ranges::is_sorted(inside));
}

TEST_CASE("model: phi3's window counts only when it is asked for") {
    TinyModel tiny = TinyModel::make("phi3");
    const std::vector<int32_t> tokens = some_tokens(19);
    const std::vector<double> without = tiny.forward(tokens);
    tiny.pattern = TinyModel::layers + 1;  // written to the file: a window on every layer
    CHECK(distance(run_model(tiny, tokens, 19, 64, true), tiny.forward(tokens)) < 1e-5);
    CHECK(distance(run_model(tiny, tokens, 19, 64, false), without) < 1e-5);
    CHECK(distance(tiny.forward(tokens), without) > 1e-3);
}

TEST_CASE("model: a file that is not what it says is refused by tensor and key") {
    TinyModel unknown = TinyModel::make("llama");
    unknown.name = "mamba";
    CHECK(failure(unknown).find("architecture 'mamba' is unknown, known are llama, qwen2") !=
          std::string::npos);

    TinyModel missing = TinyModel::make("llama");
    missing.weights.erase("blk.2.ffn_norm.weight");
    CHECK(failure(missing).find("blk.2.ffn_norm.weight") != std::string::npos);

    TinyModel shape = TinyModel::make("llama");
    shape.weights["blk.1.attn_q.weight"].resize(48 * 32);
    CHECK(failure(shape).find("blk.1.attn_q.weight: expected [64][48], found") !=
          std::string::npos);

    TinyModel more = TinyModel::make("llama");
    more.weights["blk.0.attn_q_norm.weight"] = std::vector<float>(16, 1.0f);
    CHECK(failure(more).find("blk.0.attn_q_norm.weight has no place") != std::string::npos);
}

TEST_CASE("model: tokens and positions outside their ranges change nothing") {
    const TinyModel tiny = TinyModel::make("llama");
    const TemporaryFile file("ranges.gguf");
    tiny.write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    const std::unique_ptr<Backend> ref = make_ref_backend();
    Model model(gguf, *ref, {.context = 8});
    KvCache cache(*ref, model.config().cache_shape(1, 4, DType::f32, DType::f32), RotationSpec());
    using Ints = std::vector<int32_t>;
    CHECK_THROWS_AS(model.forward(cache, Ints{53}, Ints{0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{-1}, Ints{0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{1}, Ints{0}, Ints{8}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{1, 2}, Ints{0, 0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints(5, 1), Ints(5, 0), Ints{0, 1, 2, 3, 4}), Error);
    CHECK(download(*ref, cache.used()) == std::vector<std::byte>(4));
}
