// Every architecture's forward pass against the same model written down in f64.
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/attention_case.h"
#include "tests/catch.h"
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
    const std::unique_ptr<Backend> ref = ref::make_backend();
    Model model(gguf, *ref, {.context = context, .phi3_window = phi3_window});
    KvCache cache(*ref, model.cache_shape(1, 32, DType::f32, DType::f32), RotationSpec());
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
    more.weights["blk.0.attn_q_norm.weight"] = std::vector<float>(16, 1.0f);
    CHECK(failure(more).find("blk.0.attn_q_norm.weight has no place") != std::string::npos);
}

TEST_CASE("model: tokens and positions outside their ranges change nothing") {
    const TinyModel tiny = TinyModel::make("llama");
    const TemporaryFile file("ranges.gguf");
    tiny.write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    const std::unique_ptr<Backend> ref = ref::make_backend();
    Model model(gguf, *ref, {.context = 8});
    KvCache cache(*ref, model.cache_shape(1, 4, DType::f32, DType::f32), RotationSpec());
    using Ints = std::vector<int32_t>;
    CHECK_THROWS_AS(model.forward(cache, Ints{53}, Ints{0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{-1}, Ints{0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{1}, Ints{0}, Ints{8}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints{1, 2}, Ints{0, 0}, Ints{0}), Error);
    CHECK_THROWS_AS(model.forward(cache, Ints(5, 1), Ints(5, 0), Ints{0, 1, 2, 3, 4}), Error);
    CHECK(download(*ref, cache.used()) == std::vector<std::byte>(4));
}
