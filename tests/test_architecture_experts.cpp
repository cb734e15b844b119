// What keys and tensors make of experts: which layers have some, how many, how wide, and how
// tokens choose among them.
#include "tests/architecture_file.h"
#include "tests/catch.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

const Keys k_experts = {{"expert_count", uint32_t(8)},
                        {"expert_used_count", uint32_t(2)},
                        {"expert_feed_forward_length", uint32_t(6)}};

// Layers that have a router, and those of them with a shared expert of 5 channels.
Tensors routers(const Ints& layers, const Ints& shared = {}) {
    Tensors tensors;
    for (const int64_t l : layers) tensors[blk(l, "ffn_gate_inp.weight")] = {1};
    for (const int64_t l : shared) tensors[blk(l, "ffn_up_shexp.weight")] = {1};
    return tensors;
}

const Tensors k_everywhere = routers({0, 1, 2, 3});

ModelConfig experts_of(const std::string& name, const Keys& keys = {},
                       const Tensors& tensors = k_everywhere) {
    return config_of(name, with(k_experts, keys), 8, tensors);
}

std::string refused(const std::string& name, const Keys& keys,
                    const Tensors& tensors = k_everywhere) {
    return refusal(name, with(k_experts, keys), tensors);
}

// Keys without which llama4 or deepseek2 is none.
const Keys k_llama4 = {{"attention.sliding_window", uint32_t(8192)},
                       {"expert_used_count", uint32_t(1)}};
const Keys k_latent = {
    {"attention.kv_lora_rank", uint32_t(8)},    {"attention.head_count_kv", uint32_t(1)},
    {"attention.key_length", uint32_t(12)},     {"attention.value_length", uint32_t(8)},
    {"attention.key_length_mla", uint32_t(10)}, {"attention.value_length_mla", uint32_t(7)},
    {"rope.dimension_count", uint32_t(4)}};

}  // namespace

TEST_CASE("architecture: the layers that have a router have experts, the others a dense block") {
    const Keys dense_first = {{"leading_dense_block_count", uint32_t(1)}};
    for (const char* name : {"ernie4_5-moe", "glm4moe"}) {
        const ModelConfig config = experts_of(name, dense_first, routers({1, 2, 3}));
        INFO(name);
        CHECK(of_layers(config, &LayerPlan::experts) == Ints{0, 8, 8, 8});
        CHECK(of_layers(config, &LayerPlan::experts_used) == Ints{0, 2, 2, 2});
        CHECK(of_layers(config, &LayerPlan::expert_feed_forward) == Ints{0, 6, 6, 6});
        CHECK(of_layers(config, &LayerPlan::feed_forward) == Ints{8, 0, 0, 0});
    }
    const Keys every_second = with(k_llama4, {{"interleave_moe_layer_step", uint32_t(2)}});
    const ModelConfig llama4 = experts_of("llama4", every_second, routers({1, 3}));
    CHECK(of_layers(llama4, &LayerPlan::experts) == Ints{0, 8, 0, 8});
    for (const char* name : {"llama", "mistral3", "qwen3moe"}) {
        CHECK(of_layers(experts_of(name), &LayerPlan::experts) == Ints{8, 8, 8, 8});
        CHECK(refused(name, dense_first, routers({1, 2, 3})) ==
              name + std::string(".expert_count: expected 0, as layer 0 has no tensor "
                                 "ffn_gate_inp.weight, found 8"));
    }
    // A model of experts alone need not name F, another must.
    const Keys no_width = {{"feed_forward_length", k_left_out}};
    CHECK(experts_of("qwen3moe", no_width).plan[2].feed_forward == 0);
    CHECK(refused("glm4moe", with(dense_first, no_width), routers({1, 2, 3})) ==
          "expected a metadata key 'glm4moe.feed_forward_length', found none");
}

TEST_CASE("architecture: where keys say which layers have experts, the others have none") {
    const auto from = [](uint32_t layer) { return Keys{{"leading_dense_block_count", layer}}; };
    const Tensors behind = routers({1, 2, 3});
    CHECK(refused("glm4moe", {}, behind) ==
          "glm4moe.leading_dense_block_count: expected experts in layer 0, found none");
    CHECK(refused("glm4moe", from(2), behind) ==
          "glm4moe.leading_dense_block_count: expected no experts in layer 1, found some");
    CHECK(refused("deepseek2", with(k_latent, from(1)), routers({1, 3})) ==
          "deepseek2.leading_dense_block_count: expected experts in layer 2, found none");
    const Keys every_second = with(k_llama4, {{"interleave_moe_layer_step", uint32_t(2)}});
    CHECK(refused("llama4", every_second) ==
          "llama4.interleave_moe_layer_step: expected no experts in layer 0, found some");
    CHECK(refused("llama4", every_second, routers({1})) ==
          "llama4.interleave_moe_layer_step: expected experts in layer 3, found none");
    const Keys both = with(from(2), {{"interleave_moe_layer_step", uint32_t(2)}});
    CHECK(of_layers(experts_of("ernie4_5-moe", both, routers({3})), &LayerPlan::experts) ==
          Ints{0, 0, 0, 8});
}

TEST_CASE("architecture: counts of experts, and their widths, may be lists") {
    const auto list = [](const std::vector<int32_t>& values) { return GgufArray(values); };
    const ModelConfig config =
        experts_of("gpt-oss", {{"attention.sliding_window", uint32_t(128)},
                               {"expert_used_count", list({2, 1, 3, 8})},
                               {"expert_feed_forward_length", list({6, 5, 4, 3})}});
    CHECK(of_layers(config, &LayerPlan::experts_used) == Ints{2, 1, 3, 8});
    CHECK(of_layers(config, &LayerPlan::expert_feed_forward) == Ints{6, 5, 4, 3});
    CHECK(refused("qwen3moe", {{"expert_used_count", list({2, 1, 3, 9})}}) ==
          "qwen3moe.expert_used_count: expected at most 8 experts, found 9");
    CHECK(refused("qwen3moe", {{"expert_used_count", list({2, 1, 3})}}) ==
          "qwen3moe.expert_used_count: expected 4 values, one a layer, found 3");
    CHECK(refused("qwen3moe", {{"expert_used_count", uint32_t(0)}}) ==
          "qwen3moe.expert_used_count: expected 1 to 268435456, found 0");
}

TEST_CASE("architecture: F is that of one expert, of all that a token uses, or of neither") {
    const Keys wide = {{"expert_feed_forward_length", k_left_out},
                       {"feed_forward_length", uint32_t(14)}};
    const auto width = [&](const char* name, const Keys& keys = {}) {
        return experts_of(name, with(wide, keys)).plan[1].expert_feed_forward;
    };
    CHECK(width("granitemoe", {{"logit_scale", 1.0f}}) == 14);
    CHECK(width("ernie4_5-moe") == 14);
    for (const char* name : {"qwen2moe", "qwen3moe"}) CHECK(width(name) == 7);
    CHECK(refused("qwen3moe", with(wide, {{"feed_forward_length", k_left_out}})) ==
          "expected a metadata key 'qwen3moe.expert_feed_forward_length', found none");
}

TEST_CASE("architecture: a shared expert is as wide as keys say, or as its tensor is") {
    const Tensors shared = routers({0, 1, 2, 3}, {0, 1, 2, 3});
    const auto width = [&](const Keys& keys, const Tensors& tensors) {
        return experts_of("ernie4_5-moe", keys, tensors).plan[2].shared_feed_forward;
    };
    CHECK(width({}, k_everywhere) == 0);
    CHECK(width({}, shared) == 1);
    CHECK(width({{"expert_shared_count", uint32_t(0)}}, shared) == 1);
    CHECK(width({{"expert_shared_count", uint32_t(3)}}, shared) == 18);
    CHECK(width({{"expert_shared_count", uint32_t(3)},
                 {"expert_shared_feed_forward_length", uint32_t(7)}},
                shared) == 7);
    // What a key speaks of must be there: without its tensors loading fails.
    CHECK(width({{"expert_shared_count", uint32_t(1)}}, k_everywhere) == 6);
}

TEST_CASE("architecture: how weights of experts are made, by each architecture") {
    struct Usual {
        const char* name;
        Gating gating;
        bool normalise;
        Keys keys;
    };
    const Keys window = {{"attention.sliding_window", uint32_t(128)}};
    const std::vector<Usual> usual = {
        {"llama", Gating::softmax, true, {}},
        {"mistral3", Gating::softmax, true, {}},
        {"ernie4_5-moe", Gating::softmax, true, {}},
        {"granitemoe", Gating::softmax, true, {{"logit_scale", 1.0f}}},
        {"qwen2moe", Gating::softmax, false, {}},
        {"qwen3moe", Gating::softmax, true, {}},
        {"glm4moe", Gating::sigmoid, false, {}},
        {"gpt-oss", Gating::softmax_chosen, false, window},
        {"llama4", Gating::sigmoid, false, k_llama4},
        {"deepseek2", Gating::softmax, false, k_latent},
    };
    const Keys other = {{"expert_gating_func", uint32_t(3)},
                        {"expert_weights_norm", true},
                        {"expert_weights_scale", 2.5f}};
    for (const Usual& row : usual) {
        INFO(row.name);
        const ModelConfig config = experts_of(row.name, row.keys);
        CHECK(config.routing.gating == row.gating);
        CHECK(config.routing.normalise == row.normalise);
        CHECK(config.routing.scale == 1);
        CHECK(config.routing.groups == 1);
        // Keys count in two of them; in the others they are named, where they say something else.
        const ModelConfig asked = experts_of(row.name, with(row.keys, other));
        const bool read =
            row.name == std::string("glm4moe") || row.name == std::string("deepseek2");
        CHECK(asked.routing.gating == (read ? Gating::softmax_chosen : row.gating));
        CHECK(asked.routing.normalise == (read || row.normalise));
        CHECK(asked.routing.scale == (read ? 2.5f : 1.0f));
        const std::string notice = asked.notices.empty() ? "" : asked.notices.back();
        CHECK((notice.find("expert_weights_scale (f32 2.5)") != std::string::npos) == !read);
        CHECK((notice.find("expert_gating_func (u32 3)") != std::string::npos) ==
              (!read && row.gating != Gating::softmax_chosen));
        CHECK((notice.find("expert_weights_norm") != std::string::npos) ==
              (!read && !row.normalise));
    }
}

TEST_CASE("architecture: what keys say of gates, weights and groups of experts is held to be so") {
    CHECK(experts_of("glm4moe", {{"expert_gating_func", uint32_t(0)}}).routing.gating ==
          Gating::sigmoid);
    CHECK(experts_of("glm4moe", {{"expert_gating_func", uint32_t(1)}}).routing.gating ==
          Gating::softmax);
    CHECK(experts_of("glm4moe", {{"expert_gating_func", uint32_t(4)}}).routing.gating ==
          Gating::sqrt_softplus);
    CHECK(refused("glm4moe", {{"expert_gating_func", uint32_t(9)}}) ==
          "glm4moe.expert_gating_func: expected 0 to 4, found 9");
    CHECK(experts_of("glm4moe", {{"expert_weights_scale", 0.0f}}).routing.scale == 1);
    CHECK(refused("glm4moe", {{"expert_weights_scale", -1.0f}}) ==
          "glm4moe.expert_weights_scale: expected a number of 0 or more, found -1.000000");

    const auto groups = [](uint32_t count, uint32_t used) {
        return with(k_latent, {{"expert_group_count", count}, {"expert_group_used_count", used}});
    };
    const ModelConfig config = experts_of("deepseek2", groups(4, 2));
    CHECK(config.routing.groups == 4);
    CHECK(config.routing.groups_used == 2);
    for (const uint32_t none : {0u, 1u}) {
        CHECK(experts_of("deepseek2", groups(none, 0)).routing.groups == 1);
    }
    CHECK(refused("deepseek2", groups(3, 2)) ==
          "deepseek2.expert_group_count: expected a divisor of the 8 of expert_count, found 3");
    CHECK(refused("deepseek2", groups(4, 5)) ==
          "deepseek2.expert_group_used_count: expected at most the 4 of expert_group_count, found "
          "5");
    CHECK(refused("deepseek2", groups(4, 0)) ==
          "deepseek2.expert_group_used_count: expected 1 to 268435456, found 0");
    CHECK(refused("deepseek2", with(groups(4, 1), {{"expert_used_count", uint32_t(3)}})) ==
          "deepseek2.expert_used_count: expected at most 2 experts, found 3");
}

TEST_CASE("architecture: experts that a file counts and does not have, or has and does not count") {
    CHECK(refused("qwen3moe", {}, {}) ==
          "qwen3moe.expert_count: expected 0, as layer 0 has no tensor ffn_gate_inp.weight, found "
          "8");
    CHECK(
        refused("glm4moe", {{"leading_dense_block_count", uint32_t(4)}}, {}) ==
        "glm4moe.expert_count: expected 0, as no layer has a tensor ffn_gate_inp.weight, found 8");
    CHECK(refused("qwen3moe", {{"expert_count", uint32_t(0)}}) ==
          "qwen3moe.expert_count: expected 1 to 268435456, found 0");
    CHECK(refused("qwen3moe", {{"expert_count", k_left_out}}) ==
          "expected a metadata key 'qwen3moe.expert_count', found none");
    CHECK(refused("qwen3", {}) ==
          "qwen3.expert_count: expected 0, a model without experts, found 8");
    CHECK(experts_of("llama", {{"expert_count", uint32_t(0)}}, {}).plan[0].feed_forward == 8);
}

TEST_CASE("architecture: llama4 weighs what one expert reads, and norms heads unless it is huge") {
    CHECK(refused("llama4", with(k_llama4, {{"expert_used_count", uint32_t(2)}})) ==
          "llama4.expert_used_count: expected 1, as its weight is on the input, found 2");
    CHECK(experts_of("llama4", k_llama4).architecture.qk_norm == QkNorm::unit_turned);
    const Keys maverick = with(k_llama4, {{"expert_count", uint32_t(128)}});
    CHECK(experts_of("llama4", maverick).architecture.qk_norm == QkNorm::none);
}
