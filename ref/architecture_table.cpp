// The table of architectures: one row each, which says how it differs from llama.
#include "ref/architecture.h"

#include <algorithm>

namespace rotkv {

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
    static const Architecture table[] = {
        {.name = "llama"},
        {.name = "ernie4_5"},
        {.name = "smollm3", .no_rope = NoRope::every_4th},
        {.name = "mistral3",
         .keys = {attention_scale, "attention.temperature_scale",
                  "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_beta_fast",
                  "rope.scaling.yarn_beta_slow"}},
        {.name = "granite",
         .logit_scale = LogitScale::divides,
         .keys = {attention_scale, "embedding_scale", "logit_scale", "residual_scale",
                  "rope.scaling.finetuned"}},
        {.name = "qwen2", .pairs = neox, .factors = none},
        {.name = "qwen3", .pairs = neox, .factors = none, .qk_norm = QkNorm::heads},
        {.name = "hunyuan-dense", .pairs = neox, .factors = none, .qk_norm = QkNorm::turned_heads},
        {.name = "phi3",
         .pairs = neox,
         .partial_rope = true,
         .factors = RopeFactors::long_short,
         .window_on_request = true},
        {.name = "glm4",
         .partial_rope = true,
         .factors = none,
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .keys = {"rope.dimension_sections"}},
        {.name = "olmo2",  // and OLMo 3, which has windows
         .pairs = neox,
         .factors = none,
         .attention_norm = "",
         .feed_forward_norm = "",
         .post_attention_norm = post_attention,
         .post_feed_forward_norm = post_feed_forward,
         .qk_norm = QkNorm::all_heads,
         .window_pattern = 4,
         .missing_window = MissingWindow::none,
         .local_stretched = false,
         .keys = {window, pattern, local_base}},
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
    };
    return table;
}

bool Architecture::reads(std::string_view key) const {
    return std::ranges::find(keys, key) != keys.end();
}

}  // namespace rotkv
