// Kinds of layers: latent attention, gated DeltaNet, experts, caches that layers share.
#include "ref/architecture_kinds.h"

#include "ref/error.h"
#include "ref/files/gguf.h"

#include <algorithm>
#include <string>
#include <vector>

namespace rotkv {

namespace {

bool has_in_layer(const GgufFile& file, int64_t layer, const char* name) {
    return file.find_listed("blk." + std::to_string(layer) + "." + name) != nullptr;
}

// An extent that follows from others, where the file names it all the same.
void require_count(const Keys& keys, const char* name, int64_t expected, const std::string& why) {
    const int64_t found = keys.count(name);
    if (found != expected) {
        keys.refuse(name, std::to_string(expected) + ", " + why, std::to_string(found));
    }
}

// Every layer has as many KV heads as its form of latent attention asks for.
void require_kv_heads(const Keys& keys, const ModelConfig& config) {
    const bool absorbed = config.latent.absorbed;
    for (const LayerPlan& layer : config.plan) {
        if (layer.kv_heads == (absorbed ? 1 : layer.heads)) continue;
        keys.refuse("attention.head_count_kv",
                    absorbed ? "1, one row for all heads"
                             : std::to_string(layer.heads) +
                                   ", as many as query heads where keys are not absorbed",
                    std::to_string(layer.kv_heads));
    }
}

// The absorbed form keeps one row a token, [latent | turning]; files of the old form have keys and
// values of every head.
void plan_latent(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    LatentConfig& latent = config.latent;
    latent.rank = keys.count("attention.kv_lora_rank");
    latent.turning = keys.count("rope.dimension_count");
    latent.absorbed = keys.has("attention.key_length_mla");
    if (has_in_layer(file, 0, "attn_q_a.weight")) {
        latent.query_rank = keys.count("attention.q_lora_rank");
    }
    const char* length = latent.absorbed ? "attention.key_length_mla" : "attention.key_length";
    const int64_t d_k = keys.count(length);
    latent.still = d_k - latent.turning;
    if (latent.still < 1) {
        keys.refuse(
            length,
            "more than the " + std::to_string(latent.turning) + " channels of rope.dimension_count",
            std::to_string(d_k));
    }
    require_kv_heads(keys, config);
    latent.d_v = latent.absorbed ? keys.count("attention.value_length_mla") : config.plan[0].d_v;
    if (!latent.absorbed) return;
    require_count(keys, "attention.key_length", latent.rank + latent.turning,
                  "a latent and its turning channels");
    require_count(keys, "attention.value_length", latent.rank, "the latent");
}

void plan_delta(const Keys& keys, ModelConfig& config) {
    DeltaConfig& delta = config.delta;
    delta = {.heads = keys.count("ssm.time_step_rank"),
             .key_heads = keys.count("ssm.group_count"),
             .d = keys.count("ssm.state_size"),
             .taps = keys.count("ssm.conv_kernel")};
    if (delta.heads % delta.key_heads != 0) {
        keys.refuse("ssm.time_step_rank",
                    "a multiple of the " + std::to_string(delta.key_heads) + " of ssm.group_count",
                    std::to_string(delta.heads));
    }
    require_count(keys, "ssm.inner_size", delta.heads * delta.d,
                  "ssm.time_step_rank heads of ssm.state_size channels");
    const int64_t all = config.layers + config.predicting_layers;
    const char* list = "attention.recurrent_layers";
    const std::vector<bool> recurrent = keys.has(list)
                                            ? keys.pattern(list, 0, all)
                                            : keys.pattern("full_attention_interval", 4, all);
    for (size_t l = 0; l < config.plan.size(); ++l) {
        LayerPlan& layer = config.plan[l];
        if (!recurrent[l]) continue;
        layer = {.kind = LayerKind::delta, .feed_forward = layer.feed_forward};
    }
    if (std::ranges::all_of(config.plan, [](const LayerPlan& l) { return l.kv_heads == 0; })) {
        keys.unsupported(keys.has(list) ? list : "full_attention_interval",
                         "a layer that attends among " + std::to_string(config.layers), "none");
    }
}

// Heads of layers with a window may have another size.
void plan_local_heads(const Keys& keys, ModelConfig& config) {
    for (LayerPlan& layer : config.plan) {
        if (layer.window == 0) continue;
        layer.d_k = keys.count("attention.key_length_swa");
        layer.d_v = keys.count("attention.value_length_swa");
    }
}

// The last layers read what the last one before them with, or without, a window has stored.
void plan_sources(const Keys& keys, ModelConfig& config) {
    const char* key = "attention.shared_kv_layers";
    const int64_t shared = keys.count_or_0(key, 0), own = config.layers - shared;
    if (shared == 0) return;
    const auto windowed = [&](int64_t l) { return l >= 0 && config.plan[size_t(l)].window > 0; };
    if (own < 2 || !windowed(own - 2) || windowed(own - 1)) {
        keys.unsupported(key, "layers before them that end with one with a window and one without",
                         std::to_string(shared));
    }
    for (int64_t l = own; l < config.layers; ++l) {
        const int64_t source = windowed(l) ? own - 2 : own - 1;
        LayerPlan& layer = config.plan[size_t(l)];
        layer.source = source;
        const int64_t kv_heads = config.plan[size_t(source)].kv_heads;
        if (layer.kv_heads == kv_heads) continue;
        keys.refuse("attention.head_count_kv",
                    std::to_string(kv_heads) + " in layer " + std::to_string(l) +
                        ", which reads what layer " + std::to_string(source) + " stores",
                    std::to_string(layer.kv_heads));
    }
}

// Where a file does not say, one architecture goes by the size of a model that came without it.
Gating read_gating(const Keys& keys, ModelConfig& config) {
    const ExpertRules& rules = config.architecture.experts;
    const char* key = "expert_gating_func";
    if (!config.architecture.reads(key)) return rules.gating;
    const int64_t found = keys.count_or_0(key, 0),
                  layers = config.layers + config.predicting_layers;
    if (found > 4) keys.unsupported(key, "0 to 4", std::to_string(found));
    if (found > 0) return Gating(found - 1);
    if (rules.sigmoid_words == 0) return rules.gating;
    const bool other = config.words == rules.sigmoid_words && (layers == 47 || layers == 48);
    keys.assume(key, other ? "sigmoid" : "softmax", config);
    return other ? Gating::sigmoid : rules.gating;
}

void read_routing(const GgufFile& file, const Keys& keys, int64_t experts, ModelConfig& config) {
    RoutingConfig& routing = config.routing;
    const Architecture& architecture = config.architecture;
    routing.gating = read_gating(keys, config);
    routing.normalise = architecture.experts.normalise;
    if (architecture.reads("expert_weights_norm")) {
        routing.normalise = file.get_bool(keys.key("expert_weights_norm"), routing.normalise);
    }
    if (architecture.reads("expert_weights_scale")) {
        const float scale = keys.number_from_0("expert_weights_scale", 0);
        routing.scale = scale > 0 ? scale : 1;
    }
    const int64_t groups = keys.count_or_0("expert_group_count", 0);
    if (groups <= 1) return;
    routing.groups = groups;
    routing.groups_used = keys.count("expert_group_used_count");
    if (experts % groups != 0) {
        keys.refuse("expert_group_count",
                    "a divisor of the " + std::to_string(experts) + " of expert_count",
                    std::to_string(groups));
    }
    if (routing.groups_used > groups) {
        keys.refuse("expert_group_used_count",
                    "at most the " + std::to_string(groups) + " of expert_group_count",
                    std::to_string(routing.groups_used));
    }
}

// Fs. What keys speak of must be there.
int64_t shared_feed_forward(const GgufFile& file, const Keys& keys, int64_t l, int64_t of_expert) {
    const int64_t said = keys.count_or_0("expert_shared_feed_forward_length", 0);
    if (said > 0) return said;
    const int64_t count = keys.count_or_0("expert_shared_count", 0);
    if (count > 0) return count * of_expert;
    if (!has_in_layer(file, l, "ffn_up_shexp.weight") &&
        !has_in_layer(file, l, "ffn_down_shexp.weight")) {
        return 0;
    }
    return file.tensor("blk." + std::to_string(l) + ".ffn_up_shexp.weight").view.n[2];
}

// Experts and a shared one beside them, where the layer's tensors are there.
void plan_experts_of(const GgufFile& file, const Keys& keys, int64_t l, int64_t experts,
                     ModelConfig& config) {
    LayerPlan& layer = config.plan[size_t(l)];
    const ExpertRules& rules = config.architecture.experts;
    const int64_t all = config.layers + config.predicting_layers;
    layer.experts = experts;
    layer.experts_used = keys.per_layer("expert_used_count", all)[size_t(l)];
    const int64_t most = experts / config.routing.groups * config.routing.groups_used;
    if (layer.experts_used > most) {
        keys.refuse("expert_used_count", "at most " + std::to_string(most) + " experts",
                    std::to_string(layer.experts_used));
    }
    if (rules.weight_on_input && layer.experts_used != 1) {
        keys.unsupported("expert_used_count", "1, as its weight is on the input",
                         std::to_string(layer.experts_used));
    }
    const int64_t share = rules.share_out_hidden ? layer.experts_used : 1;
    const std::vector<int64_t> usual(size_t(all), layer.feed_forward / share);
    layer.expert_feed_forward = keys.per_layer("expert_feed_forward_length", usual)[size_t(l)];
    if (layer.expert_feed_forward == 0) keys.count("expert_feed_forward_length");  // is missing

    layer.shared_feed_forward = shared_feed_forward(file, keys, l, layer.expert_feed_forward);
    if (!rules.beside_dense) layer.feed_forward = 0;
}

// Which layers have experts, keys of some architectures say too: all from one on, or each n-th. In
// the others every layer has.
void require_layers(const Keys& keys, const ModelConfig& config, int64_t l) {
    const Architecture& architecture = config.architecture;
    const char* first = "leading_dense_block_count";
    const char* step = "interleave_moe_layer_step";
    const auto read = [&](const char* name, int64_t usual) {
        return architecture.reads(name) ? keys.count_or_0(name, usual) : usual;
    };
    const LayerPlan& layer = config.plan[size_t(l)];
    const int64_t n = read(step, 1);
    const bool nth = n > 0 && (l + 1) % n == 0, expected = l >= read(first, 0) && nth;
    if (expected == (layer.experts > 0)) return;
    const std::string here = std::to_string(l);
    if (!architecture.reads(first) && !architecture.reads(step)) {
        keys.refuse("expert_count", "0, as layer " + here + " has no tensor ffn_gate_inp.weight",
                    std::to_string(keys.count("expert_count")));
    }
    keys.refuse(architecture.reads(first) && nth ? first : step,
                (expected ? "experts in layer " : "no experts in layer ") + here,
                expected ? "none" : "some");
}

}  // namespace

void plan_kinds(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    const Architecture& architecture = config.architecture;
    if (architecture.kind == LayerKind::delta) plan_delta(keys, config);
    if (architecture.kind == LayerKind::latent) {
        plan_latent(file, keys, config);
        for (LayerPlan& layer : config.plan) layer.kind = LayerKind::latent;
    }
    if (architecture.reads("attention.key_length_swa")) plan_local_heads(keys, config);
    if (architecture.reads("attention.shared_kv_layers")) plan_sources(keys, config);
    if (architecture.reads("embedding_length_per_layer_input")) {
        config.per_layer_width = keys.count_or_0("embedding_length_per_layer_input");
    }
}

void plan_experts(const GgufFile& file, const Keys& keys, ModelConfig& config) {
    Architecture& architecture = config.architecture;
    const int64_t experts = keys.count_or_0("expert_count", 0);
    if (experts > 0 && !architecture.experts.known) {
        keys.unsupported("expert_count", "0, a model without experts", std::to_string(experts));
    }
    if (experts > 0) read_routing(file, keys, experts, config);
    if (experts > 0 && experts == architecture.experts.not_normed) {
        architecture.qk_norm = QkNorm::none;
    }
    bool any = false;
    for (int64_t l = 0; l < config.layers; ++l) {
        const bool here = has_in_layer(file, l, "ffn_gate_inp.weight") ||
                          has_in_layer(file, l, "ffn_down_exps.weight");
        if (here && experts > 0) plan_experts_of(file, keys, l, experts, config);
        if (here && experts == 0 && architecture.experts.known) keys.count("expert_count");
        const LayerPlan& layer = config.plan[size_t(l)];
        if (layer.experts == 0 && layer.feed_forward == 0) keys.count("feed_forward_length");
        if (experts > 0) require_layers(keys, config, l);
        any |= layer.experts > 0;
    }
    if (experts > 0 && !any) {
        keys.refuse("expert_count", "0, as no layer has a tensor ffn_gate_inp.weight",
                    std::to_string(experts));
    }
}

}  // namespace rotkv
