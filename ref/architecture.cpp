// What is known about each architecture, and the hyper-parameters of one file.
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/model.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace rotkv {

std::span<const Architecture> architectures() {
    constexpr RopePairs norm = RopePairs::norm, neox = RopePairs::neox;
    constexpr Activation silu = Activation::silu, gelu = Activation::gelu_tanh;
    // clang-format off
    static const Architecture table[] = {
        // name     pairs act  qkv    gate_up qk_norm post   scaled pattern window local base softcaps
        {"llama",  norm, silu, false, false,  false,  false, false, 0,      0,     0,         0,  0},
        {"qwen2",  neox, silu, false, false,  false,  false, false, 0,      0,     0,         0,  0},
        {"qwen3",  neox, silu, false, false,  true,   false, false, 0,      0,     0,         0,  0},
        {"phi3",   neox, silu, true,  true,   false,  false, false, 0,      0,     0,         0,  0},
        {"gemma2", neox, gelu, false, false,  false,  true,  true,  2,      4096,  0,         50, 30},
        {"gemma3", neox, gelu, false, false,  true,   true,  true,  6,      0,     10000,     0,  0},
    };
    // clang-format on
    return table;
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
        return in_range(name, file_.get_u32(key(name)));
    }
    int64_t count(const std::string& name, int64_t fallback) const {
        return has(name) ? count(name) : fallback;
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
    // Extents beyond this are no model's; below it no product of two of them overflows.
    int64_t in_range(const std::string& name, uint32_t value) const {
        constexpr uint32_t largest = 1u << 28;
        if (value >= 1 && value <= largest) return value;
        throw Error(ErrorCode::bad_file, file_.path() + ": " + key(name) +
                                             ": expected 1 to 268435456, found " +
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
    RopeConfig rope;
    rope.pairs = config.architecture.pairs;
    rope.n_rot = keys.count("rope.dimension_count", config.d_k);
    rope.base = double(keys.number("rope.freq_base", 10000.0f));
    if (rope.n_rot % 2 != 0 || rope.n_rot > config.d_k || !(rope.base > 0)) {
        throw Error(ErrorCode::bad_file, file.path() + ": RoPE over " + std::to_string(rope.n_rot) +
                                             " of " + std::to_string(config.d_k) +
                                             " channels with base " + std::to_string(rope.base) +
                                             " is not possible");
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
void read_windows(const Keys& keys, bool phi3_window, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    config.local.assign(size_t(config.layers), false);
    config.local_rope = config.rope;
    if (architecture.window_pattern > 0) {
        config.window = keys.count("attention.sliding_window", architecture.window);
        const int64_t pattern =
            keys.count("attention.sliding_window_pattern", architecture.window_pattern);
        for (int64_t l = 0; l < config.layers && config.window > 0; ++l) {
            config.local[size_t(l)] = l % pattern < pattern - 1;
        }
    } else if (phi3_window && std::string_view(architecture.name) == "phi3") {
        config.window = keys.count("attention.sliding_window");
        config.local.assign(size_t(config.layers), true);
    }
    if (architecture.local_rope_base > 0) {
        config.local_rope.base =
            double(keys.number("rope.freq_base_swa", float(architecture.local_rope_base)));
        config.local_rope.linear_factor = 1.0;  // only full layers were stretched in training
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
    config.heads = keys.count("attention.head_count");
    config.kv_heads = keys.count("attention.head_count_kv", config.heads);
    config.d_k = keys.count("attention.key_length", config.width / config.heads);
    config.d_v = keys.count("attention.value_length", config.width / config.heads);
    config.feed_forward = keys.count("feed_forward_length");
    config.words = file.tensor("token_embd.weight").view.n[2];
    config.context = context;
    config.trained_context = keys.count("context_length");
    config.norm_epsilon = keys.number("attention.layer_norm_rms_epsilon", 1e-5f);
    if (config.heads % config.kv_heads != 0 || config.d_k == 0 || config.layers > 4096) {
        throw Error(ErrorCode::bad_file, file.path() + ": " + std::to_string(config.layers) +
                                             " layers of " + std::to_string(config.heads) +
                                             " query and " + std::to_string(config.kv_heads) +
                                             " KV heads of " + std::to_string(config.d_k) +
                                             " channels is not possible");
    }

    const Architecture& architecture = config.architecture;
    if (architecture.scaled_embedding) config.embedding_scale = std::sqrt(float(config.width));
    config.attention_softcap =
        keys.number("attn_logit_softcapping", architecture.attention_softcap);
    config.final_softcap = keys.number("final_logit_softcapping", architecture.final_softcap);
    // The 27B models of gemma2 (46 layers) and gemma3 (62) scale by the width per head instead.
    const std::string_view name = architecture.name;
    const bool by_width =
        (name == "gemma2" && config.layers == 46) || (name == "gemma3" && config.layers == 62);
    const int64_t scaled_by = by_width ? config.width / config.heads : config.d_k;
    config.attention_scale = keys.number("attention.scale", 1.0f / std::sqrt(float(scaled_by)));

    config.rope = read_rope(file, keys, config);
    read_windows(keys, phi3_window, config);
    return config;
}

}  // namespace rotkv
