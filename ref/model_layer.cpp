// The weights of one layer, by the names that files have for them.
#include "ref/file_weights.h"

#include <string>

namespace rotkv {

namespace {

void load_norms(FileWeights& weights, const ModelConfig& config, const std::string& prefix,
                ModelLayer& layer) {
    const Architecture& row = config.architecture;
    const int64_t width = config.width;
    layer.attention_norm = weights.norm(prefix, row.attention_norm, width);
    layer.feed_forward_norm = weights.norm(prefix, row.feed_forward_norm, width);
    layer.post_attention_norm = weights.norm(prefix, row.post_attention_norm, width);
    layer.post_feed_forward_norm = weights.norm(prefix, row.post_feed_forward_norm, width);
}

// The norms of queries and of keys, by weights, where a layer has keys.
void load_head_norms(FileWeights& weights, const ModelConfig& config, const LayerPlan& plan,
                     const std::string& prefix, ModelLayer& layer) {
    const Architecture& row = config.architecture;
    const std::string q_norm = prefix + "attn_q_norm.weight";
    const std::string k_norm = prefix + "attn_k_norm.weight";
    const bool left_out = row.qk_norm_by_file && !weights.has(q_norm) && !weights.has(k_norm);
    if (row.qk_norm == QkNorm::none || row.qk_norm == QkNorm::unit_turned || left_out) return;
    const bool as_one = row.qk_norm == QkNorm::all_heads;
    layer.q_norm = weights.vector(q_norm, as_one ? plan.heads * plan.d_k : plan.d_k);
    if (plan.source) return;
    layer.k_norm = weights.vector(k_norm, as_one ? plan.kv_heads * plan.d_k : plan.d_k);
}

// Queries, keys and values, in one matrix or in three; a layer that reads another's rows has
// queries alone.
void load_grouped(FileWeights& weights, const ModelConfig& config, const LayerPlan& plan,
                  const std::string& prefix, ModelLayer& layer) {
    const Architecture& row = config.architecture;
    const int64_t width = config.width, gate = row.query_gate ? plan.d_v : 0;
    const int64_t q_rows = plan.heads * (plan.d_k + gate), k_rows = plan.kv_heads * plan.d_k;
    const int64_t v_rows = plan.kv_heads * plan.d_v;
    load_head_norms(weights, config, plan, prefix, layer);
    if (row.sinks) layer.sinks = weights.vector(prefix + "attn_sinks.weight", plan.heads);
    if (weights.has_one_of(prefix, "attn_qkv.weight", "attn_q.weight")) {
        const int64_t rows = q_rows + k_rows + v_rows;
        layer.qkv = weights.matrix(prefix + "attn_qkv.weight", rows, width);
        layer.qkv_bias = weights.optional_vector(prefix + "attn_qkv.bias", rows);
    } else {
        layer.q = weights.matrix(prefix + "attn_q.weight", q_rows, width);
    }
    if (layer.qkv_bias.empty()) {
        layer.q_bias = weights.optional_vector(prefix + "attn_q.bias", q_rows);
    }
    if (plan.source) return;
    if (layer.qkv.empty()) {
        layer.k = weights.matrix(prefix + "attn_k.weight", k_rows, width);
        const bool of_keys = row.keys_as_values && plan.window == 0 && plan.d_k == plan.d_v;
        if (!of_keys || weights.has(prefix + "attn_v.weight")) {
            layer.v = weights.matrix(prefix + "attn_v.weight", v_rows, width);
        }
    }
    if (!layer.qkv_bias.empty()) return;
    layer.k_bias = weights.optional_vector(prefix + "attn_k.bias", k_rows);
    layer.v_bias = weights.optional_vector(prefix + "attn_v.bias", v_rows);
}

void load_latent(FileWeights& weights, const ModelConfig& config, const LayerPlan& plan,
                 const std::string& prefix, ModelLayer& layer) {
    const LatentConfig& shape = config.latent;
    const int64_t width = config.width, rank = shape.query_rank, heads = plan.heads;
    const int64_t q_rows = heads * (shape.still + shape.turning);
    LatentWeights& latent = layer.latent;
    if (rank > 0) {
        latent.query_down = weights.matrix(prefix + "attn_q_a.weight", rank, width);
        latent.query_norm = weights.vector(prefix + "attn_q_a_norm.weight", rank);
        latent.query_up = weights.matrix(prefix + "attn_q_b.weight", q_rows, rank);
    } else {
        layer.q = weights.matrix(prefix + "attn_q.weight", q_rows, width);
    }
    latent.down =
        weights.matrix(prefix + "attn_kv_a_mqa.weight", shape.rank + shape.turning, width);
    latent.norm = weights.vector(prefix + "attn_kv_a_norm.weight", shape.rank);
    if (!shape.absorbed) {
        const int64_t rows = heads * (shape.still + shape.d_v);
        latent.key_value_up = weights.matrix(prefix + "attn_kv_b.weight", rows, shape.rank);
        return;
    }
    latent.key_up = weights.matrices(prefix + "attn_k_b.weight", heads, shape.rank, shape.still);
    latent.value_up = weights.matrices(prefix + "attn_v_b.weight", heads, shape.d_v, shape.rank);
}

void load_delta(FileWeights& weights, const ModelConfig& config, const std::string& prefix,
                ModelLayer& layer) {
    const DeltaConfig& shape = config.delta;
    const int64_t width = config.width, values = shape.heads * shape.d;
    DeltaWeights& delta = layer.delta;
    delta.qkv = weights.matrix(prefix + "attn_qkv.weight", shape.channels(), width);
    delta.gate = weights.matrix(prefix + "attn_gate.weight", values, width);
    delta.convolution = weights.plain(prefix + "ssm_conv1d.weight", shape.channels(), shape.taps);
    if (weights.has_one_of(prefix, "ssm_ba.weight", "ssm_beta.weight")) {
        delta.beta_alpha = weights.matrix(prefix + "ssm_ba.weight", 2 * shape.heads, width);
    } else {
        delta.beta = weights.matrix(prefix + "ssm_beta.weight", shape.heads, width);
        delta.alpha = weights.matrix(prefix + "ssm_alpha.weight", shape.heads, width);
    }
    delta.decay = weights.vector(prefix + "ssm_a", shape.heads);
    delta.dt = weights.vector(prefix + "ssm_dt.bias", shape.heads);
    delta.norm = weights.vector(prefix + "ssm_norm.weight", shape.d);
    delta.output = weights.matrix(prefix + "ssm_out.weight", width, values);
}

// Gate and up may be one matrix, "ffn_up" of twice as many rows, and their biases one vector.
FeedForwardWeights load_dense(FileWeights& weights, const std::string& prefix,
                              const std::string& suffix, int64_t width, int64_t hidden) {
    const auto name = [&](const char* part, const char* kind) {
        return prefix + "ffn_" + part + suffix + kind;
    };
    FeedForwardWeights dense;
    if (weights.rows(name("up", ".weight")) == 2 * hidden) {
        dense.gate_up = weights.matrix(name("up", ".weight"), 2 * hidden, width);
        dense.gate_up_bias = weights.optional_vector(name("up", ".bias"), 2 * hidden);
    } else {
        dense.gate = weights.matrix(name("gate", ".weight"), hidden, width);
        dense.up = weights.matrix(name("up", ".weight"), hidden, width);
        dense.gate_bias = weights.optional_vector(name("gate", ".bias"), hidden);
        dense.up_bias = weights.optional_vector(name("up", ".bias"), hidden);
    }
    dense.down = weights.matrix(name("down", ".weight"), width, hidden);
    dense.down_bias = weights.optional_vector(name("down", ".bias"), width);
    return dense;
}

FeedForwardWeights load_each_expert(FileWeights& weights, const std::string& prefix, int64_t width,
                                    const LayerPlan& plan) {
    const int64_t count = plan.experts, hidden = plan.expert_feed_forward;
    const std::string fused = prefix + "ffn_gate_up_exps";
    FeedForwardWeights each;
    const auto load = [&](const std::string& name, int64_t out, int64_t in, TensorView& matrices,
                          TensorView& bias) {
        matrices = weights.matrices(name + ".weight", count, out, in);
        bias = weights.optional_plain(name + ".bias", count, out);
    };
    if (weights.has(fused + ".weight")) {
        load(fused, 2 * hidden, width, each.gate_up, each.gate_up_bias);
    } else {
        load(prefix + "ffn_gate_exps", hidden, width, each.gate, each.gate_bias);
        load(prefix + "ffn_up_exps", hidden, width, each.up, each.up_bias);
    }
    load(prefix + "ffn_down_exps", width, hidden, each.down, each.down_bias);
    return each;
}

ExpertWeights load_experts(FileWeights& weights, const ModelConfig& config, const LayerPlan& plan,
                           const std::string& prefix) {
    const int64_t width = config.width, count = plan.experts;
    ExpertWeights experts;
    experts.router = weights.matrix(prefix + "ffn_gate_inp.weight", count, width);
    experts.router_bias = weights.optional_vector(prefix + "ffn_gate_inp.bias", count);
    experts.selection_bias = weights.optional_vector(prefix + "exp_probs_b.bias", count);
    experts.each = load_each_expert(weights, prefix, width, plan);
    if (plan.shared_feed_forward > 0) {
        experts.shared = load_dense(weights, prefix, "_shexp", width, plan.shared_feed_forward);
        if (config.architecture.experts.gated_shared) {
            experts.shared_gate = weights.matrix(prefix + "ffn_gate_inp_shexp.weight", 1, width);
        }
    }
    if (plan.feed_forward == 0) return experts;
    experts.router_scale = weights.vector(prefix + "ffn_gate_inp.scale", width);
    experts.expert_scale = weights.optional_vector(prefix + "ffn_down_exps.scale", count);
    experts.dense_norm = weights.vector(prefix + "post_ffw_norm_1.weight", width);
    experts.input_norm = weights.vector(prefix + "pre_ffw_norm_2.weight", width);
    experts.output_norm = weights.vector(prefix + "post_ffw_norm_2.weight", width);
    return experts;
}

}  // namespace

// Biases without which a file is not what its architecture is.
static void require_biases(const FileWeights& weights, const LayerPlan& plan,
                           const std::string& prefix) {
    const bool fused = weights.has(prefix + "ffn_gate_up_exps.weight");
    weights.require(prefix + "attn_output.bias");
    if (plan.experts == 0) return;
    weights.require(prefix + "ffn_gate_inp.bias");
    weights.require(prefix + "ffn_down_exps.bias");
    if (fused) return weights.require(prefix + "ffn_gate_up_exps.bias");
    weights.require(prefix + "ffn_gate_exps.bias");
    weights.require(prefix + "ffn_up_exps.bias");
}

ModelLayer load_layer(FileWeights& weights, const ModelConfig& config, int64_t index) {
    const LayerPlan& plan = config.plan[size_t(index)];
    const std::string prefix = prefix_of(index);
    const int64_t width = config.width;
    ModelLayer layer;
    load_norms(weights, config, prefix, layer);
    switch (plan.kind) {
        case LayerKind::grouped:
            load_grouped(weights, config, plan, prefix, layer);
            break;
        case LayerKind::latent:
            load_latent(weights, config, plan, prefix, layer);
            break;
        case LayerKind::delta:
            load_delta(weights, config, prefix, layer);
            break;
    }
    if (plan.kind != LayerKind::delta) {
        const bool latent = plan.kind == LayerKind::latent;
        const int64_t attended = plan.heads * (latent ? config.latent.d_v : plan.d_v);
        layer.attention_output = weights.matrix(prefix + "attn_output.weight", width, attended);
        layer.attention_output_bias = weights.optional_vector(prefix + "attn_output.bias", width);
    }
    if (plan.feed_forward > 0) {
        layer.dense = load_dense(weights, prefix, "", width, plan.feed_forward);
    }
    if (plan.experts > 0) layer.experts = load_experts(weights, config, plan, prefix);
    if (config.architecture.biased) require_biases(weights, plan, prefix);

    if (const int64_t narrow = config.per_layer_width; narrow > 0) {
        layer.per_layer_gate = weights.matrix(prefix + "inp_gate.weight", narrow, width);
        layer.per_layer_output = weights.matrix(prefix + "proj.weight", width, narrow);
        layer.per_layer_norm = weights.vector(prefix + "post_norm.weight", width);
    }
    if (config.architecture.output_scale) {
        layer.output_scale = weights.number(prefix + "layer_output_scale.weight", 1);
    }
    return layer;
}

}  // namespace rotkv
