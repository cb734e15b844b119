// The forward pass, top to bottom, as the model computes it. Every step is one operation of ops.h
// on views of a few activation buffers; which backend runs it does not show here.
#include "ref/model.h"

#include "ref/error.h"

#include <algorithm>
#include <string>

namespace rotkv {

namespace {

// Columns first .. first + count of a [T][n] activation.
TensorView columns(const TensorView& x, int64_t first, int64_t count) {
    TensorView part = x;
    part.data += first * int64_t(sizeof(float));
    part.n[3] = count;
    return part;
}

// A [T][heads * d] activation as [T][heads][d].
TensorView as_heads(const TensorView& x, int64_t heads, int64_t d) {
    TensorView split = x;
    split.n[1] = x.n[2];
    split.stride[1] = x.stride[2];
    split.n[2] = heads;
    split.stride[2] = d * int64_t(sizeof(float));
    split.n[3] = d;
    return split;
}

// The heads [T][heads][d] of an activation as rows of it, [T][heads * d].
TensorView as_row(const TensorView& heads) {
    TensorView row = heads;
    row.n[1] = 1;
    row.n[2] = heads.n[1];
    row.stride[2] = heads.stride[1];
    row.n[3] = heads.n[2] * heads.n[3];
    return row;
}

// A vector [n] repeated for every one of `tokens` rows.
TensorView repeated(const TensorView& vector, int64_t tokens) {
    TensorView rows = vector;
    rows.n[2] = tokens;
    rows.stride[2] = 0;
    return rows;
}

// A cache has rows of its own for every layer, of the plan's heads; types are its own business.
void check_cache(const KvCache& cache, const ModelConfig& config) {
    const KvShape& shape = cache.shape();
    if (shape.n_layers() != config.layers) {
        throw Error(ErrorCode::bad_argument, "model: expected a cache of " +
                                                 std::to_string(config.layers) + " layers, found " +
                                                 std::to_string(shape.n_layers()));
    }
    for (size_t l = 0; l < config.plan.size(); ++l) {
        const LayerPlan& plan = config.plan[l];
        const KvLayer& layer = shape.layers[l];
        const KvLayer own{.kv_heads = plan.kv_heads,
                          .d_k = plan.d_k,
                          .d_v = plan.d_v,
                          .type_k = layer.type_k,
                          .type_v = layer.type_v};
        if (layer == own) continue;
        const auto words = [](int64_t heads, int64_t d_k, int64_t d_v) {
            return std::to_string(heads) + " heads of " + std::to_string(d_k) + " and " +
                   std::to_string(d_v) + " channels";
        };
        throw Error(ErrorCode::bad_argument,
                    "model: layer " + std::to_string(l) + " of the cache: expected " +
                        words(own.kv_heads, own.d_k, own.d_v) + " in rows of its own, found " +
                        words(layer.kv_heads, layer.d_k, layer.d_v) +
                        (layer.source || layer.v_in_k ? " in shared ones" : ""));
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
    try {
        return run_layers(cache, tokens, cache.place(streams, positions));
    } catch (...) {  // what should have come into the batch's cells may not be there
        cache.set_positions(before);
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
    const TensorView residual = residual_.view(DType::f32, {n_tokens, config_.width});
    run(EmbedArgs{.dst = residual,
                  .weight = weights_->embedding,
                  .token = tokens_.view(DType::i32, {n_tokens}),
                  .scale = config_.embedding_scale});
    for (layer_ = 0; layer_ < config_.layers; ++layer_) {
        const ModelLayer& layer = weights_->layers[size_t(layer_)];
        attention_block(layer, cache, batch);
        feed_forward_block(layer, n_tokens);
    }
    layer_ = -1;
    const TensorView hidden = normed_.view(DType::f32, {n_tokens, config_.width});
    normalize(hidden, residual, weights_->output_norm);
    scale(hidden, config_.logit_scale);  // W (f x) for f (W x): no product needs to know of it
    return hidden;
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

// x *= factor, where the model has one; x [T][E]
void Model::scale(const TensorView& x, float factor) {
    if (factor == 1) return;
    const TensorView rows = as_heads(x, 1, x.n[3]);
    step(ScaleArgs{.dst = rows, .src = rows, .scale = factor});
}

// x[t] += bias, where the model has one
void Model::add_bias(const TensorView& x, const TensorView& bias) {
    if (!bias.empty()) step(AddArgs{.dst = x, .a = x, .b = repeated(bias, x.n[2])});
}

// residual += W_o attention(q, k, v), with q [T][H][Dk], k [T][K][Dk], v [T][K][Dv] of the normed
// residual
void Model::attention_block(const ModelLayer& layer, KvCache& cache, const KvBatch& batch) {
    const int64_t n_tokens = batch.cell.n[3];
    const Heads heads = project(layer, block_input(layer.attention_norm, n_tokens));

    // The rotation comes after norm and position, in kv_store and attention.
    const bool norm_last = config_.architecture.qk_norm == QkNorm::turned_heads;
    if (!norm_last) norm_heads(layer, heads);
    turn_heads(heads, batch.position);
    if (norm_last) norm_heads(layer, heads);

    const TensorView attended = store_and_attend(heads, cache, batch);
    const TensorView output = block_output_.view(DType::f32, {n_tokens, config_.width});
    multiply(output, layer.attention_output, attended);
    add_bias(output, layer.attention_output_bias);
    add_to_residual(output, layer.post_attention_norm);
}

// What a block reads: the residual stream, normed where the model has a norm there.
TensorView Model::block_input(const TensorView& norm, int64_t tokens) {
    const TensorView residual = residual_.view(DType::f32, {tokens, config_.width});
    if (norm.empty()) return residual;
    const TensorView x = normed_.view(DType::f32, {tokens, config_.width});
    normalize(x, residual, norm);
    return x;
}

// q, k and v of every token, side by side in one buffer [T][H Dk + K Dk + K Dv], as heads.
Model::Heads Model::project(const ModelLayer& layer, const TensorView& x) {
    const int64_t n_tokens = x.n[2];
    const LayerPlan& shape = plan();
    const int64_t q_width = shape.heads * shape.d_k, k_width = shape.kv_heads * shape.d_k;
    const int64_t v_width = shape.kv_heads * shape.d_v;
    const TensorView qkv = qkv_.view(DType::f32, {n_tokens, q_width + k_width + v_width});
    const TensorView q = columns(qkv, 0, q_width), k = columns(qkv, q_width, k_width);
    const TensorView v = columns(qkv, q_width + k_width, v_width);
    if (!layer.qkv.empty()) {
        multiply(qkv, layer.qkv, x);
    } else {
        multiply(q, layer.q, x);
        multiply(k, layer.k, x);
        multiply(v, layer.v, x);
    }
    add_bias(qkv, layer.qkv_bias);
    add_bias(q, layer.q_bias);
    add_bias(k, layer.k_bias);
    add_bias(v, layer.v_bias);
    return {as_heads(q, shape.heads, shape.d_k), as_heads(k, shape.kv_heads, shape.d_k),
            as_heads(v, shape.kv_heads, shape.d_v)};
}

// q and k, each head by itself, or all heads of a token as one row.
void Model::norm_heads(const ModelLayer& layer, const Heads& heads) {
    if (config_.architecture.qk_norm == QkNorm::none) return;
    const bool as_one = config_.architecture.qk_norm == QkNorm::all_heads;
    const TensorView q = as_one ? as_row(heads.q) : heads.q;
    const TensorView k = as_one ? as_row(heads.k) : heads.k;
    normalize(q, q, layer.q_norm);
    normalize(k, k, layer.k_norm);
}

// q and k by their positions; q times its temperature.
void Model::turn_heads(const Heads& heads, const TensorView& position) {
    const RopeConfig& turn = rope(layer_);
    const bool local = plan().rope == LayerRope::local && local_rope_table_.data() != nullptr;
    const Buffer& table = local ? local_rope_table_ : rope_table_;
    for (const TensorView& turned : {heads.q, heads.k}) {
        if (turn.n_rot == 0) break;
        step(RopeArgs{.dst = turned,
                      .src = turned,
                      .table = table.view(DType::f32, {config_.context, turn.n_rot / 2, 2}),
                      .row = position,
                      .pairs = turn.pairs});
    }
    if (temperature_.data() == nullptr) return;
    step(ScaleArgs{.dst = heads.q,
                   .src = heads.q,
                   .factor = temperature_.view(DType::f32, {config_.context}),
                   .row = position});
}

// Stores the batch first, then attends to nothing but the cache; [T][H Dv].
TensorView Model::store_and_attend(const Heads& heads, KvCache& cache, const KvBatch& batch) {
    const int64_t n_tokens = batch.cell.n[3], h = plan().heads, d_v = plan().d_v;
    const TensorView k = cache.k(layer_), v = cache.v(layer_);
    const Rotation k_rotation = cache.spec().at(layer_, Side::k);
    const Rotation v_rotation = cache.spec().at(layer_, Side::v);
    step(KvStoreArgs{.k_cache = k,
                     .v_cache = v,
                     .k = heads.k,
                     .v = heads.v,
                     .stream = batch.stream,
                     .cell = batch.cell,
                     .k_rotation = k_rotation,
                     .v_rotation = v_rotation});
    step(AttentionArgs{.dst = attended_.view(DType::f32, {n_tokens, h, d_v}),
                       .q = heads.q,
                       .k_cache = k,
                       .v_cache = v,
                       .position = cache.positions(),
                       .used = cache.used(),
                       .q_stream = batch.stream,
                       .q_position = batch.position,
                       .scale = config_.attention_scale,
                       .softcap = config_.attention_softcap,
                       .window = plan().window,
                       .k_rotation = k_rotation,
                       .v_rotation = v_rotation,
                       .precision = options_.precision.attention});
    return attended_.view(DType::f32, {n_tokens, h * d_v});
}

// residual += W_down (act(W_gate x) * W_up x), x [T][E] the normed residual, the product [T][F];
// every product plus its bias. In parallel: x is what attention read.
void Model::feed_forward_block(const ModelLayer& layer, int64_t n_tokens) {
    const int64_t hidden = plan().feed_forward;
    const TensorView x = config_.architecture.parallel
                             ? normed_.view(DType::f32, {n_tokens, config_.width})
                             : block_input(layer.feed_forward_norm, n_tokens);

    const TensorView both = gate_up_.view(DType::f32, {n_tokens, 2 * hidden});
    const TensorView gate = columns(both, 0, hidden), up = columns(both, hidden, hidden);
    if (!layer.gate_up.empty()) {
        multiply(both, layer.gate_up, x);
    } else {
        multiply(gate, layer.gate, x);
        multiply(up, layer.up, x);
    }
    add_bias(both, layer.gate_up_bias);
    add_bias(gate, layer.gate_bias);
    add_bias(up, layer.up_bias);
    step(ActMulArgs{
        .dst = gate, .gate = gate, .up = up, .activation = config_.architecture.activation});

    const TensorView output = block_output_.view(DType::f32, {n_tokens, config_.width});
    multiply(output, layer.down, gate);
    add_bias(output, layer.down_bias);
    add_to_residual(output, layer.post_feed_forward_norm);
}

// residual += f norm(x), or f x where the model has no norm there
void Model::add_to_residual(const TensorView& x, const TensorView& post_norm) {
    if (!post_norm.empty()) normalize(x, x, post_norm);
    scale(x, config_.residual_scale);
    const TensorView residual = residual_.view(DType::f32, {x.n[2], config_.width});
    step(AddArgs{.dst = residual, .a = residual, .b = x});
}

// Makes room for a batch of `tokens`, in the widest layer.
void Model::reserve(int64_t tokens) {
    if (tokens <= reserved_) return;
    int64_t qkv = 0, attended = 0, gate_up = 0;  // values per token
    for (const LayerPlan& layer : config_.plan) {
        qkv = std::max(qkv, layer.heads * layer.d_k + layer.kv_heads * (layer.d_k + layer.d_v));
        attended = std::max(attended, layer.heads * layer.d_v);
        gate_up = std::max(gate_up, 2 * layer.feed_forward);
    }
    const auto floats = [&](int64_t per_token) {
        return Buffer(backend(), size_t(tokens * per_token) * sizeof(float));
    };
    tokens_ = Buffer(backend(), size_t(tokens) * sizeof(int32_t));
    residual_ = floats(config_.width);
    normed_ = floats(config_.width);
    qkv_ = floats(qkv);
    attended_ = floats(attended);
    gate_up_ = floats(gate_up);
    block_output_ = floats(config_.width);
    reserved_ = tokens;
}

}  // namespace rotkv
