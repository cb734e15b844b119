// RoPE and the temperature of queries, from the keys of a file.
#include "ref/architecture_rope.h"

#include "ref/error.h"
#include "ref/files/gguf.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace rotkv {

namespace {

// Which of the three tensors of RoPE frequency factors the model turns by, "" for none: of two, the
// long one when the run exceeds the original context. Another of them means another RoPE.
std::string factors_tensor(const GgufFile& file, const ModelConfig& config, bool longrope,
                           int64_t original_context) {
    const std::string every = "rope_freqs.weight";
    const std::string longer = "rope_factors_long.weight", shorter = "rope_factors_short.weight";
    const RopeFactors takes = config.architecture.factors;
    const bool full = takes == RopeFactors::full_layers;
    const bool one = full || (takes == RopeFactors::by_scaling && !longrope);
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

// What YaRN does to magnitudes and where its ramp lies, which most architectures leave as it is.
void read_yarn(const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    RopeConfig& rope = config.rope;
    rope.yarn_ext_factor = 1.0;
    if (architecture.reads("rope.scaling.yarn_beta_fast")) {
        rope.yarn_beta_fast = double(keys.positive("rope.scaling.yarn_beta_fast", 32.0f));
        rope.yarn_beta_slow = double(keys.positive("rope.scaling.yarn_beta_slow", 1.0f));
    }
    // mscale_all_dim of the model's own configuration: with 1, cos and sin keep their magnitude.
    const char* multiplier = "rope.scaling.yarn_log_multiplier";
    if (!architecture.reads(multiplier)) return;
    const double m = double(keys.number_from_0(multiplier, 0));
    if (m == 0) return;
    const bool latent = architecture.kind == LayerKind::latent;  // scale_latent_scores has the rest
    rope.yarn_attn_factor /= 1 + 0.1 * (latent ? 1 : m) * std::log(rope.linear_factor);
}

// In latent attention what would be a magnitude of q and k goes on their scores, channels that do
// not turn included, and with any way of stretching. Files have a tenth of mscale_all_dim here.
void scale_latent_scores(const Keys& keys, ModelConfig& config) {
    if (config.architecture.kind != LayerKind::latent) return;
    const double m = 10 * double(keys.number_from_0("rope.scaling.yarn_log_multiplier", 0));
    const double log_factor = std::log(config.rope.linear_factor);
    const double magnitude =
        config.rope.yarn_attn_factor * (1 + 0.1 * log_factor) * (1 + 0.1 * m * log_factor);
    config.attention_scale = float(double(config.attention_scale) * magnitude * magnitude);
}

// How far positions are stretched, and by which method.
void read_scaling(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    RopeConfig& rope = config.rope;
    const std::string type(keys.word("rope.scaling.type", "linear"));
    const bool yarn = type == "yarn", longrope = type == "longrope";
    if (type != "none" && type != "linear" && !yarn && !longrope) {
        keys.unsupported("rope.scaling.type", "none, linear, yarn or longrope", in_quotes(type));
    }
    rope.original_context =
        keys.count("rope.scaling.original_context_length", config.trained_context);
    const std::string factors = factors_tensor(file, config, longrope, rope.original_context);
    if (config.architecture.factors == RopeFactors::full_layers) file.tensor(factors);
    rope.frequency_factors = read_factors(file, factors, rope.n_rot);
    rope.yarn_attn_factor = double(keys.positive("rope.scaling.attn_factor", 1.0f));

    // 0 stands for "not set". A file that names no type, but a factor, once meant linear.
    const char* key = keys.has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
    const float factor = keys.number_from_0(key, 0);
    if (type != "none" && factor > 0) rope.linear_factor = double(factor);
    if (yarn) read_yarn(keys, config);

    if (keys.has("rope.scaling.factor") && factor > 0 && factor != 1) {
        keys.assume("rope.scaling.type", "linear", config);
    }
    if (yarn) keys.assume("rope.scaling.factor", "1", config);
    if (yarn || (factors != "rope_freqs.weight" && !rope.frequency_factors.empty())) {
        keys.assume("rope.scaling.original_context_length", std::to_string(rope.original_context),
                    config);
    }
    const bool half = file.find_tensor("rope_factors_long.weight") != nullptr ||
                      file.find_tensor("rope_factors_short.weight") != nullptr;
    if (rope.frequency_factors.empty() && (longrope || half)) {
        config.notices.push_back("no tensor " + (factors.empty() ? "of RoPE factors" : factors) +
                                 ", factors of 1 are assumed");
    }
}

// Of four positions a token has, pair i turns by the (s mod 3)-th, s = i modulo all sections, as
// long as that one's section reaches, and by the fourth then. In a text the first three are equal.
void require_text_sections(const GgufFile& file, const Keys& keys, int64_t pairs) {
    const char* key = "rope.dimension_sections";
    const std::vector<int32_t> sections = file.get_i32s(keys.key(key));
    int64_t all = 0;
    for (const int32_t n : sections) {
        if (n < 0) keys.refuse(key, "extents of 0 or more", std::to_string(n));
        all += n;
    }
    bool text = sections.size() == 4 && all > 0;
    for (int64_t i = 0; text && i < pairs; ++i) {
        const int64_t s = i % all;
        text = s < 3 * int64_t(sections[size_t(s % 3)]);
    }
    if (text) return;
    keys.unsupported(
        key, "4 sections, the first three of which take all " + std::to_string(pairs) + " pairs",
        describe(*file.find(keys.key(key))));
}

void read_full_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const int64_t d_k = full_layer(config).d_k;
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
    if (config.architecture.sections == RopeSections::of_pairs) {
        require_text_sections(file, keys, rope.n_rot / 2);
    }
    const LatentConfig& latent = config.latent;
    if (latent.rank > 0 && !latent.absorbed) rope.first = latent.still;
    rope.base = double(keys.positive("rope.freq_base", 10000.0f));
    keys.assume("rope.freq_base", "10000", config);
    read_scaling(file, keys, config);
}

// What layers with a window may have of their own: the RoPE base, its factors, the size of heads.
void read_local_rope(const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    RopeConfig& local = config.local_rope;
    local = config.rope;
    if (architecture.reads("rope.freq_base_swa")) {
        const double own = architecture.local_rope_base;
        const float usual = float(own > 0 ? own : config.rope.base);
        local.base = double(keys.positive("rope.freq_base_swa", usual));
    }
    if (!architecture.local_stretched) {  // only full layers were, in training
        local.linear_factor = 1.0;
        local.yarn_ext_factor = 0.0;
        local.yarn_attn_factor = 1.0;
    }
    if (architecture.factors == RopeFactors::full_layers) local.frequency_factors.clear();
    const auto window = [](const LayerPlan& layer) { return layer.window > 0; };
    const auto first = std::ranges::find_if(config.plan, window);
    if (architecture.reads("attention.key_length_swa") && first != config.plan.end()) {
        local.n_rot = keys.count("rope.dimension_count_swa", first->d_k);
        if (local.n_rot % 2 == 0 && local.n_rot <= first->d_k) return;
        keys.refuse(
            "rope.dimension_count_swa",
            "an even number up to " + std::to_string(first->d_k) + ", the channels of a key",
            std::to_string(local.n_rot));
    }
    const auto same_size = [&](const char* name, int64_t expected) {
        if (architecture.window_pattern == 0) return;
        const int64_t found = keys.count_or_0(name, expected);
        if (found == expected) return;
        keys.unsupported(name, std::to_string(expected) + " as in layers without window",
                         std::to_string(found));
    };
    same_size("attention.key_length_swa", full_layer(config).d_k);
    same_size("attention.value_length_swa", full_layer(config).d_v);
    same_size("rope.dimension_count_swa", config.rope.n_rot);
}

// Which layers do not turn.
void plan_no_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    const char* finetuned = "rope.scaling.finetuned";  // granite's switch for RoPE as a whole
    const bool off = architecture.reads(finetuned) && !file.get_bool(keys.key(finetuned), true);
    const bool windows =
        std::ranges::any_of(config.plan, [](const LayerPlan& layer) { return layer.window > 0; });
    for (size_t l = 0; l < config.plan.size(); ++l) {
        LayerPlan& layer = config.plan[l];
        const bool fourth = architecture.no_rope == NoRope::every_4th && l % 4 == 3;
        const bool full = architecture.no_rope == NoRope::without_window && windows;
        const bool still = off || fourth || (full && layer.window == 0);
        if (still || layer.kv_heads == 0) layer.rope = LayerRope::none;
    }
}

// Which queries grow with their position: all, by keys, or those of layers that do not turn.
void read_temperature(const Keys& keys, ModelConfig& config) {
    const char* scale = "attention.temperature_scale";
    const char* length = "attention.temperature_length";
    const Architecture& architecture = config.architecture;
    Temperature& temperature = config.temperature;
    const bool by_key = architecture.reads(scale);
    if (by_key) {
        const int64_t context = config.rope.original_context;
        temperature = {
            .scale = double(keys.number(scale, 0)),
            .length = architecture.reads(length) ? keys.count(length, context) : context};
    } else if (architecture.temperature > 0) {
        temperature = {
            .scale = architecture.temperature, .length = architecture.window, .offset = 1};
    }
    for (LayerPlan& layer : config.plan) {
        const bool here = by_key || layer.rope == LayerRope::none;
        layer.tempered = temperature.scale != 0 && layer.kv_heads > 0 && here;
    }
}

}  // namespace

double Temperature::factor(int64_t position) const {
    return 1 + scale * std::log(std::floor(double(position + offset) / double(length)) + 1);
}

const LayerPlan& full_layer(const ModelConfig& config) {
    const auto attends = [](const LayerPlan& layer) { return layer.kv_heads > 0; };
    const auto full = [&](const LayerPlan& layer) { return attends(layer) && layer.window == 0; };
    const auto found = std::ranges::find_if(config.plan, full);
    return found != config.plan.end() ? *found : *std::ranges::find_if(config.plan, attends);
}

void read_rope(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    read_full_rope(file, keys, config);
    scale_latent_scores(keys, config);
    read_local_rope(keys, config);
    plan_no_rope(file, keys, config);
    read_temperature(keys, config);
}

}  // namespace rotkv
