// Biases and norms of a model: where a file may have them, and in which types.
#include "tests/catch.h"
#include "tests/tiny_run.h"

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("model: every product in a layer may have a bias, fused as its matrix is") {
    const std::vector<int32_t> tokens = some_tokens(19);
    for (const Architecture& architecture : architectures()) {
        for (const bool fused : {false, true}) {
            TinyModel tiny = TinyModel::make(architecture.name, true);
            const std::vector<double> without = tiny.forward(tokens);
            tiny.add_biases();
            tiny.fused = tiny.fused_biases = fused;
            INFO(architecture.name << (fused ? ", fused" : ""));
            CHECK(distance(run_model(tiny, tokens, 7), tiny.forward(tokens)) < 1e-5);
            CHECK(distance(tiny.forward(tokens), without) > 1e-2);
        }
    }
    TinyModel odd = TinyModel::make("llama");
    odd.weights["blk.1.attn_output.bias"] = std::vector<float>(47, 0.0f);
    CHECK(failure(odd).find("blk.1.attn_output.bias: expected [1][48], found") !=
          std::string::npos);
    odd = TinyModel::make("llama");
    odd.weights["blk.1.attn_qkv.bias"] = std::vector<float>(96, 0.0f);
    CHECK(failure(odd).find("blk.1.attn_qkv.bias has no place") != std::string::npos);
}

TEST_CASE("model: norms and biases in f16 or bf16 count as their values in f32") {
    const std::vector<int32_t> tokens = some_tokens(19);
    for (const DType type : {DType::f16, DType::bf16}) {
        TinyModel tiny = TinyModel::make("gemma3");
        tiny.add_biases();
        tiny.round_vectors(type);
        const std::vector<float> narrow = run_model(tiny, tokens, 7);
        INFO(type_info(type).name);
        CHECK(distance(narrow, tiny.forward(tokens)) < 1e-5);
        tiny.types.clear();
        CHECK(narrow == run_model(tiny, tokens, 7));
    }
}
