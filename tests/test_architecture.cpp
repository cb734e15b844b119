// What the keys of a file make of each architecture, against what was published of the models.
#include "tests/architecture_file.h"
#include "tests/catch.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("architecture: gemma2 and gemma3 where the file names nothing") {
    // Gemma 2: every second layer sees 4096 tokens, scores are capped at 50, logits at 30.
    const ModelConfig gemma2 = config_of("gemma2", {});
    CHECK(windows_of(gemma2) == Ints{4096, 0, 4096, 0});
    CHECK(gemma2.attention_softcap == 50);
    CHECK(gemma2.final_softcap == 30);
    CHECK(gemma2.embedding_scale == 4);  // sqrt(E)

    // Gemma 3: five local layers for each that sees everything, which turn by another base.
    const ModelConfig gemma3 = config_of("gemma3", {{"block_count", uint32_t(13)},
                                                    {"attention.sliding_window", uint32_t(512)},
                                                    {"rope.freq_base", 1e6f}});
    CHECK(windows_of(gemma3) == Ints{512, 512, 512, 512, 512, 0, 512, 512, 512, 512, 512, 0, 512});
    CHECK(gemma3.local_rope.base == 10000);
    CHECK(gemma3.rope.base == 1e6);
    CHECK(gemma3.attention_softcap == 0);
    CHECK(windows_of(config_of("gemma3", {})) == Ints{0, 0, 0, 0});  // no window, no local layers
    CHECK(windows_of(config_of("llama", {{"attention.sliding_window", uint32_t(8)}})) ==
          Ints{0, 0, 0, 0});
}

TEST_CASE("architecture: scores are scaled by the head size, in both 27B by E / H") {
    const auto scale = [](const char* name, uint32_t layers, uint32_t width, uint32_t heads,
                          uint32_t d) {
        return config_of(name, {{"block_count", layers},
                                {"embedding_length", width},
                                {"attention.head_count", heads},
                                {"attention.key_length", d},
                                {"attention.value_length", d}})
            .attention_scale;
    };
    CHECK(scale("gemma2", 42, 3584, 16, 256) == Approx(1 / std::sqrt(256.0)));  // 9B
    CHECK(scale("gemma2", 46, 4608, 32, 128) == Approx(1 / std::sqrt(144.0)));  // 27B
    CHECK(scale("gemma3", 48, 3840, 16, 256) == Approx(1 / std::sqrt(256.0)));  // 12B
    CHECK(scale("gemma3", 62, 5376, 32, 128) == Approx(1 / std::sqrt(168.0)));  // 27B
    CHECK(scale("qwen3", 36, 4096, 32, 128) == Approx(1 / std::sqrt(128.0)));
}

TEST_CASE("architecture: keys and values are as wide as the file says, else E / H") {
    const ModelConfig config = config_of(
        "llama", {{"attention.key_length", uint32_t(6)}, {"attention.value_length", uint32_t(10)}});
    CHECK(config.plan[3].d_k == 6);
    CHECK(config.plan[3].d_v == 10);
    CHECK(config.rope.n_rot == 6);
    const ModelConfig plain = config_of("llama", {});
    CHECK(plain.plan[3].d_k == 8);
    CHECK(plain.plan[3].d_v == 8);
}

TEST_CASE("architecture: in some a part of a head may turn, an even number of channels") {
    const auto turning = [](uint32_t n) { return Keys{{"rope.dimension_count", n}}; };
    for (const char* name : {"phi3", "gemma2", "gemma3"}) {
        CHECK(config_of(name, turning(4)).rope.n_rot == 4);
        for (const uint32_t n : {3u, 10u}) {
            CHECK(refusal(name, turning(n)) ==
                  name +
                      std::string(".rope.dimension_count: expected an even number up to 8, the "
                                  "channels of a key, found ") +
                      std::to_string(n));
        }
    }
    for (const char* name : {"llama", "qwen2", "qwen3"}) {
        CHECK(config_of(name, turning(8)).rope.n_rot == 8);
        CHECK(refusal(name, turning(4)) ==
              name + std::string(".rope.dimension_count: expected 8, as many channels as a key "
                                 "has, found 4"));
    }
}

TEST_CASE("architecture: how RoPE is stretched stands under several keys") {
    const GgufValue linear = std::string_view("linear"), yarn = std::string_view("yarn");
    const auto rope = [](const Keys& keys) { return config_of("llama", keys).rope; };
    CHECK(rope({}).linear_factor == 1);
    CHECK(rope({{"rope.scaling.type", linear}, {"rope.scaling.factor", 4.0f}}).linear_factor == 4);
    CHECK(rope({{"rope.scale_linear", 2.0f}}).linear_factor == 2);  // as files once had it
    const GgufValue none = std::string_view("none");
    CHECK(rope({{"rope.scaling.type", none}, {"rope.scaling.factor", 4.0f}}).linear_factor == 1);
    CHECK(rope({{"rope.scaling.type", linear}, {"rope.scaling.yarn_ext_factor", 1.0f}})
              .yarn_ext_factor == 0);

    const RopeConfig usual = rope({{"rope.scaling.type", yarn}, {"rope.scaling.factor", 4.0f}});
    CHECK(usual.linear_factor == 4);
    CHECK(usual.yarn_ext_factor == 1);
    CHECK(usual.yarn_beta_fast == 32);
    CHECK(usual.yarn_beta_slow == 1);
    CHECK(usual.yarn_attn_factor == 1);
    CHECK(usual.original_context == 64);
    const RopeConfig named = rope({{"rope.scaling.type", yarn},
                                   {"rope.scaling.original_context_length", uint32_t(16)},
                                   {"rope.scaling.yarn_ext_factor", 0.5f},
                                   {"rope.scaling.yarn_beta_fast", 24.0f},
                                   {"rope.scaling.yarn_beta_slow", 2.0f},
                                   {"rope.scaling.attn_factor", 0.75f}});
    CHECK(named.yarn_ext_factor == 1);  // as llama.cpp has it in these architectures
    CHECK(named.yarn_beta_fast == 32);
    CHECK(named.yarn_beta_slow == 1);
    CHECK(named.yarn_attn_factor == 0.75);
    CHECK(named.original_context == 16);
}

TEST_CASE("architecture: ways to stretch RoPE that are not known are refused by key and value") {
    for (const char* type : {"llama3", "dynamic", "Linear", "su", ""}) {
        CHECK(refusal("llama", {{"rope.scaling.type", std::string_view(type)}}) ==
              std::string("llama.rope.scaling.type: expected none, linear, yarn or longrope, "
                          "found '") +
                  type + "'");
    }
    CHECK(refusal("llama", {{"rope.scaling.factor", -2.0f}}) ==
          "llama.rope.scaling.factor: expected a number of 0 or more, found -2.000000");
    CHECK(refusal("llama", {{"rope.scaling.attn_factor", 0.0f}}) ==
          "llama.rope.scaling.attn_factor: expected a number above 0, found 0.000000");
    CHECK(refusal("llama", {{"rope.freq_base", 0.0f}}) ==
          "llama.rope.freq_base: expected a number above 0, found 0.000000");
}

TEST_CASE("architecture: RoPE's factors come from the tensors that its scaling goes with") {
    const std::vector<float> twos(4, 2.0f);
    const Keys longrope = {{"rope.scaling.type", std::string_view("longrope")}};
    const auto first = [&](const char* name, const Keys& keys, const char* tensor) {
        return config_of(name, keys, 8, {{tensor, twos}}).rope.frequency_factors.at(0);
    };
    CHECK(first("llama", {}, "rope_freqs.weight") == 2);
    CHECK(first("llama", longrope, "rope_factors_short.weight") == 2);
    CHECK(first("phi3", {}, "rope_factors_short.weight") == 2);
    const auto refused = [&](const char* name, const Keys& keys, const char* tensor) {
        return refusal(name, keys, {{tensor, twos}}).find("has no place in architecture") !=
               std::string::npos;
    };
    CHECK(refused("llama", {}, "rope_factors_long.weight"));
    CHECK(refused("llama", longrope, "rope_freqs.weight"));
    CHECK(refused("phi3", longrope, "rope_freqs.weight"));
    CHECK(refused("qwen3", {}, "rope_freqs.weight"));
    CHECK(refused("gemma3", longrope, "rope_factors_short.weight"));
    CHECK(refusal("llama", {}, {{"rope_freqs.weight", {1, 1, 0, 1}}}) ==
          "tensor rope_freqs.weight: expected factors above 0, found 0.000000");
}

TEST_CASE("architecture: layers with a window are not stretched") {
    const ModelConfig config =
        config_of("gemma3", {{"attention.sliding_window", uint32_t(512)},
                             {"rope.scaling.type", std::string_view("linear")},
                             {"rope.scaling.factor", 8.0f}});
    CHECK(config.rope.linear_factor == 8);
    CHECK(config.local_rope.linear_factor == 1);
}

TEST_CASE("architecture: long factors begin with the first token beyond the original context") {
    const auto factor = [](const Keys& keys, int64_t context) {
        return config_of("phi3", keys, context,
                         {{"rope_factors_short.weight", std::vector<float>(4, 1.0f)},
                          {"rope_factors_long.weight", std::vector<float>(4, 9.0f)}})
            .rope.frequency_factors.at(0);
    };
    CHECK(factor({}, 64) == 1);
    CHECK(factor({}, 65) == 9);
    const Keys named = {{"rope.scaling.original_context_length", uint32_t(16)}};
    CHECK(factor(named, 16) == 1);
    CHECK(factor(named, 17) == 9);
}

TEST_CASE(
    "architecture: lists that do not fit the layers, and counts of none, are refused by key") {
    const auto refused = [](const std::string& key, const GgufValue& value) {
        Keys keys = {{"block_count", uint32_t(2)}, {"embedding_length", uint32_t(8)}};
        keys[key] = value;
        try {
            config_of("gemma3", keys);
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

TEST_CASE(
    "architecture: layers may differ in their heads, and who cannot tell them apart says so") {
    ModelConfig config;
    config.plan = {{.heads = 2, .kv_heads = 1, .d_k = 8, .d_v = 8}, {.heads = 2, .kv_heads = 2}};
    CHECK_THROWS_WITH(config.equal_heads("rotkv-x"),
                      "rotkv-x: expected layers of equal heads, this model's differ");
}
