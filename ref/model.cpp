// The forward pass, top to bottom, as the model computes it. Every step is one operation of ops.h
// on views of a few activation buffers; which backend runs it does not show here.
#include "ref/model.h"

#include "ref/activations.h"
#include "ref/error.h"

#include <algorithm>
#include <string>

namespace rotkv {

namespace {

// A cache has what the plan asks for; types are its own business.
void check_cache(const KvCache& cache, const ModelConfig& config) {
    const KvShape& shape = cache.shape();
    if (shape.n_layers() != config.layers) {
        throw Error(ErrorCode::bad_argument, "model: expected a cache of " +
                                                 std::to_string(config.layers) + " layers, found " +
                                                 std::to_string(shape.n_layers()));
    }
    const auto words = [](const KvLayer& layer) -> std::string {
        if (layer.recurrent.heads > 0) return "a state";
        return std::to_string(layer.kv_heads) + " heads of " + std::to_string(layer.d_k) + " and " +
               std::to_string(layer.d_v) + " channels in " +
               (layer.source   ? "rows of layer " + std::to_string(*layer.source)
                : layer.v_in_k ? "shared rows"
                               : "rows of its own");
    };
    const KvShape planned = config.cache_shape(1, 1, DType::f32, DType::f32);
    for (size_t l = 0; l < shape.layers.size(); ++l) {
        const KvLayer& layer = shape.layers[l];
        KvLayer expected = planned.layers[l];
        expected.type_k = layer.type_k;
        expected.type_v = layer.type_v;
        if (layer == expected) continue;
        throw Error(ErrorCode::bad_argument, "model: layer " + std::to_string(l) +
                                                 " of the cache: expected " + words(expected) +
                                                 ", found " + words(layer));
    }
}

}  // namespace

const RopeConfig& Model::rope(int64_t layer) const {
    static const RopeConfig none;
    const LayerRope of_layer = config_.plan[size_t(layer)].rope;
    if (of_layer == LayerRope::none) return none;
    return of_layer == LayerRope::local ? config_.local_rope : config_.rope;
}

TensorView Model::forward(KvCache& cache, std::span<const int32_t> tokens,
                          std::span<const int32_t> streams, std::span<const int32_t> positions) {
    require(tokens.size() == positions.size(), ErrorCode::bad_argument,
            "model: expected one position per token");
    for (size_t t = 0; t < tokens.size(); ++t) {
        if (tokens[t] < 0 || tokens[t] >= config_.words) {
            throw Error(ErrorCode::bad_argument, "model: token " + std::to_string(tokens[t]) +
                                                     " is outside the vocabulary of " +
                                                     std::to_string(config_.words));
        }
        if (positions[t] >= config_.context) {
            throw Error(ErrorCode::bad_argument, "model: position " + std::to_string(positions[t]) +
                                                     " is outside the context of " +
                                                     std::to_string(config_.context));
        }
    }

    check_cache(cache, config_);
    const std::vector<int32_t> before(cache.host_positions().begin(), cache.host_positions().end());
    const KvBatch batch = cache.place(streams, positions);
    try {
        return run_layers(cache, tokens, batch);
    } catch (...) {  // what should have come into the batch's cells may not be there
        layer_ = -1;
        cache.set_positions(before);
        for (size_t t = 0; cache.state() != nullptr && t < streams.size(); ++t) {
            cache.remove(streams[t], 0, INT32_MAX);
        }
        throw;
    }
}

// Embedding, layers, output norm, for tokens that have their cells.
TensorView Model::run_layers(KvCache& cache, std::span<const int32_t> tokens,
                             const KvBatch& batch) {
    const int64_t n_tokens = int64_t(tokens.size());
    reserve(n_tokens);
    tokens_.upload(std::as_bytes(tokens));

    // The residual stream [T][E]: every block reads it through a norm and adds to it.
    const TensorView x = residual(n_tokens);
    run(EmbedArgs{.dst = x,
                  .weight = weights_->embedding,
                  .token = tokens_.view(DType::i32, {n_tokens}),
                  .scale = config_.embedding_scale});
    embed_per_layer(n_tokens);
    for (layer_ = 0; layer_ < config_.layers; ++layer_) {
        attention_block(cache, batch);
        feed_forward_block(n_tokens);
        add_per_layer(n_tokens);
        scale(x, layer().output_scale);
    }
    layer_ = -1;
    const TensorView hidden = normed_.view(DType::f32, {n_tokens, config_.width});
    normalize(hidden, x, weights_->output_norm);
    scale(hidden, config_.logit_scale);  // W (f x) for f (W x): no product needs to know of it
    return hidden;
}

// The residual stream, [T][E].
TensorView Model::residual(int64_t tokens) const {
    return residual_.view(DType::f32, {tokens, config_.width});
}

void Model::run_in(int64_t layer, const Call& call) {
    if (options_.observer) return options_.observer(layer, call, backend());
    backend().run(call);
}

// y[t] = W x[t]
void Model::multiply(const TensorView& y, const TensorView& weight, const TensorView& x) {
    step(
        MatmulArgs{.dst = y, .weight = weight, .src = x, .precision = options_.precision.products});
}

// y[t] = x[t] / rms(x[t]) * weight, row by row: tokens, or heads of tokens; or the layer norm
void Model::normalize(const TensorView& y, const TensorView& x, const TensorView& weight) {
    const float epsilon = config_.norm_epsilon;
    if (config_.architecture.layer_norm) {
        return step(LayerNormArgs{.dst = y, .src = x, .weight = weight, .epsilon = epsilon});
    }
    step(RmsNormArgs{.dst = y, .src = x, .weight = weight, .epsilon = epsilon});
}

// x /= sqrt(mean(x^2) + epsilon), row by row
void Model::normalize_to_unit(const TensorView& x) {
    step(RmsNormArgs{.dst = x, .src = x, .weight = {}, .epsilon = config_.norm_epsilon});
}

// x *= factor, where the model has one; x [T][E]
void Model::scale(const TensorView& x, float factor) {
    if (factor == 1) return;
    const TensorView rows = as_heads(x, 1, x.n[3]);
    step(ScaleArgs{.dst = rows, .src = rows, .scale = factor});
}

// to = from, [T][heads][d]
void Model::copy(const TensorView& to, const TensorView& from) {
    step(ScaleArgs{.dst = to, .src = from});
}

// x[t] += bias, where the model has one
void Model::add_bias(const TensorView& x, const TensorView& bias) {
    if (!bias.empty()) step(AddArgs{.dst = x, .a = x, .b = repeated(bias, x.n[2])});
}

// What a block reads: the residual stream, normed where the model has a norm there.
TensorView Model::block_input(const TensorView& norm, int64_t tokens) {
    if (norm.empty()) return residual(tokens);
    const TensorView x = normed_.view(DType::f32, {tokens, config_.width});
    normalize(x, residual(tokens), norm);
    return x;
}

// residual += f norm(x), or f x where the model has no norm there
void Model::add_to_residual(const TensorView& x, const TensorView& post_norm) {
    if (!post_norm.empty()) normalize(x, x, post_norm);
    scale(x, config_.residual_scale);
    const TensorView sum = residual(x.n[2]);
    step(AddArgs{.dst = sum, .a = sum, .b = x});
}

// Values per token that the widest layer asks for.
struct Model::Sizes {
    int64_t projected = 0, attended = 0, latent_values = 0;
    int64_t hidden = 0, experts_used = 0, experts = 0;

    void of_attention(const ModelConfig& config, const LayerPlan& layer) {
        const int64_t keys = layer.kv_heads * layer.d_k, values = layer.kv_heads * layer.d_v;
        const int64_t gates = config.architecture.query_gate ? layer.d_v : 0;
        grow(attended, layer.heads * layer.d_v);
        switch (layer.kind) {
            case LayerKind::grouped:
                return grow(projected, layer.heads * (layer.d_k + gates) + keys + values);
            case LayerKind::latent:
                grow(latent_values, layer.heads * config.latent.d_v);
                return grow(projected, config.latent.projected(layer.heads));
            case LayerKind::delta:
                return grow(projected, config.delta.projected());
        }
    }

    void of_feed_forward(const LayerPlan& layer) {
        grow(hidden, 2 * layer.feed_forward);
        grow(hidden, 2 * layer.shared_feed_forward);
        grow(hidden, 2 * layer.experts_used * layer.expert_feed_forward);
        grow(experts_used, layer.experts_used);
        grow(experts, layer.experts);
    }

  private:
    static void grow(int64_t& size, int64_t to) { size = std::max(size, to); }
};

// Makes room for a batch of `tokens`.
void Model::reserve(int64_t tokens) {
    if (tokens <= reserved_) return;
    Sizes sizes;
    for (const LayerPlan& layer : config_.plan) {
        sizes.of_attention(config_, layer);
        sizes.of_feed_forward(layer);
    }
    const auto values = [&](int64_t per_token) {  // f32 or i32
        return Buffer(backend(), size_t(tokens * per_token) * sizeof(float));
    };
    tokens_ = values(1);
    residual_ = values(config_.width);
    normed_ = values(config_.width);
    projected_ = values(sizes.projected);
    attended_ = values(sizes.attended);
    hidden_ = values(sizes.hidden);
    block_output_ = values(config_.width);
    latent_values_ = values(sizes.latent_values);
    const int64_t routed = sizes.experts > 0 ? config_.width : 0;
    other_output_ = values(routed);
    routed_ = values(routed);
    expert_output_ = values(sizes.experts_used * config_.width);
    logits_ = values(sizes.experts);
    weight_ = values(sizes.experts_used);
    chosen_ = values(sizes.experts_used);
    per_layer_ = values(config_.layers * config_.per_layer_width);
    per_layer_hidden_ = values(config_.layers * config_.per_layer_width);
    reserved_ = tokens;
}

}  // namespace rotkv
