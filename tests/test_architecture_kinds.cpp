// What keys and tensors make of layers of other kinds: latent attention, gated DeltaNet, chunks,
// and heads and caches that differ from layer to layer.
#include "tests/architecture_file.h"
#include "tests/catch.h"

#include <algorithm>
#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Flags = std::vector<bool>;
using Numbers = std::vector<int32_t>;

// An absorbed model of two heads: a row of 8 + 4 channels, heads of 6 + 4 and 7.
const Keys k_absorbed = {
    {"attention.kv_lora_rank", uint32_t(8)},    {"attention.head_count_kv", uint32_t(1)},
    {"attention.key_length", uint32_t(12)},     {"attention.value_length", uint32_t(8)},
    {"attention.key_length_mla", uint32_t(10)}, {"attention.value_length_mla", uint32_t(7)},
    {"rope.dimension_count", uint32_t(4)}};
const Keys k_legacy = {{"attention.kv_lora_rank", uint32_t(8)},
                       {"attention.key_length", uint32_t(10)},
                       {"attention.value_length", uint32_t(7)},
                       {"rope.dimension_count", uint32_t(4)}};
const Keys k_delta = {{"ssm.conv_kernel", uint32_t(4)},
                      {"ssm.state_size", uint32_t(6)},
                      {"ssm.group_count", uint32_t(2)},
                      {"ssm.time_step_rank", uint32_t(4)},
                      {"ssm.inner_size", uint32_t(24)},
                      {"rope.dimension_count", uint32_t(8)},
                      {"rope.dimension_sections", GgufArray(Numbers{2, 1, 1, 0})}};
const Keys k_gemma4 = {
    {"attention.sliding_window", uint32_t(512)},
    {"attention.sliding_window_pattern", GgufArray(Flags{true, false, true, false})},
    {"attention.key_length", uint32_t(16)},
    {"attention.value_length", uint32_t(16)},
    {"attention.key_length_swa", uint32_t(8)},
    {"attention.value_length_swa", uint32_t(8)},
    {"embedding_length_per_layer_input", uint32_t(0)},
    {"rope.freq_base", 1e6f}};

// gemma4 must have factors for every pair of its full layers.
ModelConfig gemma4_of(const Keys& keys, size_t pairs = 8) {
    return config_of("gemma4", keys, 8, {{"rope_freqs.weight", std::vector<float>(pairs, 2.0f)}});
}

std::string gemma4_refused(const Keys& keys) {
    return refusal("gemma4", keys, {{"rope_freqs.weight", std::vector<float>(8, 2.0f)}});
}

std::string kinds_of(const ModelConfig& config) {
    std::string letters;
    for (const LayerPlan& layer : config.plan) letters += "gld"[int(layer.kind)];
    return letters;
}

Ints sources_of(const ModelConfig& config) {
    Ints sources;
    for (const LayerPlan& layer : config.plan) sources.push_back(layer.source.value_or(-1));
    return sources;
}

}  // namespace

TEST_CASE("architecture: gpt-oss has windows in even layers, and YaRN in all") {
    const Keys keys = {{"attention.sliding_window", uint32_t(128)},
                       {"rope.freq_base", 150000.0f},
                       {"rope.scaling.type", std::string_view("yarn")},
                       {"rope.scaling.factor", 32.0f},
                       {"rope.scaling.original_context_length", uint32_t(4096)}};
    const ModelConfig config = config_of("gpt-oss", keys);
    CHECK(windows_of(config) == Ints{128, 0, 128, 0});
    CHECK(config.local_rope == config.rope);
    CHECK(rope_magnitude(config.rope) == Approx(1.34657).epsilon(1e-5));
    CHECK(config.notices.empty());
    CHECK(refusal("gpt-oss", with(keys, {{"attention.sliding_window", k_left_out}})) ==
          "expected a metadata key 'gpt-oss.attention.sliding_window', found none");
    const Keys odd = {
        {"attention.sliding_window_pattern", GgufArray(Flags{false, true, true, false})}};
    CHECK(windows_of(config_of("gpt-oss", with(keys, odd))) == Ints{0, 128, 128, 0});
}

TEST_CASE(
    "architecture: llama4 looks through chunks of 8192, whatever the file says, or is refused") {
    const auto keys = [](uint32_t window) {
        return Keys{{"attention.sliding_window", window}, {"block_count", uint32_t(9)}};
    };
    for (const uint32_t named : {8192u, 512u}) {
        const ModelConfig config = config_of("llama4", keys(named));
        CHECK(windows_of(config) == Ints{8192, 8192, 8192, 0, 8192, 8192, 8192, 0, 8192});
        CHECK(ropes_of(config) == "lll-lll-l");
        CHECK(config.local_rope == config.rope);
        CHECK(config.architecture.chunked);
        // Another number changes nothing, and is named.
        CHECK(config.notices.size() == (named == 8192 ? 0 : 1));
    }
    CHECK(config_of("llama4", {}).plan[0].window == 8192);
    CHECK(refusal("llama4", keys(0)) == "llama4.attention.sliding_window: expected 8192, found 0");
    // Layers that do not turn have queries that grow: 1 + 0.1 ln(floor((p + 1) / 8192) + 1).
    const ModelConfig config = config_of("llama4", keys(8192));
    for (size_t l = 0; l < 9; ++l) CHECK(config.plan[l].tempered == (l % 4 == 3));
    CHECK(config.temperature.factor(0) == 1);
    CHECK(config.temperature.factor(8190) == 1);
    CHECK(config.temperature.factor(8191) == Approx(1 + 0.1 * std::log(2)));
    CHECK(config.temperature.factor(16383) == Approx(1 + 0.1 * std::log(3)));
}

TEST_CASE("architecture: latent attention keeps one row a token, or keys and values of all heads") {
    const ModelConfig absorbed = config_of("deepseek2", k_absorbed);
    CHECK(kinds_of(absorbed) == "llll");
    CHECK(absorbed.latent ==
          LatentConfig{.rank = 8, .turning = 4, .still = 6, .d_v = 7, .absorbed = true});
    CHECK(of_layers(absorbed, &LayerPlan::kv_heads) == Ints{1, 1, 1, 1});
    CHECK(absorbed.rope.n_rot == 4);
    CHECK(absorbed.rope.pairs == RopePairs::norm);
    CHECK(absorbed.attention_scale == Approx(1 / std::sqrt(10.0)));  // of a head, not of the row
    const KvLayer row = absorbed.cache_shape(1, 8, DType::f16, DType::f16).layers[2];
    CHECK(row.v_in_k);
    CHECK(row.v_first == 0);
    CHECK(row.bytes_per_token() == 24);

    const ModelConfig legacy = config_of("deepseek2", k_legacy);
    CHECK(legacy.latent ==
          LatentConfig{.rank = 8, .turning = 4, .still = 6, .d_v = 7, .absorbed = false});
    CHECK(of_layers(legacy, &LayerPlan::kv_heads) == Ints{2, 2, 2, 2});
    CHECK(legacy.attention_scale == absorbed.attention_scale);
    CHECK(!legacy.cache_shape(1, 8, DType::f16, DType::f16).layers[2].v_in_k);
}

TEST_CASE("architecture: queries come from a latent where the file has its matrix, not by depth") {
    const Tensors low = {{"blk.0.attn_q_a.weight", {1}}};
    const Keys named = with(k_absorbed, {{"attention.q_lora_rank", uint32_t(5)}});
    CHECK(config_of("deepseek2", named, 8, low).latent.query_rank == 5);
    CHECK(config_of("deepseek2", named).latent.query_rank == 0);
    CHECK(config_of("deepseek2", with(k_absorbed, {{"block_count", uint32_t(27)}}))
              .latent.query_rank == 0);
    CHECK(refusal("deepseek2", k_absorbed, low) ==
          "expected a metadata key 'deepseek2.attention.q_lora_rank', found none");
}

TEST_CASE("architecture: extents of latent attention that contradict each other are refused") {
    const auto refused = [](const Keys& keys, const char* key, const GgufValue& value) {
        return refusal("deepseek2", with(keys, {{key, value}}));
    };
    CHECK(refused(k_absorbed, "attention.key_length", uint32_t(14)) ==
          "deepseek2.attention.key_length: expected 12, a latent and its turning channels, found "
          "14");
    CHECK(refused(k_absorbed, "attention.value_length", uint32_t(12)) ==
          "deepseek2.attention.value_length: expected 8, the latent, found 12");
    CHECK(refused(k_absorbed, "attention.head_count_kv", uint32_t(2)) ==
          "deepseek2.attention.head_count_kv: expected 1, one row for all heads, found 2");
    CHECK(refused(k_legacy, "attention.head_count_kv", uint32_t(1)) ==
          "deepseek2.attention.head_count_kv: expected 2, as many as query heads where keys are "
          "not absorbed, found 1");
    CHECK(refused(k_legacy, "attention.head_count_kv", GgufArray(Numbers{2, 2, 2, 1})) ==
          "deepseek2.attention.head_count_kv: expected 2, as many as query heads where keys are "
          "not absorbed, found 1");
    CHECK(refused(k_absorbed, "attention.key_length_mla", uint32_t(4)) ==
          "deepseek2.attention.key_length_mla: expected more than the 4 channels of "
          "rope.dimension_count, found 4");
    for (const char* key : {"attention.kv_lora_rank", "attention.value_length_mla",
                            "rope.dimension_count", "attention.key_length"}) {
        CHECK(refused(k_absorbed, key, k_left_out) ==
              "expected a metadata key 'deepseek2." + std::string(key) + "', found none");
    }
}

TEST_CASE("architecture: YaRN's magnitude is in deepseek2's scores, as a square, and not in RoPE") {
    const auto yarn = [](float factor, const GgufValue& multiplier) {
        return with(k_absorbed, {{"attention.key_length_mla", uint32_t(10)},
                                 {"rope.scaling.type", std::string_view("yarn")},
                                 {"rope.scaling.factor", factor},
                                 {"rope.scaling.original_context_length", uint32_t(16)},
                                 {"rope.scaling.yarn_log_multiplier", multiplier}});
    };
    const double plain = 1 / std::sqrt(10.0), log40 = std::log(40.0);
    // Files have a tenth of mscale_all_dim: V3's is 1, that of V2 0.707.
    for (const float m : {1.0f, 0.707f}) {
        const ModelConfig config = config_of("deepseek2", yarn(40, 0.1f * m));
        CHECK(rope_magnitude(config.rope) == Approx(1));
        CHECK(double(config.attention_scale) ==
              Approx(plain * std::pow(1 + 0.1 * double(m) * log40, 2)));
    }
    // Without the key RoPE keeps its magnitude, and channels that do not turn get it in the scores.
    for (const GgufValue& none : {GgufValue(0.0f), k_left_out}) {
        const ModelConfig config = config_of("deepseek2", yarn(40, none));
        CHECK(rope_magnitude(config.rope) == Approx(1 + 0.1 * log40));
        CHECK(double(config.attention_scale) == Approx(plain * std::pow(1 + 0.1 * log40, 2)));
    }
    CHECK(double(config_of("deepseek2", k_absorbed).attention_scale) == Approx(plain));
    // Any way of stretching has it.
    const Keys linear = with(yarn(40, 0.1f), {{"rope.scaling.type", std::string_view("linear")}});
    CHECK(rope_magnitude(config_of("deepseek2", linear).rope) == Approx(1));
    CHECK(double(config_of("deepseek2", linear).attention_scale) ==
          Approx(plain * std::pow(1 + 0.1 * log40, 4)));
    // DeepSeek-V3: heads of 128 + 64 channels.
    const Keys v3 = with(yarn(40, 0.1f), {{"attention.kv_lora_rank", uint32_t(512)},
                                          {"attention.key_length", uint32_t(576)},
                                          {"attention.value_length", uint32_t(512)},
                                          {"attention.key_length_mla", uint32_t(192)},
                                          {"rope.dimension_count", uint32_t(64)}});
    CHECK(double(config_of("deepseek2", v3).attention_scale) == Approx(0.135234).epsilon(1e-5));
}

TEST_CASE("architecture: deepseek2's queries grow with their position where keys say so") {
    const Keys warm = with(k_absorbed, {{"attention.temperature_scale", 0.1f},
                                        {"attention.temperature_length", uint32_t(16)}});
    const ModelConfig config = config_of("deepseek2", warm);
    CHECK(config.plan[3].tempered);
    CHECK(config.temperature.factor(15) == 1);
    CHECK(config.temperature.factor(16) == Approx(1 + 0.1 * std::log(2)));
    CHECK(!config_of("deepseek2", k_absorbed).plan[3].tempered);
}

TEST_CASE("architecture: GLM-4.7-Flash has sigmoid gates, by its depth and number of words") {
    const auto of = [](int64_t words, uint32_t layers, const Keys& more) {
        const Keys keys = with(k_absorbed, {{"block_count", layers},
                                            {"embedding_length", uint32_t(32)},
                                            {"context_length", uint32_t(64)},
                                            {"attention.head_count", uint32_t(2)},
                                            {"attention.layer_norm_rms_epsilon", 1e-6f},
                                            {"feed_forward_length", uint32_t(8)},
                                            {"leading_dense_block_count", layers - 1},
                                            {"expert_count", uint32_t(4)},
                                            {"expert_used_count", uint32_t(2)},
                                            {"expert_feed_forward_length", uint32_t(6)}});
        GgufWriter writer;
        writer.add("general.architecture", std::string_view("deepseek2"));
        for (const auto& [key, value] : with(keys, more)) writer.add("deepseek2." + key, value);
        const std::vector<std::byte> embedding(size_t(row_bytes(DType::q4_0, words * 32)));
        writer.add_tensor("token_embd.weight", view(embedding.data(), DType::q4_0, {words, 32}));
        const float router = 1;
        writer.add_tensor(blk(layers - 1, "ffn_gate_inp.weight"), view(&router, DType::f32, {1}));
        const TemporaryFile file("words.gguf");
        writer.write(file.path());
        return read_config(GgufFile::open(file.path()), 8);
    };
    const auto notice = [](const ModelConfig& config, const std::string& gating) {
        const std::string text = "no key deepseek2.expert_gating_func, " + gating + " is assumed";
        return std::ranges::count(config.notices, text) == 1;
    };
    for (const uint32_t layers : {47u, 48u}) {
        const ModelConfig flash = of(154880, layers, {});
        CHECK(flash.routing.gating == Gating::sigmoid);
        CHECK(notice(flash, "sigmoid"));
    }
    CHECK(of(154880, 47, {{"expert_gating_func", uint32_t(1)}}).routing.gating == Gating::softmax);
    CHECK(of(154880, 46, {}).routing.gating == Gating::softmax);
    CHECK(of(154879, 47, {}).routing.gating == Gating::softmax);
    CHECK(notice(of(154879, 47, {}), "softmax"));
}

TEST_CASE("architecture: of Qwen3-Next and Qwen3.5 every fourth layer attends, or as a list says") {
    for (const char* name : {"qwen3next", "qwen35", "qwen35moe"}) {
        INFO(name);
        const ModelConfig config = config_of(name, with(k_delta, {{"block_count", uint32_t(9)}}));
        CHECK(kinds_of(config) == "dddgdddgd");
        CHECK(ropes_of(config) == "---f---f-");
        CHECK(of_layers(config, &LayerPlan::kv_heads) == Ints{0, 0, 0, 2, 0, 0, 0, 2, 0});
        CHECK(config.delta == DeltaConfig{.heads = 4, .key_heads = 2, .d = 6, .taps = 4});
        CHECK(config.delta.channels() == 48);
        const KvShape cache = config.cache_shape(1, 8, DType::f16, DType::f16);
        CHECK(cache.layers[0].recurrent ==
              RecurrentLayer{.heads = 4, .d = 6, .channels = 48, .taps = 4});
        CHECK(cache.layers[3].recurrent == RecurrentLayer());
        const auto refused = [&](const char* key, const GgufValue& value) {
            return refusal(name, with(k_delta, {{key, value}})).substr(std::string(name).size());
        };
        CHECK(refused("ssm.inner_size", uint32_t(23)) ==
              ".ssm.inner_size: expected 24, ssm.time_step_rank heads of ssm.state_size channels, "
              "found 23");
        CHECK(refused("ssm.time_step_rank", uint32_t(5)) ==
              ".ssm.time_step_rank: expected a multiple of the 2 of ssm.group_count, found 5");
        CHECK(refused("full_attention_interval", uint32_t(5)) ==
              ".full_attention_interval: expected a layer that attends among 4, found none");
    }
    const auto kinds = [](const char* key, const GgufValue& value) {
        return kinds_of(config_of("qwen35", with(k_delta, {{key, value}})));
    };
    CHECK(kinds("full_attention_interval", uint32_t(2)) == "dgdg");
    CHECK(kinds("attention.recurrent_layers", GgufArray(Flags{false, true, true, false})) ==
          "gddg");
    CHECK(kinds("attention.recurrent_layers", GgufArray(Numbers{0, 1, 0, 1})) == "gdgd");
    CHECK(refusal("qwen35",
                  with(k_delta, {{"attention.recurrent_layers", GgufArray(Flags(4, true))}})) ==
          "qwen35.attention.recurrent_layers: expected a layer that attends among 4, found none");
    CHECK(refusal("qwen35",
                  with(k_delta, {{"attention.recurrent_layers", GgufArray(Flags(3, true))}})) ==
          "qwen35.attention.recurrent_layers: expected 4 values, one a layer, found 3");
    CHECK(config_of("qwen3next", k_delta).architecture.key_heads == KeyHeads::grouped);
    CHECK(config_of("qwen35", k_delta).architecture.key_heads == KeyHeads::interleaved);
}

TEST_CASE("architecture: Qwen3.5's sections must leave every pair to one of the first positions") {
    const auto sections = [](uint32_t n_rot, const Numbers& list) {
        return with(k_delta, {{"embedding_length", uint32_t(128)},
                              {"rope.dimension_count", n_rot},
                              {"rope.dimension_sections", GgufArray(list)}});
    };
    CHECK(config_of("qwen35",
                    with(sections(64, {11, 11, 10, 0}), {{"embedding_length", uint32_t(128)}}))
              .rope.n_rot == 64);
    CHECK(config_of("qwen35", sections(8, {2, 1, 1, 0})).rope.n_rot == 8);
    CHECK(config_of("qwen35", sections(8, {2, 1, 1, 5})).rope.n_rot == 8);  // out of reach
    for (const Numbers& list : {Numbers{1, 1, 1, 1}, Numbers{4, 0, 0, 0}, Numbers{0, 0, 0, 0},
                                Numbers{2, 1, 1}, Numbers{0, 0, 0, 4}}) {
        CHECK(refusal("qwen35", sections(8, list))
                  .find("qwen35.rope.dimension_sections: expected 4 sections, the first three of "
                        "which take all 4 pairs, found ") == 0);
    }
    CHECK(refusal("qwen35", sections(8, {2, -1, 1, 0})) ==
          "qwen35.rope.dimension_sections: expected extents of 0 or more, found -1");
    CHECK(refusal("qwen35", with(k_delta, {{"rope.dimension_sections", k_left_out}})) ==
          "expected a metadata key 'qwen35.rope.dimension_sections', found none");
    CHECK(config_of("qwen3next", with(k_delta, {{"rope.dimension_sections", k_left_out}})).layers ==
          4);
}

TEST_CASE("architecture: gemma4's heads, ropes and windows are of two kinds, as a list says") {
    const ModelConfig config = gemma4_of(k_gemma4);
    CHECK(windows_of(config) == Ints{512, 0, 512, 0});
    CHECK(ropes_of(config) == "lflf");
    CHECK(of_layers(config, &LayerPlan::d_k) == Ints{8, 16, 8, 16});
    CHECK(of_layers(config, &LayerPlan::d_v) == Ints{8, 16, 8, 16});
    CHECK(config.rope.n_rot == 16);
    CHECK(config.rope.base == 1e6);
    CHECK(config.local_rope.n_rot == 8);
    CHECK(config.local_rope.base == 10000);
    CHECK(config.attention_scale == 1);
    CHECK(config.final_softcap == 30);
    CHECK(config.notices ==
          std::vector<std::string>{"no key gemma4.final_logit_softcapping, 30 is assumed"});
    CHECK_THROWS_WITH(config.equal_heads("x"),
                      "x: expected layers of equal heads, this model's differ");
    for (const char* key : {"attention.sliding_window", "attention.sliding_window_pattern",
                            "attention.key_length_swa", "attention.value_length_swa",
                            "embedding_length_per_layer_input"}) {
        CHECK(gemma4_refused(with(k_gemma4, {{key, k_left_out}})) ==
              "expected a metadata key 'gemma4." + std::string(key) + "', found none");
    }
    const Keys partial = with(k_gemma4, {{"rope.dimension_count", uint32_t(12)},
                                         {"rope.dimension_count_swa", uint32_t(4)},
                                         {"rope.freq_base_swa", 500.0f}});
    CHECK(gemma4_of(partial, 6).rope.n_rot == 12);
    CHECK(gemma4_of(partial, 6).local_rope.n_rot == 4);
    CHECK(gemma4_of(partial, 6).local_rope.base == 500);
    CHECK(gemma4_refused(with(k_gemma4, {{"rope.dimension_count_swa", uint32_t(10)}})) ==
          "gemma4.rope.dimension_count_swa: expected an even number up to 8, the channels of a "
          "key, found 10");
}

TEST_CASE("architecture: RoPE's factors are for gemma4's full layers alone, which must have some") {
    const ModelConfig config = gemma4_of(k_gemma4);
    CHECK(config.rope.frequency_factors == std::vector<float>(8, 2.0f));
    CHECK(config.local_rope.frequency_factors.empty());
    CHECK(refusal("gemma4", k_gemma4) == "expected a tensor 'rope_freqs.weight', found none");
}

TEST_CASE("architecture: gemma4's last layers read what the last of their kind has stored") {
    const auto shared = [](uint32_t n, const Flags& windows) {
        return with(k_gemma4, {{"block_count", uint32_t(windows.size())},
                               {"attention.shared_kv_layers", n},
                               {"attention.sliding_window_pattern", GgufArray(windows)},
                               {"embedding_length_per_layer_input", uint32_t(3)}});
    };
    const Flags pattern = {true, false, true, false, true, true, false};
    CHECK(sources_of(gemma4_of(shared(0, pattern))) == Ints(7, -1));
    const ModelConfig config = gemma4_of(shared(3, pattern));
    CHECK(sources_of(config) == Ints{-1, -1, -1, -1, 2, 2, 3});
    CHECK(config.per_layer_width == 3);
    CHECK(config.cache_shape(1, 8, DType::f16, DType::f16).layers[6].source == 3);
    for (const uint32_t n : {1u, 2u, 4u, 6u, 7u, 9u}) {
        CHECK(gemma4_refused(shared(n, pattern)) ==
              "gemma4.attention.shared_kv_layers: expected layers before them that end with one "
              "with a window and one without, found " +
                  std::to_string(n));
    }
    const Keys heads = {{"attention.head_count_kv", GgufArray(Numbers{2, 1, 2, 1, 2, 1, 1})}};
    CHECK(gemma4_refused(with(shared(3, pattern), heads)) ==
          "gemma4.attention.head_count_kv: expected 2 in layer 5, which reads what layer 2 stores, "
          "found 1");
}
