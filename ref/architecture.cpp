// A row of the table and the keys of a file, and the plan that the two make.
#include "ref/architecture.h"

#include "ref/architecture_keys.h"
#include "ref/architecture_kinds.h"
#include "ref/architecture_rope.h"
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/fused_rotation.h"
#include "ref/rotation_policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace rotkv {

const LayerPlan& ModelConfig::equal_heads(const std::string& who) const {
    const auto heads = [](const LayerPlan& layer) {
        return std::array{layer.heads, layer.kv_heads, layer.d_k, layer.d_v};
    };
    const auto attends = [](const LayerPlan& layer) { return layer.kv_heads > 0; };
    const LayerPlan& first = *std::ranges::find_if(plan, attends);
    for (const LayerPlan& layer : plan) {
        if (!attends(layer) || heads(layer) == heads(first)) continue;
        throw Error(ErrorCode::unsupported,
                    who + ": expected layers of equal heads, this model's differ");
    }
    return first;
}

KvShape ModelConfig::cache_shape(int64_t streams, int64_t cells, const CacheType& type_k,
                                 const CacheType& type_v) const {
    KvShape shape{.streams = streams, .cells = cells, .layers = {}};
    for (const LayerPlan& layer : plan) {
        const RecurrentLayer state{
            .heads = delta.heads, .d = delta.d, .channels = delta.channels(), .taps = delta.taps};
        shape.layers.push_back(
            {.kv_heads = layer.kv_heads,
             .d_k = layer.d_k,
             .d_v = layer.d_v,
             .type_k = type_k,
             .type_v = type_v,
             .v_in_k = layer.kind == LayerKind::latent && latent.absorbed,
             .source = layer.source,
             .recurrent = layer.kind == LayerKind::delta ? state : RecurrentLayer(),
             .in_weights = layer.kv_heads > 0 ? in_weights : Rotation()});
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
    const int64_t only = architecture.window_layers;
    if (architecture.window_pattern != 0 && (only == 0 || only == config.layers)) {
        const char* pattern = "attention.sliding_window_pattern";
        const MissingWindow missing = architecture.missing_window;
        const bool refused = missing == MissingWindow::refused;
        window = refused ? keys.count(key) : keys.count_or_0(key, architecture.window);
        if (missing == MissingWindow::fixed) {
            if (window == 0) keys.unsupported(key, std::to_string(architecture.window), "0");
            window = architecture.window;
        }
        if (architecture.window_pattern < 0 && !keys.has(pattern)) keys.count(pattern);
        windowed = keys.pattern(pattern, architecture.window_pattern,
                                config.layers + config.predicting_layers);
        if (missing == MissingWindow::assumed) {
            keys.assume(key, window > 0 ? std::to_string(window) : "no window", config);
        }
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
    const int64_t all = config.layers + config.predicting_layers;  // lists name them too
    const std::vector<int64_t> heads = keys.per_layer("attention.head_count", all);
    const std::vector<int64_t> kv_heads = keys.per_layer("attention.head_count_kv", heads);
    const std::vector<int64_t> none(size_t(all), 0);  // a model of experts alone may do without
    const std::vector<int64_t> hidden = keys.per_layer("feed_forward_length", none);
    const auto d_k = channels(keys, "attention.key_length", config.width, heads);
    const auto d_v = channels(keys, "attention.value_length", config.width, heads);
    for (size_t l = 0; l < size_t(config.layers); ++l) {
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
        if (layer.d_k == d_k[0]) continue;  // one RoPE and one scale serve all, windows apart
        keys.unsupported(
            keys.has("attention.key_length") ? "attention.key_length" : "attention.head_count",
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

// Factors on embeddings, scores, residual streams and logits, and the caps of the last two.
void read_scales(const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    const auto factor = [&](const char* name, float usual) {  // 0 stands for "not set"
        if (!architecture.reads(name)) return usual;
        const float found = keys.number(name, 0);
        return found != 0 ? found : usual;
    };
    const float width = std::sqrt(float(config.width));
    config.embedding_scale = factor("embedding_scale", architecture.scaled_embedding ? width : 1);
    config.residual_scale = factor("residual_scale", 1);
    if (architecture.logit_scale != LogitScale::none) {
        const float found = keys.positive("logit_scale");
        config.logit_scale = architecture.logit_scale == LogitScale::divides ? 1 / found : found;
    }
    const bool by_width = config.layers == architecture.scaled_by_width;
    const LatentConfig& latent = config.latent;
    const int64_t scaled_by =
        by_width          ? config.width / config.equal_heads("a scale by E / H").heads
        : latent.rank > 0 ? latent.still + latent.turning  // of a head as it is, not as it is kept
                          : full_layer(config).d_k;
    const float own = architecture.attention_scale;
    const float usual = own > 0 ? own : 1.0f / std::sqrt(float(scaled_by));
    config.attention_scale = factor("attention.scale", usual);

    const auto softcap = [&](const char* name, float usual) {
        if (!architecture.reads(name)) return 0.0f;
        if (usual > 0) keys.assume(name, std::to_string(int(usual)), config);
        return keys.number_from_0(name, usual);
    };
    config.attention_softcap = softcap("attn_logit_softcapping", architecture.attention_softcap);
    config.final_softcap = softcap("final_logit_softcapping", architecture.final_softcap);
}

// What llama.cpp reads in every architecture and is not computed here.
void refuse_other_models(const GgufFile& file, const Keys& keys, const Architecture& architecture) {
    const char* sections = "rope.dimension_sections";
    if (architecture.sections == RopeSections::refused && keys.has(sections) &&
        std::ranges::any_of(file.get_i32s(keys.key(sections)), [](int32_t n) { return n != 0; })) {
        keys.unsupported(sections, "none, a model of text alone", "some");
    }
    if (!file.get_bool(keys.key("attention.causal"), true)) {
        keys.unsupported("attention.causal", "true", "false");
    }
}

// The layers that are run, and those behind them that predict further tokens.
void count_layers(const Keys& keys, ModelConfig& config) {
    const int64_t all = keys.count("block_count");
    if (all > 4096) keys.refuse("block_count", "at most 4096 layers", std::to_string(all));
    config.predicting_layers = keys.count_or_0("nextn_predict_layers", 0);
    config.layers = all - config.predicting_layers;
    if (config.layers < 1) {
        keys.refuse("nextn_predict_layers",
                    "fewer than the " + std::to_string(all) + " layers of block_count",
                    std::to_string(config.predicting_layers));
    }
    if (config.predicting_layers == 0) return;
    config.notices.push_back("the last " + std::to_string(config.predicting_layers) +
                             " layers predict further tokens (nextn_predict_layers), they are not "
                             "run");
}

// What rotkv-fuse wrote, which no other program knows.
void read_fused_rotation(const GgufFile& file, ModelConfig& config) {
    const char* key = fused_rotation_key(config);
    for (const char* other : {k_fused_v_key, k_fused_latent_key}) {
        if (std::string(other) == key || file.find(other) == nullptr) continue;
        throw Error(ErrorCode::bad_file, file.path() + ": " + other + ": expected " + key +
                                             " in a model of this kind of attention");
    }
    if (file.find(key) == nullptr) return;
    const std::string words(file.get_string(key));
    const auto asked = parse_request(words, key);
    if (!asked || asked->mode != RotationRequest::Mode::value) {
        throw Error(
            ErrorCode::bad_file,
            file.path() + ": " + key + ": expected BLOCK or BLOCK:SEED, found " + in_quotes(words));
    }
    const Rotation& rotation = asked->value;
    for (const LayerPlan& layer : config.plan) {
        const int64_t d = config.latent.absorbed ? config.latent.rank : layer.d_v;
        if (layer.kv_heads == 0 || rotation.fits(d)) continue;
        throw Error(ErrorCode::bad_file, file.path() + ": " + key +
                                             ": expected a block that divides " +
                                             std::to_string(d) + " channels, found " + words);
    }
    config.in_weights = rotation;
    const char* what = config.latent.absorbed ? "latent rows" : "values";
    config.notices.push_back(std::string(what) + " are rotated in the weights, " + words + " (" +
                             key + "): the policy leaves them as they come");
}

}  // namespace

ModelConfig read_config(const GgufFile& file, int64_t context, bool phi3_window) {
    ModelConfig config;
    config.architecture = find_architecture(file);
    const Keys keys(file);
    refuse_other_models(file, keys, config.architecture);
    config.name = file.get_string("general.name", "unnamed");
    count_layers(keys, config);
    config.width = keys.count("embedding_length");
    config.words = count_words(file);
    config.context = context;
    config.trained_context = keys.count("context_length");
    config.norm_epsilon =
        keys.positive(config.architecture.layer_norm ? "attention.layer_norm_epsilon"
                                                     : "attention.layer_norm_rms_epsilon");
    plan_shapes(file, keys, config);
    plan_windows(keys, phi3_window, config);
    plan_kinds(file, keys, config);
    plan_experts(file, keys, config);
    read_scales(keys, config);
    read_rope(file, keys, config);
    read_fused_rotation(file, config);

    const std::string others = keys_not_applied(file, config);
    if (others.empty()) return config;
    config.notices.push_back(std::string("not applied, since architecture '") +
                             config.architecture.name + "' does not read them: " + others);
    return config;
}

}  // namespace rotkv
