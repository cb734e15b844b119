// What keys make of the architectures whose layers are dense and differ from llama in where they
// norm, turn, look and scale, against what was published of the models.
#include "tests/architecture_file.h"
#include "tests/catch.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

namespace {

const Keys k_yarn = {{"rope.scaling.type", std::string_view("yarn")},
                     {"rope.scaling.factor", 4.0f},
                     {"rope.scaling.original_context_length", uint32_t(16)}};

}  // namespace

TEST_CASE("architecture: smollm3 turns in three of four layers, whatever the file says") {
    CHECK(ropes_of(config_of("smollm3", {{"block_count", uint32_t(9)}})) == "fff-fff-f");
    CHECK(ropes_of(config_of("llama", {{"block_count", uint32_t(9)}})) == "fffffffff");
}

TEST_CASE("architecture: mistral3's YaRN keeps the magnitude, and its queries grow warmer") {
    const Keys ministral = with(k_yarn, {{"rope.scaling.yarn_log_multiplier", 1.0f},
                                         {"rope.scaling.yarn_beta_fast", 8.0f},
                                         {"rope.scaling.yarn_beta_slow", 2.0f},
                                         {"attention.temperature_scale", 0.1f}});
    const ModelConfig config = config_of("mistral3", ministral);
    CHECK(rope_magnitude(config.rope) == Approx(1));
    CHECK(config.rope.yarn_beta_fast == 8);
    CHECK(config.rope.yarn_beta_slow == 2);
    CHECK(config.temperature.factor(0) == 1);
    CHECK(config.temperature.factor(15) == 1);
    CHECK(config.temperature.factor(16) == Approx(1 + 0.1 * std::log(2)));
    CHECK(config.temperature.factor(47) == Approx(1 + 0.1 * std::log(3)));
    CHECK(config.notices.empty());

    const Keys half = with(ministral, {{"rope.scaling.yarn_log_multiplier", 0.5f}});
    CHECK(rope_magnitude(config_of("mistral3", half).rope) ==
          Approx((1 + 0.1 * std::log(4)) / (1 + 0.05 * std::log(4))));
    CHECK(rope_magnitude(config_of("mistral3", k_yarn).rope) == Approx(1 + 0.1 * std::log(4)));
    CHECK(config_of("mistral3", {}).temperature.factor(4000) == 1);
    const ModelConfig llama = config_of("llama", ministral);
    CHECK(rope_magnitude(llama.rope) == Approx(1 + 0.1 * std::log(4)));
    CHECK(llama.temperature.factor(4000) == 1);
    CHECK(llama.notices.back().find("attention.temperature_scale (f32 0.1)") != std::string::npos);
}

TEST_CASE("architecture: OLMo 2 has no windows, OLMo 3 has, and YaRN only beyond them") {
    const ModelConfig olmo2 = config_of("olmo2", {});
    CHECK(windows_of(olmo2) == Ints{0, 0, 0, 0});
    CHECK(olmo2.notices.empty());
    const ModelConfig olmo3 =
        config_of("olmo2", with(k_yarn, {{"attention.sliding_window", uint32_t(4096)},
                                         {"rope.scaling.attn_factor", 1.5f}}));
    CHECK(windows_of(olmo3) == Ints{4096, 4096, 4096, 0});
    CHECK(ropes_of(olmo3) == "lllf");
    CHECK(olmo3.rope.linear_factor == 4);
    CHECK(olmo3.rope.yarn_ext_factor == 1);
    CHECK(olmo3.local_rope.linear_factor == 1);
    CHECK(olmo3.local_rope.yarn_ext_factor == 0);
    CHECK(rope_magnitude(olmo3.local_rope) == 1);
}

TEST_CASE("architecture: exaone4 has windows in the 32B, whose other layers do not turn") {
    const ModelConfig small = config_of("exaone4", {{"block_count", uint32_t(30)}});
    CHECK(windows_of(small) == Ints(30, 0));
    CHECK(ropes_of(small) == std::string(30, 'f'));
    const ModelConfig large = config_of("exaone4", {{"block_count", uint32_t(64)}});
    CHECK(large.plan[0].window == 4096);
    CHECK(large.plan[3].window == 0);
    CHECK(ropes_of(large).substr(0, 9) == "lll-lll-l");
    CHECK(config_of("exaone4",
                    {{"block_count", uint32_t(64)}, {"attention.sliding_window", uint32_t(7)}})
              .plan[62]
              .window == 7);
}

TEST_CASE("architecture: cohere2 turns within its windows, and must name what it scales by") {
    const Keys command = {{"attention.layer_norm_epsilon", 1e-5f},
                          {"attention.layer_norm_rms_epsilon", k_left_out},
                          {"attention.sliding_window", uint32_t(4096)},
                          {"logit_scale", 0.25f}};
    const ModelConfig config = config_of("cohere2", command);
    CHECK(windows_of(config) == Ints{4096, 4096, 4096, 0});
    CHECK(ropes_of(config) == "lll-");
    CHECK(config.logit_scale == 0.25f);
    CHECK(config.norm_epsilon == 1e-5f);
    for (const char* key :
         {"attention.layer_norm_epsilon", "attention.sliding_window", "logit_scale"}) {
        CHECK(refusal("cohere2", with(command, {{key, k_left_out}})) ==
              "expected a metadata key 'cohere2." + std::string(key) + "', found none");
    }
}

TEST_CASE("architecture: granite scales embeddings, scores, blocks and logits by keys") {
    const ModelConfig config = config_of("granite", {{"embedding_scale", 12.0f},
                                                     {"residual_scale", 0.22f},
                                                     {"attention.scale", 0.015625f},
                                                     {"logit_scale", 8.0f}});
    CHECK(config.embedding_scale == 12);
    CHECK(config.residual_scale == 0.22f);
    CHECK(config.attention_scale == 0.015625f);
    CHECK(config.logit_scale == 1 / 8.0f);
    const ModelConfig plain =
        config_of("granite", {{"logit_scale", 1.0f}, {"attention.scale", 0.0f}});
    CHECK(plain.embedding_scale == 1);
    CHECK(plain.residual_scale == 1);
    CHECK(plain.attention_scale == Approx(1 / std::sqrt(8.0)));
    CHECK(refusal("granite", {}).find("'granite.logit_scale', found none") != std::string::npos);
    CHECK(refusal("granite", {{"logit_scale", 0.0f}}).find("a number above 0") !=
          std::string::npos);
    const Keys still = {{"logit_scale", 1.0f}, {"rope.scaling.finetuned", false}};
    CHECK(ropes_of(config_of("granite", still)) == "----");
    CHECK(ropes_of(config_of("llama", {{"rope.scaling.finetuned", false}})) == "ffff");
}

TEST_CASE("architecture: glm4 of text alone, of which half the channels turn") {
    CHECK(config_of("glm4", {{"rope.dimension_count", uint32_t(4)}}).rope.n_rot == 4);
    const auto sections = [](const std::vector<int32_t>& list) {
        return Keys{{"rope.dimension_sections", GgufArray(list)}};
    };
    CHECK(config_of("glm4", sections({0, 0, 0, 0})).notices.empty());
    CHECK(refusal("glm4", sections({8, 12, 12, 0})) ==
          "glm4.rope.dimension_sections: expected none, a model of text alone, found some");
}

TEST_CASE("architecture: layers that predict further tokens are counted apart, and said") {
    const Keys keys = {{"block_count", uint32_t(4)},
                       {"nextn_predict_layers", uint32_t(1)},
                       {"feed_forward_length", GgufArray(std::vector<int32_t>{8, 9, 10, 11})}};
    const ModelConfig config = config_of("glm4", keys);
    CHECK(config.layers == 3);
    CHECK(config.plan.size() == 3);
    CHECK(config.plan[2].feed_forward == 10);
    CHECK(config.notices == std::vector<std::string>{"the last 1 layers predict further tokens "
                                                     "(nextn_predict_layers), they are not run"});
    CHECK(refusal("glm4", {{"nextn_predict_layers", uint32_t(4)}}) ==
          "glm4.nextn_predict_layers: expected fewer than the 4 layers of block_count, found 4");
}
