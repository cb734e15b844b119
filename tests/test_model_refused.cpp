// Files that lack a tensor of one of their layers, have one of another shape, or one more than
// their architecture has a place for.
#include "tests/catch.h"
#include "tests/laws.h"
#include "tests/tiny_run.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

bool ends_with_one_of(const std::string& tensor, std::initializer_list<const char*> ends) {
    return std::ranges::any_of(ends, [&](const char* end) { return tensor.ends_with(end); });
}

// Tensors whose absence means something, and is no mistake.
bool may_be_missing(const TinyModel& m, const std::string& tensor) {
    const bool bias = tensor.ends_with(".bias") && !tensor.ends_with("ssm_dt.bias");
    const bool of_heads = ends_with_one_of(tensor, {"attn_q.bias", "attn_k.bias", "attn_v.bias"});
    if (bias) return of_heads || m.name != "gpt-oss";
    if (m.name == "gemma4" && tensor == blk(1, "attn_v.weight")) return true;  // a full layer
    if (tensor == "output.weight") return m.name == "llama" || m.name == "phi3";
    return ends_with_one_of(tensor, {"ffn_down_exps.scale", "layer_output_scale.weight"});
}

std::vector<TinyModel> all_models() {
    std::vector<TinyModel> models;
    for (const Architecture& architecture : architectures()) {
        models.push_back(TinyModel::make(architecture.name));
        models.push_back(TinyModel::make(architecture.name, true));
    }
    return models;
}

TinyModel without(TinyModel model, const std::string& tensor) {
    REQUIRE(model.weights.erase(tensor) == 1);
    return model;
}

// With one row, or entry, more.
TinyModel with_longer(TinyModel model, const std::string& tensor) {
    std::vector<float>& values = model.weights.at(tensor);
    values.resize(values.size() + values.size() / size_t(model.extents.at(tensor)[0]), 1.0f);
    return model;
}

TinyModel with(TinyModel model, const std::string& tensor, size_t n) {
    model.weights[tensor] = std::vector<float>(n, 1.0f);
    return model;
}

}  // namespace

TEST_CASE("model: a tensor that is missing is named, in every architecture") {
    for (const TinyModel& whole : all_models()) {
        for (const auto& [tensor, values] : whole.weights) {
            if (may_be_missing(whole, tensor) || tensor.starts_with("blk.2.")) continue;
            INFO(whole.name << (whole.lists ? ", uneven, " : ", ") << "without " << tensor);
            const std::string what = refused(without(whole, tensor));
            // Without it the queries of layer 0 read x, through a matrix that is not there either.
            const bool low = tensor == blk(0, "attn_q_a.weight");
            CHECK(what.find(low ? "attn_q.weight" : tensor) != std::string::npos);
            CHECK(what.starts_with("expected a tensor '"));
        }
    }
}

TEST_CASE("model: an infinite number that a cut or a choice would hide is named") {
    const auto refused_with = [](const char* name, const char* tensor, float number) {
        TinyModel model = TinyModel::make(name);
        model.weights.at(blk(1, tensor))[2] = number;
        return refused(model);
    };
    CHECK(refused_with("gpt-oss", "ffn_gate_exps.bias", INFINITY) ==
          "tensor blk.1.ffn_gate_exps.bias: expected finite numbers, found inf at element 2");
    CHECK(refused_with("gpt-oss", "attn_sinks.weight", -INFINITY) ==
          "tensor blk.1.attn_sinks.weight: expected finite numbers, found -inf at element 2");
    CHECK(refused_with("qwen35", "ssm_a", -INFINITY) ==
          "tensor blk.1.ssm_a: expected finite numbers, found -inf at element 2");
}

TEST_CASE("model: a tensor with a row too many is named, in every architecture") {
    for (const TinyModel& whole : all_models()) {
        if (whole.fused) continue;  // in the file its tensors have other names
        for (const auto& [tensor, values] : whole.weights) {
            if (tensor == "token_embd.weight" || tensor.starts_with("blk.2.")) continue;
            INFO(whole.name << (whole.lists ? ", uneven, " : ", ") << "longer " << tensor);
            const std::string what = refused(with_longer(whole, tensor));
            // llama4's shared expert is as wide as its tensor is, which the others contradict.
            const bool measure = whole.name == "llama4" && tensor.ends_with("ffn_up_shexp.weight");
            CHECK(what.starts_with("tensor "));
            CHECK((measure || what.starts_with("tensor " + tensor + ": expected [")));
            CHECK(what.find(", found f32 [1][") != std::string::npos);
        }
    }
}

TEST_CASE("model: what is missing of experts, latents, states and heads is said in one line") {
    const auto missing = [](const char* name, const std::string& tensor) {
        return refused(without(TinyModel::make(name), tensor));
    };
    CHECK(missing("ernie4_5-moe", "blk.1.ffn_up_exps.weight") ==
          "expected a tensor 'blk.1.ffn_up_exps.weight', found none");
    CHECK(missing("qwen2moe", "blk.3.ffn_gate_inp_shexp.weight") ==
          "expected a tensor 'blk.3.ffn_gate_inp_shexp.weight', found none");
    CHECK(missing("llama4", "blk.1.ffn_up_shexp.weight") ==
          "expected a tensor 'blk.1.ffn_up_shexp.weight', found none");
    CHECK(missing("gpt-oss", "blk.2.attn_sinks.weight") ==
          "expected a tensor 'blk.2.attn_sinks.weight', found none");
    CHECK(missing("gpt-oss", "blk.1.ffn_gate_inp.bias") ==
          "expected a tensor 'blk.1.ffn_gate_inp.bias', found none");
    CHECK(missing("deepseek2", "blk.3.attn_v_b.weight") ==
          "expected a tensor 'blk.3.attn_v_b.weight', found none");
    CHECK(missing("gemma4", "blk.0.attn_v.weight") ==
          "expected a tensor 'blk.0.attn_v.weight', found none");
    CHECK(missing("qwen35", "blk.0.ssm_a") == "expected a tensor 'blk.0.ssm_a', found none");
    CHECK(missing("qwen3next", "blk.0.ssm_ba.weight") ==
          "expected a tensor 'blk.0.ssm_ba.weight' or 'blk.0.ssm_beta.weight', found none");
    TinyModel standing = TinyModel::make("gemma4");
    standing.factors.clear();
    CHECK(refused(standing) == "expected a tensor 'rope_freqs.weight', found none");
    // A shared expert that a key speaks of.
    TinyModel shared = TinyModel::make("ernie4_5-moe");
    for (const char* part : {"gate", "up", "down"}) {
        shared.weights.erase(blk(2, std::string("ffn_") + part + "_shexp.weight"));
    }
    CHECK(refused(shared) == "expected a tensor 'blk.2.ffn_up_shexp.weight', found none");
}

TEST_CASE("model: shapes of experts, latents, states and heads are said in one line") {
    const auto longer = [](const char* name, const std::string& tensor) {
        return refused(with_longer(TinyModel::make(name), tensor));
    };
    CHECK(longer("qwen3moe", "blk.0.ffn_down_exps.weight") ==
          "tensor blk.0.ffn_down_exps.weight: expected [6][48][32], found f32 [1][7][48][32]");
    CHECK(longer("gpt-oss", "blk.1.attn_sinks.weight") ==
          "tensor blk.1.attn_sinks.weight: expected [1][4], found f32 [1][1][1][5]");
    CHECK(longer("gpt-oss", "blk.1.ffn_up_exps.bias") ==
          "tensor blk.1.ffn_up_exps.bias: expected [6][32], found f32 [1][1][7][32]");
    CHECK(longer("deepseek2", "blk.1.attn_k_b.weight") ==
          "tensor blk.1.attn_k_b.weight: expected [4][24][12], found f32 [1][5][24][12]");
    CHECK(longer("gemma4", "blk.1.attn_q_norm.weight") ==
          "tensor blk.1.attn_q_norm.weight: expected [1][16], found f32 [1][1][1][17]");
    CHECK(longer("qwen35", "blk.0.ssm_conv1d.weight") ==
          "tensor blk.0.ssm_conv1d.weight: expected [96][4], found f32 [1][1][97][4]");
}

TEST_CASE("model: tensors of other models and scales of other formats have no place") {
    const auto more = [](const char* name, const std::string& tensor, size_t n) {
        return refused(with(TinyModel::make(name), tensor, n));
    };
    const auto no_place = [](const std::string& name, const std::string& tensor) {
        return "tensor " + tensor + " has no place in architecture '" + name +
               "' as it is known here";
    };
    for (const char* tensor : {"blk.0.ffn_down_exps.scale", "blk.0.ffn_down_exps.input_scale",
                               "blk.0.ffn_gate_inp.scale", "blk.0.attn_q.scale"}) {
        CHECK(more("qwen3moe", tensor, 6) == no_place("qwen3moe", tensor));
    }
    CHECK(more("gemma4", "blk.0.ffn_up.input_scale", 1) ==
          no_place("gemma4", "blk.0.ffn_up.input_scale"));
    CHECK(more("qwen3moe", "blk.1.attn_sinks.weight", 4) ==
          no_place("qwen3moe", "blk.1.attn_sinks.weight"));
    CHECK(more("gemma4", "blk.3.attn_k.weight", 16 * 48) ==
          no_place("gemma4", "blk.3.attn_k.weight"));  // it reads those of layer 1
    CHECK(more("qwen35", "blk.0.ssm_ba.weight", 8 * 48) ==
          no_place("qwen35", "blk.0.ssm_alpha.weight"));  // of two forms the first
    CHECK(more("deepseek2", "blk.1.attn_kv_b.weight", 48) ==
          no_place("deepseek2", "blk.1.attn_kv_b.weight"));
    // Beside experts only gemma4 has a dense block.
    CHECK(more("llama4", "blk.1.ffn_up.weight", 40 * 48) ==
          no_place("llama4", "blk.1.ffn_up.weight"));
}

TEST_CASE("model: experts of layers that predict further tokens are left out too") {
    TinyModel tiny = TinyModel::make("glm4moe");
    const std::vector<int32_t> tokens = some_tokens(9);
    const std::vector<double> expected = tiny.forward(tokens);
    tiny.predicting = 1;
    for (const auto& [tensor, values] : TinyModel::make("glm4moe").weights) {
        if (!tensor.starts_with("blk.3.")) continue;
        const std::string next = blk(TinyModel::layers, tensor.substr(6));
        tiny.weights[next] = values;
        tiny.extents[next] = tiny.extents.at(tensor);
    }
    tiny = with(tiny, blk(TinyModel::layers, "nextn.eh_proj.weight"), 96);
    CHECK(distance(run_model(tiny, tokens, 9), expected) < 1e-5);
    const Opened opened(tiny);
    const Model model(opened.gguf, *opened.ref, {.context = 8});
    CHECK(model.config().notices ==
          std::vector<std::string>{
              "the last 1 layers predict further tokens (nextn_predict_layers), they are not run"});
}
