// Every architecture's forward pass against the same model written down in f64.
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/forwarding_backend.h"
#include "tests/tiny_model.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

std::vector<int32_t> some_tokens(int64_t n) {
    Random random(99);
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < n; ++i) tokens.push_back(int32_t(random.below(TinyModel::words)));
    return tokens;
}

// The model's own result for one stream from position 0, `per_call` tokens at a time.
std::vector<float> run_model(const TinyModel& tiny, const std::vector<int32_t>& tokens,
                             size_t per_call, int64_t context = 64, bool phi3_window = false) {
    const TemporaryFile file(tiny.name + ".gguf");
    tiny.write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    const std::unique_ptr<Backend> ref = make_ref_backend();
    Model model(gguf, *ref, {.context = context, .phi3_window = phi3_window});
    KvCache cache(*ref, model.config().cache_shape(1, 32, DType::f32, DType::f32), RotationSpec());
    std::vector<float> result;
    for (size_t first = 0; first < tokens.size(); first += per_call) {
        const size_t count = std::min(per_call, tokens.size() - first);
        std::vector<int32_t> positions(count);
        for (size_t i = 0; i < count; ++i) positions[i] = int32_t(first + i);
        const std::vector<int32_t> streams(count, 0);
        const TensorView hidden =
            model.forward(cache, std::span(tokens).subspan(first, count), streams, positions);
        const std::vector<float> part = download_f32(*ref, hidden);
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
        TinyModel tiny = TinyModel::make(architecture.name);
        tiny.lists = true;
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
    CHECK(
        refused("attention.head_count", GgufArray(Ints{2, 4}))
            .find("head_count: expected heads of 4 channels in every layer, found 2 in layer 1") !=
        std::string::npos);
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
    more.weights["blk.0.attn_norm_2.weight"] = std::vector<float>(48, 1.0f);
    CHECK(failure(more).find("blk.0.attn_norm_2.weight has no place") != std::string::npos);
}

TEST_CASE("model: norms are where the file has them, and where the architecture needs them") {
    for (const char* name : {"qwen3", "gemma2", "gemma3"}) {
        for (const auto& [tensor, values] : TinyModel::make(name).weights) {
            const bool of_heads = tensor.find("_q_norm") != std::string::npos ||
                                  tensor.find("_k_norm") != std::string::npos;
            if (!of_heads && tensor.find(".post_") == std::string::npos) continue;
            TinyModel without = TinyModel::make(name);
            without.weights.erase(tensor);
            INFO(name << " without " << tensor);
            CHECK(failure(without).find(tensor) != std::string::npos);
        }
    }
    TinyModel more = TinyModel::make("qwen2");
    const TinyModel from = TinyModel::make("qwen3");
    for (const auto& [tensor, values] : from.weights) {
        if (tensor.find("_q_norm") == std::string::npos &&
            tensor.find("_k_norm") == std::string::npos)
            continue;
        more.weights[tensor] = values;
    }
    more.qk_norm = true;
    const std::vector<int32_t> tokens = some_tokens(19);
    CHECK(distance(run_model(more, tokens, 19), more.forward(tokens)) < 1e-5);
}

TEST_CASE("model: weights of a file that is refused are released") {
    class Counting : public ForwardingBackend {
      public:
        Counting() : ForwardingBackend(make_ref_backend()) {}
        std::byte* import(std::span<const std::byte> bytes) override {
            ++imported;
            return ForwardingBackend::import(bytes);
        }
        void free_memory(std::byte* memory) override {
            ++freed;
            ForwardingBackend::free_memory(memory);
        }
        int imported = 0, freed = 0;
    };
    TinyModel tiny = TinyModel::make("llama");
    tiny.weights["blk.0.attn_sinks.weight"] = std::vector<float>(48, 1.0f);
    const TemporaryFile file("refused.gguf");
    tiny.write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    Counting backend;
    CHECK_THROWS_WITH(Model(gguf, backend, {.context = 8}),
                      Catch::Contains("blk.0.attn_sinks.weight has no place"));
    CHECK(backend.imported > 0);
    CHECK(backend.freed == backend.imported);
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

TEST_CASE("model: a cache of another model is refused, and nothing is placed") {
    const TinyModel tiny = TinyModel::make("llama");
    const TemporaryFile file("caches.gguf");
    tiny.write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    const std::unique_ptr<Backend> ref = make_ref_backend();
    Model model(gguf, *ref, {.context = 8});
    const auto refused = [&](const std::function<void(KvShape&)>& change) {
        KvShape shape = model.config().cache_shape(1, 4, DType::f16, DType::f16);
        change(shape);
        KvCache cache(*ref, shape, RotationSpec());
        using Ints = std::vector<int32_t>;
        try {
            model.forward(cache, Ints{1}, Ints{0}, Ints{0});
        } catch (const Error& error) {
            CHECK(cache.host_positions()[0] == -1);
            return std::string(error.what());
        }
        CHECK(cache.host_positions()[0] == 0);
        return std::string("accepted");
    };
    CHECK(refused([](KvShape&) {}) == "accepted");
    CHECK(refused([](KvShape& s) { s.layers[1].type_k = DType::bf16; }) == "accepted");
    CHECK(refused([](KvShape& s) { s.layers.pop_back(); }) ==
          "model: expected a cache of 4 layers, found 3");
    CHECK(refused([](KvShape& s) { s.layers.push_back(s.layers[0]); }) ==
          "model: expected a cache of 4 layers, found 5");
    CHECK(refused([](KvShape& s) { s.layers[2].kv_heads = 1; }) ==
          "model: layer 2 of the cache: expected 2 heads of 16 and 16 channels in rows of its own, "
          "found 1 heads of 16 and 16 channels");
    CHECK(refused([](KvShape& s) { s.layers[1].source = 0; }).find("in shared ones") !=
          std::string::npos);
    CHECK(refused([](KvShape& s) { s.layers[3].v_in_k = true; }).find("in shared ones") !=
          std::string::npos);
    for (int64_t KvLayer::*extent : {&KvLayer::d_k, &KvLayer::d_v}) {
        CHECK(refused([&](KvShape& s) { s.layers[3].*extent = 32; }).find("layer 3") !=
              std::string::npos);
    }
}

TEST_CASE("model: a batch whose operations are refused leaves no token in any cell") {
    const TinyModel tiny = TinyModel::make("llama");
    const TemporaryFile file("batches.gguf");
    tiny.write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    const std::unique_ptr<Backend> ref = make_ref_backend();
    Model model(gguf, *ref, {.context = 8});
    Model refusing(model, {.context = 8, .precision = {.attention = Precision::f16}});
    KvCache cache(*ref, model.config().cache_shape(1, 6, DType::f32, DType::f32), RotationSpec());
    using Ints = std::vector<int32_t>;
    model.forward(cache, Ints{1, 2}, Ints{0, 0}, Ints{0, 1});
    CHECK_THROWS_WITH(refusing.forward(cache, Ints{3, 4}, Ints{0, 0}, Ints{1, 2}),
                      Catch::Contains("f16 attention"));
    const std::span<const int32_t> left = cache.host_positions();
    CHECK(Ints(left.begin(), left.end()) == Ints{0, 1, -1, -1, -1, -1});
    CHECK(contents<int32_t>(*ref, cache.used()) == Ints{2});
}
