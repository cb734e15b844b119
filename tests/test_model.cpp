// Every architecture's forward pass against the same model written down in f64.
#include "ref/forwarding_backend.h"
#include "tests/catch.h"
#include "tests/laws.h"
#include "tests/rotation_of.h"
#include "tests/tiny_run.h"

#include <algorithm>

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("model: every architecture equals its definition in f64") {
    const std::vector<int32_t> tokens = some_tokens(19);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const Architecture& architecture : architectures()) {
            for (const bool uneven : {false, true}) {
                const TinyModel tiny = TinyModel::make(architecture.name, uneven);
                const std::vector<double> expected = tiny.forward(tokens);
                INFO(architecture.name << (uneven ? ", uneven, " : ", ") << backend->name());
                CHECK(distance(run_on(*backend, tiny, tokens, 19), expected) < 1e-5);
                CHECK(distance(run_on(*backend, tiny, tokens, 7), expected) < 1e-5);
            }
        }
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
    // One RoPE for all layers, two, layers that do not turn; channels that stand still behind those
    // that turn, before them, and behind V in one row for all heads.
    for (const auto& [name, legacy] :
         std::vector<std::pair<const char*, bool>>{{"llama", false},
                                                   {"gemma3", false},
                                                   {"smollm3", false},
                                                   {"cohere2", false},
                                                   {"glm4", false},
                                                   {"deepseek2", true},
                                                   {"deepseek2", false}}) {
        Opened opened(TinyModel::make(name, legacy));
        Model model(opened.gguf, *opened.ref, {.context = 64});
        const auto answer = [&](int32_t first, int32_t difference) {
            KvCache cache = opened.cache(model, spec_of("k=16 v=none"));
            run(model, cache, std::span(tokens).first(11), first);
            cache.shift(0, 0, 64, difference, [&](int64_t layer) { return model.rope(layer); });
            return run(model, cache, std::span(tokens).last(1), first + 11 + difference);
        };
        INFO(name << (legacy ? ", keys of every head" : ""));
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
    CHECK(failure(unknown).find("architecture 'mamba' is unknown, known are llama, ernie4_5") !=
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

TEST_CASE("model: of matrices that may be one, the one that is missing or too many is named") {
    TinyModel no_gate = TinyModel::make("llama");
    no_gate.weights.erase("blk.1.ffn_gate.weight");
    CHECK(failure(no_gate).find("expected a tensor 'blk.1.ffn_gate.weight', found none") !=
          std::string::npos);

    TinyModel gate_twice = TinyModel::make("llama");
    gate_twice.weights["blk.1.ffn_up.weight"].resize(
        2 * gate_twice.weights["blk.1.ffn_gate.weight"].size());
    CHECK(failure(gate_twice).find("blk.1.ffn_gate.weight has no place") != std::string::npos);

    TinyModel no_queries = TinyModel::make("llama");
    no_queries.weights.erase("blk.3.attn_q.weight");
    CHECK(failure(no_queries)
              .find("expected a tensor 'blk.3.attn_qkv.weight' or 'blk.3.attn_q.weight', found "
                    "none") != std::string::npos);
}

TEST_CASE("model: a window on request is refused where none can be asked for") {
    CHECK_THROWS_WITH(run_model(TinyModel::make("llama"), {0}, 1, 64, true),
                      containing("phi3_window: expected architecture phi3, found llama"));
}

TEST_CASE("model: norms are there where the architecture has them, and nowhere else") {
    for (const Architecture& architecture : architectures()) {
        const std::map<std::string, std::vector<float>> whole =
            TinyModel::make(architecture.name).weights;
        for (const auto& [tensor, values] : whole) {
            if (tensor.find("norm") == std::string::npos) continue;
            TinyModel without = TinyModel::make(architecture.name);
            without.weights.erase(tensor);
            INFO(architecture.name << " without " << tensor);
            CHECK(failure(without).find(tensor) != std::string::npos);
        }
    }
    for (const char* norm : {"attn_q_norm.weight", "post_ffw_norm.weight"}) {
        TinyModel more = TinyModel::make("llama");
        more.weights[blk(1, norm)] = std::vector<float>(TinyModel::d, 1.0f);
        CHECK(failure(more).find(blk(1, norm) + " has no place in architecture 'llama'") !=
              std::string::npos);
    }
}

TEST_CASE("model: layers that predict further tokens are left out") {
    TinyModel tiny = TinyModel::make("glm4");
    const std::vector<int32_t> tokens = some_tokens(9);
    const std::vector<double> expected = tiny.forward(tokens);
    tiny.predicting = 1;
    tiny.weights[blk(TinyModel::layers, "nextn.eh_proj.weight")] =
        std::vector<float>(size_t(tiny.width), 1.0f);
    CHECK(distance(run_model(tiny, tokens, 9), expected) < 1e-5);
    tiny.weights[blk(TinyModel::layers + 1, "attn_q.weight")] =
        std::vector<float>(size_t(tiny.width), 1.0f);
    CHECK(failure(tiny).find("blk.5.attn_q.weight has no place") != std::string::npos);
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
                      containing("blk.0.attn_sinks.weight has no place"));
    CHECK(backend.imported > 0);
    CHECK(backend.freed == backend.imported);
}

TEST_CASE("model: tokens and positions outside their ranges change nothing") {
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 8});
    KvCache cache(*opened.ref, model.config().cache_shape(1, 4, DType::f32, DType::f32),
                  RotationSpec());
    using Ints = std::vector<int32_t>;
    CHECK_THROWS_AS(model.forward(cache, Ints{53}, Ints{0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{-1}, Ints{0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{1}, Ints{0}, Ints{8}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{1, 2}, Ints{0, 0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints(5, 1), Ints(5, 0), Ints{0, 1, 2, 3, 4}), Error);
    CHECK(download(*opened.ref, cache.used()) == std::vector<std::byte>(4));
}

TEST_CASE("model: a cache of another model is refused, and nothing is placed") {
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 8});
    const auto refused = [&](const std::function<void(KvShape&)>& change) {
        KvShape shape = model.config().cache_shape(1, 4, DType::f16, DType::f16);
        change(shape);
        KvCache cache(*opened.ref, shape, RotationSpec());
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
          "found 1 heads of 16 and 16 channels in rows of its own");
    CHECK(refused([](KvShape& s) { s.layers[1].source = 0; }).find("in rows of layer 0") !=
          std::string::npos);
    CHECK(refused([](KvShape& s) { s.layers[3].v_in_k = true; }).find("in shared rows") !=
          std::string::npos);
    CHECK(refused([](KvShape& s) {
              s.layers[3] = {.recurrent = {.heads = 1, .d = 2, .channels = 2, .taps = 2}};
          }).find("found a state") != std::string::npos);
    for (int64_t KvLayer::*extent : {&KvLayer::d_k, &KvLayer::d_v}) {
        CHECK(refused([&](KvShape& s) { s.layers[3].*extent = 32; }).find("layer 3") !=
              std::string::npos);
    }
}

TEST_CASE("model: a batch whose operations are refused leaves no token in any cell") {
    Opened opened(TinyModel::make("llama"));
    Model model(opened.gguf, *opened.ref, {.context = 8});
    Model refusing(model, {.context = 8, .precision = {.attention = Precision::f16}});
    KvCache cache(*opened.ref, model.config().cache_shape(1, 6, DType::f32, DType::f32),
                  RotationSpec());
    using Ints = std::vector<int32_t>;
    model.forward(cache, Ints{1, 2}, Ints{0, 0}, Ints{0, 1});
    CHECK_THROWS_WITH(refusing.forward(cache, Ints{3, 4}, Ints{0, 0}, Ints{1, 2}),
                      containing("f16 attention"));
    const std::span<const int32_t> left = cache.host_positions();
    CHECK(Ints(left.begin(), left.end()) == Ints{0, 1, -1, -1, -1, -1});
    CHECK(contents<int32_t>(*opened.ref, cache.used()) == Ints{2});
}
