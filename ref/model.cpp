// The forward pass, top to bottom, as the model computes it. Every step is one operation of ops.h
// on views of a few activation buffers; which backend runs it does not show here.
#include "ref/model.h"

#include "ref/error.h"

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

// A vector [n] repeated for every one of `tokens` rows.
TensorView repeated(const TensorView& vector, int64_t tokens) {
    TensorView rows = vector;
    rows.n[2] = tokens;
    rows.stride[2] = 0;
    return rows;
}

}  // namespace

KvShape ModelConfig::cache_shape(int64_t streams, int64_t cells, DType type_k, DType type_v) const {
    const KvLayer layer{
        .kv_heads = kv_heads, .d_k = d_k, .d_v = d_v, .type_k = type_k, .type_v = type_v};
    return {
        .streams = streams, .cells = cells, .layers = std::vector<KvLayer>(size_t(layers), layer)};
}

const RopeConfig& Model::rope(int64_t layer) const {
    return config_.local[size_t(layer)] ? config_.local_rope : config_.rope;
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

    const KvBatch batch = cache.place(streams, positions);
    const int64_t n_tokens = int64_t(tokens.size());
    reserve(n_tokens);
    tokens_.upload(std::as_bytes(tokens));

    EmbedArgs embed;
    embed.dst = residual_.view(DType::f32, {n_tokens, config_.width});
    embed.weight = embedding_;
    embed.token = tokens_.view(DType::i32, {n_tokens});
    embed.scale = config_.embedding_scale;
    backend_.embed(embed);

    for (int64_t l = 0; l < config_.layers; ++l) {
        attention_block(l, cache, batch);
        feed_forward_block(l, n_tokens);
    }

    const TensorView hidden = normed_.view(DType::f32, {n_tokens, config_.width});
    backend_.rms_norm({hidden, embed.dst, output_norm_, config_.norm_epsilon});
    return hidden;
}

void Model::multiply(const TensorView& y, const TensorView& weight, const TensorView& x) {
    backend_.matmul({y, weight, x, precision_.products});
}

void Model::attention_block(int64_t index, KvCache& cache, const KvBatch& batch) {
    const ModelLayer& layer = layers_[size_t(index)];
    const int64_t n_tokens = batch.cell.n[3];
    const TensorView x = normed_.view(DType::f32, {n_tokens, config_.width});
    backend_.rms_norm({x, residual_.view(DType::f32, {n_tokens, config_.width}),
                       layer.attention_norm, config_.norm_epsilon});
    const Heads heads = project(layer, x);

    // Head by head: norm, position. The rotation comes after both, in kv_store and attention.
    if (config_.architecture.qk_norm) {
        backend_.rms_norm({heads.q, heads.q, layer.q_norm, config_.norm_epsilon});
        backend_.rms_norm({heads.k, heads.k, layer.k_norm, config_.norm_epsilon});
    }
    const bool own_table = local_rope_table_.data() != nullptr && config_.local[size_t(index)];
    const RopeConfig& turn = rope(index);
    const TensorView table = (own_table ? local_rope_table_ : rope_table_)
                                 .view(DType::f32, {config_.context, turn.n_rot / 2, 2});
    backend_.rope({heads.q, heads.q, table, batch.position, turn.pairs});
    backend_.rope({heads.k, heads.k, table, batch.position, turn.pairs});

    const TensorView attended = store_and_attend(index, heads, cache, batch);
    const TensorView output = block_output_.view(DType::f32, {n_tokens, config_.width});
    multiply(output, layer.attention_output, attended);
    add_to_residual(output, layer.post_attention_norm);
}

// q, k and v of every token, side by side in one buffer, as heads.
Model::Heads Model::project(const ModelLayer& layer, const TensorView& x) {
    const int64_t n_tokens = x.n[2];
    const int64_t q_width = config_.heads * config_.d_k, k_width = config_.kv_heads * config_.d_k;
    const int64_t v_width = config_.kv_heads * config_.d_v;
    const TensorView qkv = qkv_.view(DType::f32, {n_tokens, q_width + k_width + v_width});
    const TensorView q = columns(qkv, 0, q_width), k = columns(qkv, q_width, k_width);
    const TensorView v = columns(qkv, q_width + k_width, v_width);
    if (config_.architecture.fused_qkv) {
        multiply(qkv, layer.qkv, x);
    } else {
        multiply(q, layer.q, x);
        multiply(k, layer.k, x);
        multiply(v, layer.v, x);
    }
    if (!layer.q_bias.empty()) backend_.add({q, q, repeated(layer.q_bias, n_tokens)});
    if (!layer.k_bias.empty()) backend_.add({k, k, repeated(layer.k_bias, n_tokens)});
    if (!layer.v_bias.empty()) backend_.add({v, v, repeated(layer.v_bias, n_tokens)});
    return {as_heads(q, config_.heads, config_.d_k), as_heads(k, config_.kv_heads, config_.d_k),
            as_heads(v, config_.kv_heads, config_.d_v)};
}

// Stores the batch first, then attends to nothing but the cache; [T][H Dv].
TensorView Model::store_and_attend(int64_t index, const Heads& heads, KvCache& cache,
                                   const KvBatch& batch) {
    const int64_t n_tokens = batch.cell.n[3];
    KvStoreArgs store;
    store.k_cache = cache.k(index);
    store.v_cache = cache.v(index);
    store.k = heads.k;
    store.v = heads.v;
    store.stream = batch.stream;
    store.cell = batch.cell;
    store.k_rotation = cache.spec().at(index, Side::k);
    store.v_rotation = cache.spec().at(index, Side::v);
    backend_.kv_store(store);

    AttentionArgs attention;
    attention.dst = attended_.view(DType::f32, {n_tokens, config_.heads, config_.d_v});
    attention.q = heads.q;
    attention.k_cache = store.k_cache;
    attention.v_cache = store.v_cache;
    attention.position = cache.positions();
    attention.used = cache.used();
    attention.q_stream = batch.stream;
    attention.q_position = batch.position;
    attention.scale = config_.attention_scale;
    attention.softcap = config_.attention_softcap;
    attention.window = config_.local[size_t(index)] ? config_.window : 0;
    attention.k_rotation = store.k_rotation;
    attention.v_rotation = store.v_rotation;
    attention.precision = precision_.attention;
    backend_.attention(attention);
    return attended_.view(DType::f32, {n_tokens, config_.heads * config_.d_v});
}

void Model::feed_forward_block(int64_t index, int64_t n_tokens) {
    const ModelLayer& layer = layers_[size_t(index)];
    const int64_t hidden = config_.feed_forward;
    const TensorView x = normed_.view(DType::f32, {n_tokens, config_.width});
    backend_.rms_norm({x, residual_.view(DType::f32, {n_tokens, config_.width}),
                       layer.feed_forward_norm, config_.norm_epsilon});

    const TensorView both = gate_up_.view(DType::f32, {n_tokens, 2 * hidden});
    const TensorView gate = columns(both, 0, hidden), up = columns(both, hidden, hidden);
    if (config_.architecture.fused_gate_up) {
        multiply(both, layer.gate_up, x);
    } else {
        multiply(gate, layer.gate, x);
        multiply(up, layer.up, x);
    }
    backend_.act_mul({gate, gate, up, config_.architecture.activation});

    const TensorView output = block_output_.view(DType::f32, {n_tokens, config_.width});
    multiply(output, layer.down, gate);
    add_to_residual(output, layer.post_feed_forward_norm);
}

// residual += norm(x), or x itself where the model has no norm there
void Model::add_to_residual(const TensorView& x, const TensorView& post_norm) {
    if (!post_norm.empty()) backend_.rms_norm({x, x, post_norm, config_.norm_epsilon});
    const TensorView residual = residual_.view(DType::f32, {x.n[2], config_.width});
    backend_.add({residual, residual, x});
}

// Makes room for a batch of `tokens`.
void Model::reserve(int64_t tokens) {
    if (tokens <= reserved_) return;
    const auto floats = [&](int64_t per_token) {
        return Buffer(backend_, size_t(tokens * per_token) * sizeof(float));
    };
    const int64_t kv_width = config_.kv_heads * (config_.d_k + config_.d_v);
    tokens_ = Buffer(backend_, size_t(tokens) * sizeof(int32_t));
    residual_ = floats(config_.width);
    normed_ = floats(config_.width);
    qkv_ = floats(config_.heads * config_.d_k + kv_width);
    attended_ = floats(config_.heads * config_.d_v);
    gate_up_ = floats(2 * config_.feed_forward);
    block_output_ = floats(config_.width);
    reserved_ = tokens;
}

}  // namespace rotkv
