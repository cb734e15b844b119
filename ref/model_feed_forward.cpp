// What a layer does to each token by itself: a dense block, experts, or both, and what embeddings
// of its own give a layer.
#include "ref/activations.h"
#include "ref/model.h"

#include <cmath>

namespace rotkv {

// residual += the block's output; in parallel, its input is what attention read. Where a dense
// block and experts stand side by side, each has norms of its own.
void Model::feed_forward_block(int64_t tokens) {
    const LayerPlan& shape = plan();
    const TensorView x = config_.architecture.parallel
                             ? normed_.view(DType::f32, {tokens, config_.width})
                             : block_input(layer().feed_forward_norm, tokens);
    const TensorView output = block_output_.view(DType::f32, {tokens, config_.width});
    if (shape.experts == 0) {
        dense(output, layer().dense, x, shape.feed_forward);
    } else if (shape.feed_forward == 0) {
        experts(output, x);
    } else {
        const ExpertWeights& weights = layer().experts;
        dense(output, layer().dense, x, shape.feed_forward);
        normalize(output, output, weights.dense_norm);
        const TensorView other = other_output_.view(DType::f32, {tokens, config_.width});
        experts(other, block_input(weights.input_norm, tokens));
        normalize(other, other, weights.output_norm);
        step(AddArgs{.dst = output, .a = output, .b = other});
    }
    add_to_residual(output, layer().post_feed_forward_norm);
}

// output = W_down (act(W_gate x) * W_up x), x [T][E], the product [T][F]; every product plus its
// bias.
void Model::dense(const TensorView& output, const FeedForwardWeights& weights, const TensorView& x,
                  int64_t hidden) {
    const TensorView both = hidden_.view(DType::f32, {x.n[2], 2 * hidden});
    const TensorView gate = columns(both, 0, hidden), up = columns(both, hidden, hidden);
    if (!weights.gate_up.empty()) {
        multiply(both, weights.gate_up, x);
    } else {
        multiply(gate, weights.gate, x);
        multiply(up, weights.up, x);
    }
    add_bias(both, weights.gate_up_bias);
    add_bias(gate, weights.gate_bias);
    add_bias(up, weights.up_bias);
    step(ActMulArgs{
        .dst = gate, .gate = gate, .up = up, .activation = config_.architecture.activation});
    multiply(output, weights.down, gate);
    add_bias(output, weights.down_bias);
}

// output = the sum of the chosen experts' outputs, by their weights, and of the shared one's.
void Model::experts(const TensorView& output, const TensorView& x) {
    choose_experts(x);
    run_chosen(output, x);
    if (plan().shared_feed_forward > 0) add_shared_expert(output, x);
}

// The product of the router is never rounded: a choice is a step, which a last bit may decide.
void Model::choose_experts(const TensorView& x) {
    const ExpertWeights& weights = layer().experts;
    const int64_t n_tokens = x.n[2], experts = plan().experts, used = plan().experts_used;
    const TensorView logits = logits_.view(DType::f32, {n_tokens, experts});
    TensorView read = x;
    if (!weights.router_scale.empty()) {
        read = routed_.view(DType::f32, {n_tokens, config_.width});
        normalize(read, residual(n_tokens), weights.router_scale);
        scale(read, 1 / std::sqrt(float(config_.width)));
    }
    step(MatmulArgs{.dst = logits, .weight = weights.router, .src = read});
    add_bias(logits, weights.router_bias);
    step(RouteArgs{.id = chosen_.view(DType::i32, {n_tokens, used}),
                   .weight = weight_.view(DType::f32, {n_tokens, used}),
                   .logits = logits,
                   .selection_bias = weights.selection_bias,
                   .expert_scale = weights.expert_scale,
                   .gating = config_.routing.gating,
                   .groups = config_.routing.groups,
                   .groups_used = config_.routing.groups_used,
                   .normalise = config_.routing.normalise,
                   .scale = config_.routing.scale});
}

// Every chosen expert's block, [T][A][..]; their sum by weight.
void Model::run_chosen(const TensorView& output, const TensorView& x) {
    const FeedForwardWeights& weights = layer().experts.each;
    const int64_t n_tokens = x.n[2], used = plan().experts_used;
    const int64_t hidden = plan().expert_feed_forward;
    const TensorView id = chosen_.view(DType::i32, {n_tokens, used});
    const TensorView weight = weight_.view(DType::f32, {n_tokens, used});
    const auto multiply_each = [&](const TensorView& y, const TensorView& matrices,
                                   const TensorView& of, const TensorView& bias) {
        step(ExpertMatmulArgs{.dst = y,
                              .weight = matrices,
                              .src = of,
                              .id = id,
                              .bias = bias,
                              .precision = options_.precision.products});
    };
    const bool weight_first = config_.architecture.experts.weight_on_input;  // of one expert then
    const TensorView weighted = routed_.view(DType::f32, {n_tokens, config_.width});
    if (weight_first) {
        step(ExpertSumArgs{.dst = weighted, .src = for_each_of(x, 1), .weight = weight});
    }
    const TensorView input = for_each_of(weight_first ? weighted : x, used);
    const TensorView both = hidden_.view(DType::f32, {n_tokens, used, 2 * hidden});
    const TensorView gate = columns(both, 0, hidden), up = columns(both, hidden, hidden);
    if (!weights.gate_up.empty()) {
        multiply_each(both, weights.gate_up, input, weights.gate_up_bias);
    } else {
        multiply_each(gate, weights.gate, input, weights.gate_bias);
        multiply_each(up, weights.up, input, weights.up_bias);
    }
    step(ActMulArgs{
        .dst = gate, .gate = gate, .up = up, .activation = config_.architecture.activation});
    const TensorView each = weight_first
                                ? for_each_of(output, 1)
                                : expert_output_.view(DType::f32, {n_tokens, used, config_.width});
    multiply_each(each, weights.down, gate, weights.down_bias);
    if (!weight_first) step(ExpertSumArgs{.dst = output, .src = each, .weight = weight});
}

// output += the shared expert's output, times sigmoid(v . x) where it is gated: as if it were
// chosen, by v, out of one.
void Model::add_shared_expert(const TensorView& output, const TensorView& x) {
    const ExpertWeights& weights = layer().experts;
    const int64_t n_tokens = x.n[2];
    const TensorView each = expert_output_.view(DType::f32, {n_tokens, config_.width});
    dense(each, weights.shared, x, plan().shared_feed_forward);
    if (weights.shared_gate.empty()) {
        return step(AddArgs{.dst = output, .a = output, .b = each});
    }
    const TensorView logits = logits_.view(DType::f32, {n_tokens, 1});
    const TensorView weight = weight_.view(DType::f32, {n_tokens, 1});
    const TensorView gated = routed_.view(DType::f32, {n_tokens, config_.width});
    step(MatmulArgs{.dst = logits, .weight = weights.shared_gate, .src = x});
    step(RouteArgs{.id = chosen_.view(DType::i32, {n_tokens, 1}),
                   .weight = weight,
                   .logits = logits,
                   .gating = Gating::sigmoid});
    step(ExpertSumArgs{.dst = gated, .src = for_each_of(each, 1), .weight = weight});
    step(AddArgs{.dst = output, .a = output, .b = gated});
}

// a[l] = (rms(W x / sqrt(E))[l] * weight + sqrt(P) table[token][l]) / sqrt(2), [T][L P], from the
// embedded tokens x.
void Model::embed_per_layer(int64_t tokens) {
    const int64_t layers = config_.layers, width = config_.per_layer_width;
    if (width == 0) return;
    const TensorView all = per_layer_.view(DType::f32, {tokens, layers * width});
    const TensorView table = per_layer_hidden_.view(DType::f32, {tokens, layers * width});
    multiply(all, weights_->per_layer_projection, residual(tokens));
    scale(all, 1 / std::sqrt(float(config_.width)));
    const TensorView each = as_heads(all, layers, width);
    normalize(each, each, weights_->per_layer_norm);
    step(EmbedArgs{.dst = table,
                   .weight = weights_->per_layer_embedding,
                   .token = tokens_.view(DType::i32, {tokens}),
                   .scale = std::sqrt(float(width))});
    step(AddArgs{.dst = all, .a = all, .b = table});
    scale(all, 1 / std::sqrt(2.0f));
}

// residual += rms(W_out (act(W_gate residual) * a[l])) * weight
void Model::add_per_layer(int64_t tokens) {
    const int64_t width = config_.per_layer_width;
    if (width == 0) return;
    const TensorView all = per_layer_.view(DType::f32, {tokens, config_.layers * width});
    const TensorView gate = per_layer_hidden_.view(DType::f32, {tokens, width});
    const TensorView output = block_output_.view(DType::f32, {tokens, config_.width});
    multiply(gate, layer().per_layer_gate, residual(tokens));
    step(ActMulArgs{.dst = gate,
                    .gate = gate,
                    .up = columns(all, layer_ * width, width),
                    .activation = config_.architecture.activation});
    multiply(output, layer().per_layer_output, gate);
    normalize(output, output, layer().per_layer_norm);
    step(AddArgs{.dst = residual(tokens), .a = residual(tokens), .b = output});
}

}  // namespace rotkv
