// The table of architectures, the keys of a file, and the plan that the two make.
#include "ref/architecture.h"

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
    static const Architecture table[] = {
        {.name = "llama"},
        {.name = "qwen2", .pairs = neox},
        {.name = "qwen3", .pairs = neox, .norms = {q_norm, k_norm}},
        {.name = "phi3", .pairs = neox, .window_on_request = true},
        {.name = "gemma2",
         .pairs = neox,
         .activation = Activation::gelu_tanh,
         .scaled_embedding = true,
         .window_pattern = 2,
         .window = 4096,
         .attention_softcap = 50,
         .final_softcap = 30,
         .scaled_by_width = 46,  // the 27B
         .norms = {post_attention, post_feed_forward}},
        {.name = "gemma3",
         .pairs = neox,
         .activation = Activation::gelu_tanh,
         .scaled_embedding = true,
         .window_pattern = 6,
         .local_rope_base = 10000,
         .scaled_by_width = 62,  // the 27B
         .norms = {q_norm, k_norm, post_attention, post_feed_forward}},
    };
    return table;
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

// Reads "ARCHITECTURE.name" keys and checks their ranges.
class Keys {
  public:
    explicit Keys(const GgufFile& file)
        : file_(file), prefix_(std::string(file.get_string("general.architecture")) + ".") {}

    std::string key(const std::string& name) const { return prefix_ + name; }
    bool has(const std::string& name) const { return file_.find(key(name)) != nullptr; }

    int64_t count(const std::string& name) const {
        return in_range(name, file_.get_u32(key(name)), 1);
    }
    int64_t count(const std::string& name, int64_t fallback) const {
        return has(name) ? count(name) : fallback;
    }
    // A count that may be none.
    int64_t count_or_0(const std::string& name, int64_t fallback) const {
        return has(name) ? in_range(name, file_.get_u32(key(name)), 0) : fallback;
    }
    // One count a layer: a number for all of them, or a list.
    std::vector<int64_t> per_layer(const std::string& name, int64_t layers) const {
        if (!is_list(name)) return std::vector<int64_t>(size_t(layers), count(name));
        std::vector<int64_t> counts;
        for (const int32_t value : file_.get_i32s(key(name))) {
            counts.push_back(in_range(name, value, 1));
        }
        check_length(name, counts.size(), layers);
        return counts;
    }
    std::vector<int64_t> per_layer(const std::string& name,
                                   const std::vector<int64_t>& fallback) const {
        return has(name) ? per_layer(name, int64_t(fallback.size())) : fallback;
    }
    // Which layers have a window: a list of yes and no, or the period of those that have none.
    std::vector<bool> windows(const std::string& name, int64_t period, int64_t layers) const {
        if (is_list(name)) {
            std::vector<bool> list = file_.get_bools(key(name));
            check_length(name, list.size(), layers);
            return list;
        }
        period = count(name, period);
        std::vector<bool> list;
        for (int64_t l = 0; l < layers; ++l) list.push_back(l % period < period - 1);
        return list;
    }
    float number(const std::string& name, float fallback) const {
        const float value = file_.get_f32(key(name), fallback);
        if (std::isfinite(value)) return value;
        throw Error(ErrorCode::bad_file, file_.path() + ": " + key(name) +
                                             ": expected a finite number, found " +
                                             std::to_string(value));
    }
    std::string_view word(const std::string& name) const { return file_.get_string(key(name), ""); }

  private:
    bool is_list(const std::string& name) const {
        const GgufValue* value = file_.find(key(name));
        return value != nullptr && std::holds_alternative<GgufArray>(*value);
    }
    void check_length(const std::string& name, size_t found, int64_t layers) const {
        if (int64_t(found) == layers) return;
        throw Error(ErrorCode::bad_file, file_.path() + ": " + key(name) + ": expected " +
                                             std::to_string(layers) + " values, one a layer, " +
                                             "found " + std::to_string(found));
    }
    // Extents beyond this are no model's; below it no product of two of them overflows.
    int64_t in_range(const std::string& name, int64_t value, int64_t least) const {
        constexpr int64_t largest = int64_t(1) << 28;
        if (value >= least && value <= largest) return value;
        throw Error(ErrorCode::bad_file, file_.path() + ": " + key(name) + ": expected " +
                                             std::to_string(least) + " to 268435456, found " +
                                             std::to_string(value));
    }

    const GgufFile& file_;
    std::string prefix_;
};

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

// Frequency factors from a tensor of the file: long ones when the run exceeds the original context.
std::vector<float> frequency_factors(const GgufFile& file, bool long_context, int64_t n_rot) {
    const GgufTensor* tensor = file.find_tensor("rope_freqs.weight");
    if (tensor == nullptr) {
        tensor = file.find_tensor(long_context ? "rope_factors_long.weight"
                                               : "rope_factors_short.weight");
    }
    if (tensor == nullptr) return {};
    if (tensor->type != DType::f32 || tensor->view.rows() != 1 || tensor->view.n[3] != n_rot / 2) {
        throw Error(ErrorCode::bad_file, file.path() + ": tensor " + tensor->name +
                                             ": expected f32 [" + std::to_string(n_rot / 2) +
                                             "], found " + describe(tensor->view));
    }
    const float* factors = tensor->view.row<const float>(0);
    return {factors, factors + n_rot / 2};
}

RopeConfig read_rope(const GgufFile& file, const Keys& keys, const ModelConfig& config) {
    const int64_t d_k = config.plan[0].d_k;
    RopeConfig rope;
    rope.pairs = config.architecture.pairs;
    rope.n_rot = keys.count("rope.dimension_count", d_k);
    rope.base = double(keys.number("rope.freq_base", 10000.0f));
    if (rope.n_rot % 2 != 0 || rope.n_rot > d_k || !(rope.base > 0)) {
        throw Error(ErrorCode::bad_file, file.path() + ": RoPE over " + std::to_string(rope.n_rot) +
                                             " of " + std::to_string(d_k) + " channels with base " +
                                             std::to_string(rope.base) + " is not possible");
    }
    rope.original_context =
        keys.count("rope.scaling.original_context_length", config.trained_context);
    rope.frequency_factors =
        frequency_factors(file, config.context > rope.original_context, rope.n_rot);
    rope.yarn_attn_factor = double(keys.number("rope.scaling.attn_factor", 1.0f));

    const std::string_view scaling = keys.word("rope.scaling.type");
    const float factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 0));
    if (scaling != "none" && factor > 0) rope.linear_factor = double(factor);
    if (scaling == "yarn") {
        rope.yarn_ext_factor = double(keys.number("rope.scaling.yarn_ext_factor", 1.0f));
        rope.yarn_beta_fast = double(keys.number("rope.scaling.yarn_beta_fast", 32.0f));
        rope.yarn_beta_slow = double(keys.number("rope.scaling.yarn_beta_slow", 1.0f));
    }
    return rope;
}

// Which layers look through a window, and with which RoPE.
void plan_windows(const Keys& keys, bool on_request, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    if (on_request && !architecture.window_on_request) {
        throw Error(
            ErrorCode::usage,
            std::string("phi3_window: expected architecture phi3, found ") + architecture.name);
    }
    std::vector<bool> windowed(config.plan.size(), on_request);
    int64_t window = 0;
    if (architecture.window_pattern > 0) {
        window = keys.count_or_0("attention.sliding_window", architecture.window);
        windowed = keys.windows("attention.sliding_window_pattern", architecture.window_pattern,
                                config.layers);
    } else if (on_request) {
        window = keys.count("attention.sliding_window");
    }
    config.local_rope = config.rope;
    if (architecture.local_rope_base > 0) {
        config.local_rope.base =
            double(keys.number("rope.freq_base_swa", float(architecture.local_rope_base)));
        config.local_rope.linear_factor = 1.0;  // only full layers were stretched in training
    }
    for (size_t l = 0; l < config.plan.size() && window > 0; ++l) {
        if (!windowed[l]) continue;
        config.plan[l].window = window;
        config.plan[l].rope = LayerRope::local;
    }
}

// The heads and the feed-forward width of each layer.
void plan_shapes(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const std::vector<int64_t> heads = keys.per_layer("attention.head_count", config.layers);
    const std::vector<int64_t> kv_heads = keys.per_layer("attention.head_count_kv", heads);
    const std::vector<int64_t> hidden = keys.per_layer("feed_forward_length", config.layers);
    for (size_t l = 0; l < heads.size(); ++l) {
        LayerPlan layer{.heads = heads[l], .kv_heads = kv_heads[l], .feed_forward = hidden[l]};
        layer.d_k = keys.count("attention.key_length", config.width / layer.heads);
        layer.d_v = keys.count("attention.value_length", config.width / layer.heads);
        if (layer.heads % layer.kv_heads != 0 || layer.d_k == 0 || layer.d_v == 0) {
            throw Error(ErrorCode::bad_file, file.path() + ": layer " + std::to_string(l) + " of " +
                                                 std::to_string(layer.heads) + " query and " +
                                                 std::to_string(layer.kv_heads) + " KV heads of " +
                                                 std::to_string(layer.d_k) +
                                                 " channels is not possible");
        }
        config.plan.push_back(layer);
        const int64_t d_k = config.plan[0].d_k;  // one RoPE and one scale serve all layers
        if (layer.d_k == d_k) continue;
        throw Error(ErrorCode::unsupported,
                    file.path() + ": " + keys.key("attention.head_count") + ": expected heads of " +
                        std::to_string(d_k) + " channels in every layer, found " +
                        std::to_string(layer.d_k) + " in layer " + std::to_string(l));
    }
}

}  // namespace

ModelConfig read_config(const GgufFile& file, int64_t context, bool phi3_window) {
    ModelConfig config;
    config.architecture = find_architecture(file);
    const Keys keys(file);
    config.name = file.get_string("general.name", "unnamed");
    config.layers = keys.count("block_count");
    config.width = keys.count("embedding_length");
    config.words = file.tensor("token_embd.weight").view.n[2];
    config.context = context;
    config.trained_context = keys.count("context_length");
    config.norm_epsilon = keys.number("attention.layer_norm_rms_epsilon", 1e-5f);
    if (config.layers > 4096) {
        throw Error(ErrorCode::bad_file, file.path() + ": " + keys.key("block_count") +
                                             ": expected at most 4096 layers, found " +
                                             std::to_string(config.layers));
    }
    plan_shapes(file, keys, config);

    const Architecture& architecture = config.architecture;
    if (architecture.scaled_embedding) config.embedding_scale = std::sqrt(float(config.width));
    config.attention_softcap =
        keys.number("attn_logit_softcapping", architecture.attention_softcap);
    config.final_softcap = keys.number("final_logit_softcapping", architecture.final_softcap);
    const bool by_width = config.layers == architecture.scaled_by_width;
    const int64_t scaled_by =
        by_width ? config.width / config.equal_heads("a scale by E / H").heads : config.plan[0].d_k;
    config.attention_scale = keys.number("attention.scale", 1.0f / std::sqrt(float(scaled_by)));

    config.rope = read_rope(file, keys, config);
    plan_windows(keys, phi3_window, config);
    return config;
}

}  // namespace rotkv
