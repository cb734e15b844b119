// The table of architectures: one row each, which says how it differs from llama.
#include "ref/architecture.h"

#include <algorithm>

namespace rotkv {

static Architecture with_experts(Architecture row, const char* name, const ExpertRules& experts) {
    row.name = name;
    row.experts = experts;
    return row;
}

std::span<const Architecture> architectures() {
    constexpr RopePairs neox = RopePairs::neox;
    constexpr RopeFactors none = RopeFactors::none;
    constexpr const char* post_attention = "post_attention_norm.weight";
    constexpr const char* post_feed_forward = "post_ffw_norm.weight";
    constexpr const char* attention_scale = "attention.scale";
    constexpr const char* final_softcap = "final_logit_softcapping";
    constexpr const char* window = "attention.sliding_window";
    constexpr const char* pattern = "attention.sliding_window_pattern";
    constexpr const char* local_base = "rope.freq_base_swa";
    constexpr const char* sections = "rope.dimension_sections";
    constexpr const char* gating = "expert_gating_func";
    constexpr const char* normalise = "expert_weights_norm";
    constexpr const char* scale = "expert_weights_scale";
    constexpr const char* dense_first = "leading_dense_block_count";
    constexpr const char* step = "interleave_moe_layer_step";
    constexpr ExpertRules softmax_of_all{.known = true};
    constexpr ExpertRules shared_by_gate{
        .known = true, .share_out_hidden = true, .gated_shared = true};
    // Rows that another one is, too, with experts.
    static const Architecture granite{.name = "granite",
                                      .logit_scale = LogitScale::divides,
                                      .keys = {attention_scale, "embedding_scale", "logit_scale",
                                               "residual_scale", "rope.scaling.finetuned"}};
    static const Architecture qwen3{
        .name = "qwen3", .pairs = neox, .factors = none, .qk_norm = QkNorm::heads};
    static const Architecture qwen35{.name = "qwen35",
                                     .kind = LayerKind::delta,
                                     .key_heads = KeyHeads::interleaved,
                                     .pairs = neox,
                                     .partial_rope = true,
                                     .factors = none,
                                     .sections = RopeSections::of_pairs,
                                     .feed_forward_norm = post_attention,
                                     .qk_norm = QkNorm::heads,
                                     .query_gate = true,
                                     .keys = {sections}};
    static const Architecture table[] = {
        {.name = "llama", .experts = softmax_of_all},
        {.name = "ernie4_5"},
        {.name = "ernie4_5-moe", .experts = softmax_of_all, .keys = {dense_first, step}},
        {.name = "smollm3", .no_rope = NoRope::every_4th},
        {.name = "mistral3",
         .experts = softmax_of_all,
         .keys = {"attention.temperature_scale", "rope.scaling.yarn_log_multiplier",
                  "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}},
        granite,
        with_experts(granite, "granitemoe", softmax_of_all),
        {.name = "qwen2", .pairs = neox, .factors = none},
        {.name = "qwen2moe",
         .pairs = neox,
         .factors = none,
         .experts =
             {.known = true, .normalise = false, .share_out_hidden = true, .gated_shared = true},
         .own_output = true},
        qwen3,
        with_experts(qwen3, "qwen3moe", {.known = true, .share_out_hidden = true}),
        {.name = "qwen3next",
         .kind = LayerKind::delta,
         .key_heads = KeyHeads::grouped,
         .pairs = neox,
         .partial_rope = true,
         .factors = none,
         .feed_forward_norm = post_attention,
         .qk_norm = QkNorm::heads,
         .query_gate = true,
         .experts = shared_by_gate},
        qwen35,
        with_experts(qwen35, "qwen35moe", shared_by_gate),
        {.name = "hunyuan-dense", .pairs = neox, .factors = none, .qk_norm = QkNorm::turned_heads},
        {.name = "phi3",
         .pairs = neox,
         .partial_rope = true,
         .factors = RopeFactors::long_short,
         .window_on_request = true},
        {.name = "glm4",
         .partial_rope = true,
         .factors = none,
         .sections = RopeSections::refused,
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .keys = {sections}},
        {.name = "glm4moe",
         .pairs = neox,
         .partial_rope = true,
         .factors = none,
         .sections = RopeSections::refused,
         .feed_forward_norm = post_attention,
         .qk_norm = QkNorm::heads,
         .qk_norm_by_file = true,
         .experts = {.known = true, .gating = Gating::sigmoid, .normalise = false},
         .keys = {gating, normalise, scale, dense_first, sections}},
        {.name = "gpt-oss",
         .pairs = neox,
         .factors = none,
         .feed_forward_norm = post_attention,
         .sinks = true,
         .biased = true,
         .activation = Activation::swiglu_oai,
         .experts = {.known = true, .gating = Gating::softmax_chosen, .normalise = false},
         .own_output = true,
         .window_pattern = 2,
         .missing_window = MissingWindow::refused,
         .keys = {window, pattern, local_base}},
        {.name = "llama4",
         .no_rope = NoRope::every_4th,
         .qk_norm = QkNorm::unit_turned,
         .experts = {.known = true,
                     .gating = Gating::sigmoid,
                     .normalise = false,
                     .weight_on_input = true,
                     .not_normed = 128},  // Maverick
         .window_pattern = 4,
         .window = 8192,
         .missing_window = MissingWindow::fixed,
         .chunked = true,
         .temperature = 0.1,
         .keys = {local_base, step}},
        {.name = "deepseek2",
         .kind = LayerKind::latent,
         .partial_rope = true,
         .factors = none,
         .experts = {.known = true, .normalise = false, .sigmoid_words = 154880},  // GLM-4.7-Flash
         .keys = {gating, normalise, scale, dense_first, "attention.temperature_scale",
                  "attention.temperature_length", "rope.scaling.yarn_log_multiplier"}},
        {.name = "olmo2",  // and OLMo 3, which has windows
         .pairs = neox,
         .factors = none,
         .attention_norm = "",
         .feed_forward_norm = "",
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .qk_norm = QkNorm::all_heads,
         .own_output = true,
         .window_pattern = 4,
         .missing_window = MissingWindow::none,
         .local_stretched = false,
         .keys = {window, pattern}},
        {.name = "exaone4",
         .pairs = neox,
         .no_rope = NoRope::without_window,
         .attention_norm = "",
         .feed_forward_norm = "",
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .qk_norm = QkNorm::heads,
         .window_pattern = 4,
         .window = 4096,
         .window_layers = 64,  // the 32B
         .keys = {window, pattern}},
        {.name = "cohere2",
         .factors = none,
         .no_rope = NoRope::without_window,
         .feed_forward_norm = "",
         .layer_norm = true,
         .parallel = true,
         .logit_scale = LogitScale::multiplies,
         .window_pattern = 4,
         .missing_window = MissingWindow::refused,
         .keys = {"logit_scale", window, pattern}},
        {.name = "gemma2",
         .pairs = neox,
         .partial_rope = true,
         .factors = none,
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .activation = Activation::gelu_tanh,
         .scaled_embedding = true,
         .window_pattern = 2,
         .window = 4096,
         .attention_softcap = 50,
         .final_softcap = 30,
         .scaled_by_width = 46,  // the 27B
         .keys = {"attn_logit_softcapping", final_softcap, window, pattern, local_base}},
        {.name = "gemma3",
         .pairs = neox,
         .partial_rope = true,
         .factors = none,
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .qk_norm = QkNorm::heads,
         .activation = Activation::gelu_tanh,
         .scaled_embedding = true,
         .window_pattern = 6,
         .local_rope_base = 10000,
         .local_stretched = false,
         .scaled_by_width = 62,  // the 27B
         .keys = {final_softcap, window, pattern, local_base}},
        {.name = "gemma4",
         .pairs = neox,
         .partial_rope = true,
         .factors = RopeFactors::full_layers,
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .qk_norm = QkNorm::heads,
         .unit_v = true,
         .keys_as_values = true,
         .activation = Activation::gelu_tanh,
         .experts = {.known = true, .beside_dense = true},
         .output_scale = true,
         .scaled_embedding = true,
         .window_pattern = -1,
         .missing_window = MissingWindow::refused,
         .local_rope_base = 10000,
         .local_stretched = false,
         .attention_scale = 1,
         .final_softcap = 30,
         .keys = {final_softcap, window, pattern, local_base, "attention.key_length_swa",
                  "attention.value_length_swa", "attention.shared_kv_layers",
                  "embedding_length_per_layer_input"}},
    };
    return table;
}

bool Architecture::reads(std::string_view key) const {
    return std::ranges::find(keys, key) != keys.end();
}

}  // namespace rotkv
