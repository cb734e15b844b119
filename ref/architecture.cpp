// The table of architectures, the keys of a file, and the plan that the two make.
#include "ref/architecture.h"

#include "ref/architecture_keys.h"
#include "ref/error.h"
#include "ref/files/gguf.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace rotkv {

std::span<const Architecture> architectures() {
    constexpr RopePairs neox = RopePairs::neox;
    constexpr const char* q_norm = "attn_q_norm.weight";
    constexpr const char* k_norm = "attn_k_norm.weight";
    constexpr const char* post_attention = "post_attention_norm.weight";
    constexpr const char* post_feed_forward = "post_ffw_norm.weight";
    constexpr const char* final_softcap = "final_logit_softcapping";
    constexpr const char* window = "attention.sliding_window";
    constexpr const char* pattern = "attention.sliding_window_pattern";
    constexpr const char* local_base = "rope.freq_base_swa";
    constexpr RopeFactors none = RopeFactors::none;
    static const Architecture table[] = {
        {.name = "llama"},
        {.name = "qwen2", .pairs = neox, .factors = none},
        {.name = "qwen3", .pairs = neox, .factors = none, .norms = {q_norm, k_norm}},
        {.name = "phi3",
         .pairs = neox,
         .partial_rope = true,
         .factors = RopeFactors::long_short,
         .window_on_request = true},
        {.name = "gemma2",
         .pairs = neox,
         .partial_rope = true,
         .factors = none,
         .activation = Activation::gelu_tanh,
         .scaled_embedding = true,
         .window_pattern = 2,
         .window = 4096,
         .attention_softcap = 50,
         .final_softcap = 30,
         .scaled_by_width = 46,  // the 27B
         .norms = {post_attention, post_feed_forward},
         .keys = {"attn_logit_softcapping", final_softcap, window, pattern, local_base}},
        {.name = "gemma3",
         .pairs = neox,
         .partial_rope = true,
         .factors = none,
         .activation = Activation::gelu_tanh,
         .scaled_embedding = true,
         .window_pattern = 6,
         .local_rope_base = 10000,
         .scaled_by_width = 62,  // the 27B
         .norms = {q_norm, k_norm, post_attention, post_feed_forward},
         .keys = {final_softcap, window, pattern, local_base}},
    };
    return table;
}

bool Architecture::reads(std::string_view key) const {
    return std::ranges::find(keys, key) != keys.end();
}

const LayerPlan& ModelConfig::equal_heads(const std::string& who) const {
    const auto heads = [](const LayerPlan& layer) {
        return std::array{layer.heads, layer.kv_heads, layer.d_k, layer.d_v};
    };
    for (const LayerPlan& layer : plan) {
        if (heads(layer) == heads(plan[0])) continue;
        throw Error(ErrorCode::unsupported,
                    who + ": expected layers of equal heads, this model's differ");
    }
    return plan[0];
}

KvShape ModelConfig::cache_shape(int64_t streams, int64_t cells, DType type_k, DType type_v) const {
    KvShape shape{.streams = streams, .cells = cells, .layers = {}};
    for (const LayerPlan& layer : plan) {
        shape.layers.push_back({.kv_heads = layer.kv_heads,
                                .d_k = layer.d_k,
                                .d_v = layer.d_v,
                                .type_k = type_k,
                                .type_v = type_v});
    }
    return shape;
}

namespace {

Architecture find_architecture(const GgufFile& file) {
    const std::string_view name = file.get_string("general.architecture");
    std::string known;
    for (const Architecture& architecture : architectures()) {
        if (name == architecture.name) return architecture;
        known += std::string(known.empty() ? "" : ", ") + architecture.name;
    }
    throw Error(ErrorCode::unsupported, file.path() + ": architecture '" + std::string(name) +
                                            "' is unknown, known are " + known);
}

// Where the file does not have the key, says what stands in for it.
void assume(const Keys& keys, const std::string& name, const std::string& value,
            ModelConfig& config) {
    if (keys.has(name)) return;
    config.notices.push_back("no key " + keys.key(name) + ", " + value + " is assumed");
}

[[noreturn]] void unsupported(const GgufFile& file, const std::string& what,
                              const std::string& expected, const std::string& found) {
    throw Error(ErrorCode::unsupported,
                file.path() + ": " + what + ": expected " + expected + ", found " + found);
}

// Which of the three tensors of RoPE frequency factors the model turns by, "" for none: of two, the
// long one when the run exceeds the original context. Another of them means another RoPE.
std::string factors_tensor(const GgufFile& file, const ModelConfig& config, bool longrope,
                           int64_t original_context) {
    const std::string every = "rope_freqs.weight";
    const std::string longer = "rope_factors_long.weight", shorter = "rope_factors_short.weight";
    const RopeFactors takes = config.architecture.factors;
    const bool one = takes == RopeFactors::by_scaling && !longrope;
    const bool two = takes != RopeFactors::none && !one;
    for (const std::string& name : {every, longer, shorter}) {
        if (file.find_tensor(name) == nullptr || (name == every ? one : two)) continue;
        const char* scaling = takes != RopeFactors::by_scaling ? ""
                              : longrope ? " with rope.scaling.type 'longrope'"
                                         : " without rope.scaling.type 'longrope'";
        throw Error(ErrorCode::unsupported, file.path() + ": tensor " + name +
                                                " has no place in architecture '" +
                                                config.architecture.name + "'" + scaling);
    }
    if (one) return every;
    return !two ? "" : config.context > original_context ? longer : shorter;
}

std::vector<float> read_factors(const GgufFile& file, const std::string& name, int64_t n_rot) {
    const GgufTensor* tensor = file.find_tensor(name);
    if (tensor == nullptr) return {};
    const auto refuse = [&](const std::string& expected, const std::string& found) {
        throw Error(ErrorCode::bad_file, file.path() + ": tensor " + tensor->name + ": expected " +
                                             expected + ", found " + found);
    };
    if (tensor->type != DType::f32 || tensor->view.rows() != 1 || tensor->view.n[3] != n_rot / 2) {
        refuse("f32 [" + std::to_string(n_rot / 2) + "]", describe(tensor->view));
    }
    const float* first = tensor->view.row<const float>(0);
    const std::vector<float> factors(first, first + n_rot / 2);
    for (const float factor : factors) {
        if (!(factor > 0)) refuse("factors above 0", std::to_string(factor));
    }
    return factors;
}

// How far positions are stretched, and by which method.
void read_scaling(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    RopeConfig& rope = config.rope;
    const std::string type(keys.word("rope.scaling.type", "linear"));
    const bool yarn = type == "yarn", longrope = type == "longrope";
    if (type != "none" && type != "linear" && !yarn && !longrope) {
        unsupported(file, keys.key("rope.scaling.type"), "none, linear, yarn or longrope",
                    in_quotes(type));
    }
    rope.original_context =
        keys.count("rope.scaling.original_context_length", config.trained_context);
    const std::string factors = factors_tensor(file, config, longrope, rope.original_context);
    rope.frequency_factors = read_factors(file, factors, rope.n_rot);
    rope.yarn_attn_factor = double(keys.positive("rope.scaling.attn_factor", 1.0f));

    // 0 stands for "not set". A file that names no type, but a factor, once meant linear.
    const char* key = keys.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    const float factor = keys.number_from_0(key, 0);
    if (type != "none" && factor > 0) rope.linear_factor = double(factor);
    if (yarn) rope.yarn_ext_factor = 1.0;

    if (keys.has("rope.scaling.factor") && factor > 0 && factor != 1) {
        assume(keys, "rope.scaling.type", "linear", config);
    }
    if (yarn) assume(keys, "rope.scaling.factor", "1", config);
    if (yarn || (factors != "rope_freqs.weight" && !rope.frequency_factors.empty())) {
        assume(keys, "rope.scaling.original_context_length", std::to_string(rope.original_context),
               config);
    }
    const bool half = file.find_tensor("rope_factors_long.weight") != nullptr ||
                      file.find_tensor("rope_factors_short.weight") != nullptr;
    if (rope.frequency_factors.empty() && (longrope || half)) {
        config.notices.push_back("no tensor " + (factors.empty() ? "of RoPE factors" : factors) +
                                 ", factors of 1 are assumed");
    }
}

void read_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const int64_t d_k = config.plan[0].d_k;
    RopeConfig& rope = config.rope;
    rope.pairs = config.architecture.pairs;
    rope.n_rot = keys.count("rope.dimension_count", d_k);
    if (!config.architecture.partial_rope && rope.n_rot != d_k) {
        keys.refuse("rope.dimension_count", std::to_string(d_k) + ", as many channels as a key has",
                    std::to_string(rope.n_rot));
    }
    if (rope.n_rot % 2 != 0 || rope.n_rot > d_k) {
        keys.refuse("rope.dimension_count",
                    "an even number up to " + std::to_string(d_k) + ", the channels of a key",
                    std::to_string(rope.n_rot));
    }
    rope.base = double(keys.positive("rope.freq_base", 10000.0f));
    assume(keys, "rope.freq_base", "10000", config);
    read_scaling(file, keys, config);
}

// What layers with a window may have of their own: the RoPE base. llama.cpp reads sizes too.
void read_local_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    config.local_rope = config.rope;
    if (architecture.reads("rope.freq_base_swa")) {
        const double own = architecture.local_rope_base;
        const float usual = float(own > 0 ? own : config.rope.base);
        config.local_rope.base = double(keys.positive("rope.freq_base_swa", usual));
    }
    if (architecture.local_rope_base > 0) {
        config.local_rope.linear_factor = 1.0;  // only full layers were stretched in training
    }
    const auto same_size = [&](const char* name, int64_t expected) {
        const int64_t found = keys.count_or_0(name, expected);
        if (architecture.window_pattern == 0 || found == expected) return;
        unsupported(file, keys.key(name), std::to_string(expected) + " as in layers without window",
                    std::to_string(found));
    };
    same_size("attention.key_length_swa", config.plan[0].d_k);
    same_size("attention.value_length_swa", config.plan[0].d_v);
    same_size("rope.dimension_count_swa", config.rope.n_rot);
}

// Which layers look through a window, and with which RoPE.
void plan_windows(const Keys& keys, bool on_request, ModelConfig& config) {
    Architecture& architecture = config.architecture;
    const char* key = "attention.sliding_window";
    if (on_request && !architecture.window_on_request) {
        throw Error(
            ErrorCode::usage,
            std::string("phi3_window: expected architecture phi3, found ") + architecture.name);
    }
    std::vector<bool> windowed(config.plan.size(), on_request);
    int64_t window = 0;
    if (architecture.window_pattern > 0) {
        window = keys.count_or_0(key, architecture.window);
        windowed = keys.windows("attention.sliding_window_pattern", architecture.window_pattern,
                                config.layers);
        assume(keys, key, window > 0 ? std::to_string(window) : "no window", config);
    } else if (on_request) {
        window = keys.count(key);
        architecture.keys.push_back(key);
    }
    for (size_t l = 0; l < config.plan.size() && window > 0; ++l) {
        if (!windowed[l]) continue;
        config.plan[l].window = window;
        config.plan[l].rope = LayerRope::local;
    }
}

// Channels of a key or value in each layer, where the file does not say: E / H.
std::vector<int64_t> channels(const Keys& keys, const std::string& name, int64_t width,
                              const std::vector<int64_t>& heads) {
    std::vector<int64_t> usual;
    for (const int64_t h : heads) usual.push_back(width / h);
    const std::vector<int64_t> found = keys.per_layer(name, usual);
    for (size_t l = 0; l < heads.size() && !keys.has(name); ++l) {
        if (width % heads[l] == 0) continue;
        keys.refuse("attention.head_count",
                    "a divisor of " + keys.key("embedding_length") + " " + std::to_string(width) +
                        ", as there is no " + keys.key(name),
                    std::to_string(heads[l]));
    }
    return found;
}

// The heads and the feed-forward width of each layer.
void plan_shapes(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const std::vector<int64_t> heads = keys.per_layer("attention.head_count", config.layers);
    const std::vector<int64_t> kv_heads = keys.per_layer("attention.head_count_kv", heads);
    const std::vector<int64_t> hidden = keys.per_layer("feed_forward_length", config.layers);
    const auto d_k = channels(keys, "attention.key_length", config.width, heads);
    const auto d_v = channels(keys, "attention.value_length", config.width, heads);
    for (size_t l = 0; l < heads.size(); ++l) {
        const LayerPlan layer{.heads = heads[l],
                              .kv_heads = kv_heads[l],
                              .d_k = d_k[l],
                              .d_v = d_v[l],
                              .feed_forward = hidden[l]};
        if (layer.heads % layer.kv_heads != 0) {
            throw Error(ErrorCode::bad_file, file.path() + ": layer " + std::to_string(l) + " of " +
                                                 std::to_string(layer.heads) + " query and " +
                                                 std::to_string(layer.kv_heads) +
                                                 " KV heads is not possible");
        }
        config.plan.push_back(layer);
        if (layer.d_k == d_k[0]) continue;  // one RoPE and one scale serve all layers
        unsupported(file,
                    keys.key(keys.has("attention.key_length") ? "attention.key_length"
                                                              : "attention.head_count"),
                    "heads of " + std::to_string(d_k[0]) + " channels in every layer",
                    std::to_string(layer.d_k) + " in layer " + std::to_string(l));
    }
}

// The rows of the embeddings: one for each token, where the file has a vocabulary.
int64_t count_words(const GgufFile& file) {
    const GgufTensor* listed = file.find_listed("token_embd.weight");  // read or not, it has rows
    const int64_t rows = listed != nullptr ? listed->n[1] : file.tensor("token_embd.weight").n[1];
    const char* key = "tokenizer.ggml.tokens";
    if (file.find(key) == nullptr || int64_t(file.get_strings(key).size()) == rows) return rows;
    throw Error(ErrorCode::bad_file, file.path() + ": tensor token_embd.weight: expected " +
                                         std::to_string(file.get_strings(key).size()) +
                                         " rows, one for each of " + key + ", found " +
                                         std::to_string(rows));
}

// Factors on embeddings and scores, and the caps of scores and logits.
void read_scales(const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    if (architecture.scaled_embedding) config.embedding_scale = std::sqrt(float(config.width));
    const bool by_width = config.layers == architecture.scaled_by_width;
    const int64_t scaled_by =
        by_width ? config.width / config.equal_heads("a scale by E / H").heads : config.plan[0].d_k;
    config.attention_scale = 1.0f / std::sqrt(float(scaled_by));

    const auto softcap = [&](const char* name, float usual) {
        if (!architecture.reads(name)) return 0.0f;
        if (usual > 0) assume(keys, name, std::to_string(int(usual)), config);
        return keys.number_from_0(name, usual);
    };
    config.attention_softcap = softcap("attn_logit_softcapping", architecture.attention_softcap);
    config.final_softcap = softcap("final_logit_softcapping", architecture.final_softcap);
}

// What llama.cpp reads in every architecture and is not computed here.
void refuse_other_models(const GgufFile& file, const Keys& keys) {
    if (keys.count_or_0("expert_count", 0) > 0) {
        unsupported(file, keys.key("expert_count"), "0, a model without experts",
                    std::to_string(keys.count("expert_count")));
    }
    if (!file.get_bool(keys.key("attention.causal"), true)) {
        unsupported(file, keys.key("attention.causal"), "true", "false");
    }
}

}  // namespace

ModelConfig read_config(const GgufFile& file, int64_t context, bool phi3_window) {
    ModelConfig config;
    config.architecture = find_architecture(file);
    const Keys keys(file);
    refuse_other_models(file, keys);
    config.name = file.get_string("general.name", "unnamed");
    config.layers = keys.count("block_count");
    config.width = keys.count("embedding_length");
    config.words = count_words(file);
    config.context = context;
    config.trained_context = keys.count("context_length");
    config.norm_epsilon = keys.positive("attention.layer_norm_rms_epsilon");
    if (config.layers > 4096) {
        keys.refuse("block_count", "at most 4096 layers", std::to_string(config.layers));
    }
    plan_shapes(file, keys, config);
    read_scales(keys, config);
    read_rope(file, keys, config);
    plan_windows(keys, phi3_window, config);
    read_local_rope(file, keys, config);

    const std::string others = keys_not_applied(file, config);
    if (others.empty()) return config;
    config.notices.push_back(std::string("not applied, since architecture '") +
                             config.architecture.name + "' does not read them: " + others);
    return config;
}

}  // namespace rotkv
