// What a file's keys may look like, what is assumed where it lacks them, and what has no place.
#include "tests/architecture_file.h"
#include "tests/catch.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("architecture: a window may be given as flags, as ones and zeros, as a period, or not") {
    const auto windows = [](const GgufValue& pattern, uint32_t window = 4) {
        return windows_of(config_of("gemma3", {{"attention.sliding_window", window},
                                               {"attention.sliding_window_pattern", pattern}}));
    };
    const Ints two = {4, 0, 4, 0};
    CHECK(windows(uint32_t(2)) == two);
    CHECK(windows(GgufArray(std::vector<bool>{true, false, true, false})) == two);
    CHECK(windows(GgufArray(std::vector<uint32_t>{1, 0, 1, 0})) == two);
    CHECK(windows(GgufArray(std::vector<int32_t>{1, 0, 1, 0})) == two);
    CHECK(windows(uint32_t(0)) == Ints{4, 4, 4, 4});
    CHECK(windows(uint32_t(1)) == Ints{0, 0, 0, 0});
    CHECK(windows(uint32_t(2), 0) == Ints{0, 0, 0, 0});
    CHECK(refusal("gemma3", {{"attention.sliding_window_pattern",
                              GgufArray(std::vector<uint32_t>{1, 2, 1, 0})}}) ==
          "gemma3.attention.sliding_window_pattern: expected a list of yes and no, 1 and 0, found "
          "2");
}

TEST_CASE("architecture: every count of a layer may be a list") {
    const auto four = [](uint32_t n) { return GgufArray(std::vector<uint32_t>(4, n)); };
    const ModelConfig plain = config_of(
        "llama", {{"attention.key_length", uint32_t(6)}, {"attention.value_length", uint32_t(10)}});
    const ModelConfig lists = config_of("llama", {{"attention.head_count", four(2)},
                                                  {"attention.head_count_kv", four(2)},
                                                  {"feed_forward_length", four(8)},
                                                  {"attention.key_length", four(6)},
                                                  {"attention.value_length", four(10)}});
    CHECK(lists.plan == plain.plan);
    CHECK(refusal("llama", {{"attention.key_length", GgufArray(std::vector<uint32_t>{6, 6})}}) ==
          "llama.attention.key_length: expected 4 values, one a layer, found 2");
    CHECK(refusal("llama", {{"attention.head_count", uint32_t(3)}}) ==
          "llama.attention.head_count: expected a divisor of llama.embedding_length 16, as there "
          "is no llama.attention.key_length, found 3");
}

TEST_CASE("architecture: what a file lacks is assumed aloud, or asked for") {
    const auto notices = [](const char* name, const Keys& keys) {
        return config_of(name, keys).notices;
    };
    using Words = std::vector<std::string>;
    CHECK(notices("llama", {}) == Words{});
    CHECK(notices("llama", {{"rope.freq_base", k_left_out}}) ==
          Words{"no key llama.rope.freq_base, 10000 is assumed"});
    CHECK(notices("llama", {{"rope.scaling.factor", 2.0f}}) ==
          Words{"no key llama.rope.scaling.type, linear is assumed"});
    CHECK(notices("llama", {{"rope.scale_linear", 2.0f}}) == Words{});
    CHECK(notices("llama", {{"rope.scaling.type", std::string_view("yarn")}}) ==
          Words{"no key llama.rope.scaling.factor, 1 is assumed",
                "no key llama.rope.scaling.original_context_length, 64 is assumed"});
    CHECK(notices("llama", {{"rope.scaling.type", std::string_view("longrope")}}) ==
          Words{"no tensor rope_factors_short.weight, factors of 1 are assumed"});
    CHECK(config_of("phi3", {}, 8, {{"rope_factors_long.weight", {1, 1, 1, 1}}}).notices ==
          Words{"no tensor rope_factors_short.weight, factors of 1 are assumed"});
    CHECK(notices("gemma3", {}) ==
          Words{"no key gemma3.attention.sliding_window, no window is assumed"});
    CHECK(notices("gemma2", {}) == Words{"no key gemma2.attention.sliding_window, 4096 is assumed",
                                         "no key gemma2.attn_logit_softcapping, 50 is assumed",
                                         "no key gemma2.final_logit_softcapping, 30 is assumed"});

    const char* epsilon = "attention.layer_norm_rms_epsilon";
    CHECK(refusal("llama", {{epsilon, k_left_out}}) ==
          "expected a metadata key 'llama.attention.layer_norm_rms_epsilon', found none");
    for (const float value : {0.0f, -1e-6f}) {
        CHECK(refusal("llama", {{epsilon, value}})
                  .find("layer_norm_rms_epsilon: expected a number above 0, found") !=
              std::string::npos);
    }
    CHECK(refusal("llama", {{epsilon, INFINITY}}).find("expected a finite number, found inf") !=
          std::string::npos);
}

TEST_CASE(
    "architecture: keys that an architecture has no place for change nothing, and are named") {
    const Keys saved = {{"attention.scale", 0.0f},
                        {"attention.sliding_window", uint32_t(0)},
                        {"attn_logit_softcapping", 50.0f},
                        {"embedding_scale", 0.0f},
                        {"expert_count", uint32_t(0)},
                        {"attention.causal", true},
                        {"final_logit_softcapping", 30.0f},
                        {"rope.dimension_sections", GgufArray(std::vector<int32_t>(4, 0))},
                        {"rope.scaling.factor", 0.0f},
                        {"rope.scaling.type", std::string_view("linear")},
                        {"rope.scaling.yarn_beta_fast", 8.0f},  // does nothing but in YaRN
                        {"rope.scaling.yarn_ext_factor", -1.0f},
                        {"router_logit_softcapping", 30.0f}};
    const ModelConfig llama = config_of("llama", saved);
    CHECK(llama.attention_softcap == 0);
    CHECK(llama.final_softcap == 0);
    CHECK(llama.attention_scale == Approx(1 / std::sqrt(8.0)));
    REQUIRE(llama.notices.size() == 1);
    CHECK(llama.notices[0] ==
          "not applied, since architecture 'llama' does not read them: attn_logit_softcapping "
          "(f32 50), final_logit_softcapping (f32 30), router_logit_softcapping (f32 30)");

    const ModelConfig gemma3 = config_of("gemma3", saved);
    CHECK(gemma3.attention_softcap == 0);
    CHECK(gemma3.final_softcap == 30);
    REQUIRE(gemma3.notices.size() == 1);
    CHECK(gemma3.notices[0].find("final_logit_softcapping") == std::string::npos);

    const auto notice = [](const char* name, const Keys& keys) {
        const std::vector<std::string> all = config_of(name, keys).notices;
        return all.empty() ? "" : all.back().substr(all.back().rfind(": ") + 2);
    };
    CHECK(notice("qwen3", {{"attention.scale", 0.5f}}) == "attention.scale (f32 0.5)");
    CHECK(notice("qwen3", {{"attention.scale", 1 / std::sqrt(8.0f)}}) == "");
    CHECK(notice("phi3", {{"attention.sliding_window", uint32_t(7)}}) ==
          "attention.sliding_window (u32 7)");
    const Keys yarn = {{"rope.scaling.type", std::string_view("yarn")},
                       {"rope.scaling.factor", 4.0f},
                       {"rope.scaling.original_context_length", uint32_t(16)},
                       {"rope.scaling.yarn_beta_fast", 32.0f},
                       {"rope.scaling.yarn_beta_slow", 2.0f},
                       {"rope.scaling.yarn_ext_factor", 1.0f}};
    CHECK(notice("llama", yarn) == "rope.scaling.yarn_beta_slow (f32 2)");
    CHECK(refusal("gemma2", {{"attn_logit_softcapping", -5.0f}})
              .find("attn_logit_softcapping: expected a number of 0 or more") != std::string::npos);
}

TEST_CASE("architecture: layers with a window may turn by a base of their own, and no more") {
    const Keys base = {{"rope.freq_base_swa", 77.0f}, {"attention.sliding_window", uint32_t(4)}};
    CHECK(config_of("gemma2", base).local_rope.base == 77);
    CHECK(config_of("gemma3", base).local_rope.base == 77);
    CHECK(config_of("gemma2", {}).local_rope.base == 10000);
    CHECK(config_of("llama", base).local_rope.base == 10000);
    CHECK(refusal("gemma3", {{"attention.key_length_swa", uint32_t(8)}}) == "accepted");
    CHECK(refusal("gemma3", {{"attention.key_length_swa", uint32_t(4)}}) ==
          "gemma3.attention.key_length_swa: expected 8 as in layers without window, found 4");
    CHECK(refusal("gemma2", {{"rope.dimension_count_swa", uint32_t(4)}}) ==
          "gemma2.rope.dimension_count_swa: expected 8 as in layers without window, found 4");
}

TEST_CASE("architecture: other models under a known name are refused by key") {
    CHECK(refusal("qwen2", {{"expert_count", uint32_t(4)}}) ==
          "qwen2.expert_count: expected 0, a model without experts, found 4");
    CHECK(refusal("llama", {{"attention.causal", false}}) ==
          "llama.attention.causal: expected true, found false");
}

TEST_CASE("architecture: embeddings have one row for each token of the vocabulary") {
    const auto tokens = [](size_t n) {
        return Keys{{"tokenizer.ggml.tokens",
                     GgufArray(std::vector<std::string_view>(n, std::string_view("x")))}};
    };
    CHECK(config_of("llama", tokens(4)).words == 4);
    for (const size_t n : {3u, 5u}) {
        CHECK(refusal("llama", tokens(n)) ==
              "tensor token_embd.weight: expected " + std::to_string(n) +
                  " rows, one for each of tokenizer.ggml.tokens, found 4");
    }
}
