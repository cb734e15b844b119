// Attention of one layer: queries, keys and values of heads, their norms and positions, the cache.
#include "ref/activations.h"
#include "ref/model.h"

#include <initializer_list>

namespace rotkv {

// residual += W_o attention(q, k, v), with q [T][H][Dk], k [T][K][Dk], v [T][K][Dv] of the normed
// residual; or W_o of what delta layers have instead.
void Model::attention_block(KvCache& cache, const KvBatch& batch) {
    const int64_t n_tokens = batch.cell.n[3];
    const TensorView x = block_input(layer().attention_norm, n_tokens);
    const bool attends = plan().kind != LayerKind::delta;
    const TensorView mixed = attends ? attention(x, cache, batch) : delta(x, cache, batch);

    const TensorView output = block_output_.view(DType::f32, {n_tokens, config_.width});
    multiply(output, attends ? layer().attention_output : layer().delta.output, mixed);
    add_bias(output, layer().attention_output_bias);
    add_to_residual(output, layer().post_attention_norm);
}

// [T][H Dv]
TensorView Model::attention(const TensorView& x, KvCache& cache, const KvBatch& batch) {
    const bool latent = plan().kind == LayerKind::latent;
    const Heads heads = latent ? project_latent(x, batch.position) : project(x, batch.position);
    if (plan().tempered) {
        step(ScaleArgs{.dst = heads.q,
                       .src = heads.q,
                       .factor = temperature_.view(DType::f32, {config_.context}),
                       .row = batch.position});
    }
    // The rotation comes after norm and position: in kv_store and attention, or by a matrix around
    // them.
    const TensorView attended = store_and_attend(heads, cache, batch);
    if (!heads.gate.empty()) {
        step(ActMulArgs{.dst = attended,
                        .gate = heads.gate,
                        .up = attended,
                        .activation = Activation::sigmoid});
    }
    return as_row(latent && config_.latent.absorbed ? latent_output(attended) : attended);
}

// q, k and v of every token, side by side in one buffer, as heads: their products and biases. A
// query head may be twice as wide: q, then the gate of its output.
Model::Heads Model::products(const TensorView& x) {
    const LayerPlan& shape = plan();
    const bool gated = config_.architecture.query_gate;
    const int64_t q_step = shape.d_k + (gated ? shape.d_v : 0), q_width = shape.heads * q_step;
    const int64_t k_width = shape.kv_heads * shape.d_k, v_width = shape.kv_heads * shape.d_v;
    const TensorView qkv = projected_.view(DType::f32, {x.n[2], q_width + k_width + v_width});
    const TensorView q = columns(qkv, 0, q_width), k = columns(qkv, q_width, k_width);
    const TensorView v = columns(qkv, q_width + k_width, v_width);
    Heads heads{.q = as_heads(q, shape.heads, shape.d_k, q_step), .k = {}, .v = {}, .gate = {}};
    if (gated) {
        const TensorView gate = columns(q, shape.d_k, q_width - shape.d_k);
        heads.gate = as_heads(gate, shape.heads, shape.d_v, q_step);
    }
    if (!layer().qkv.empty()) {
        multiply(qkv, layer().qkv, x);
    } else {
        multiply(q, layer().q, x);
    }
    if (!shape.source) {  // else keys and values are that layer's
        heads.k = as_heads(k, shape.kv_heads, shape.d_k);
        heads.v = as_heads(v, shape.kv_heads, shape.d_v);
        if (!layer().k.empty()) multiply(k, layer().k, x);
        if (!layer().v.empty()) multiply(v, layer().v, x);
    }
    add_bias(qkv, layer().qkv_bias);
    add_bias(q, layer().q_bias);
    if (shape.source) return heads;

    add_bias(k, layer().k_bias);
    add_bias(v, layer().v_bias);
    // keys_as_values: K before its norm and position, which V does not get.
    if (layer().v.empty() && layer().qkv.empty()) copy(heads.v, heads.k);
    return heads;
}

// The heads with their norms and positions.
Model::Heads Model::project(const TensorView& x, const TensorView& position) {
    const Heads heads = products(x);
    if (config_.architecture.unit_v && !heads.v.empty()) normalize_to_unit(heads.v);
    const QkNorm norm = config_.architecture.qk_norm;
    const bool turns = plan().rope != LayerRope::none;
    if (norm == QkNorm::heads || norm == QkNorm::all_heads) norm_heads(heads);
    for (const TensorView& turned : {heads.q, heads.k}) {
        if (turns && !turned.empty()) apply_rope(turned, turned, position);
    }
    if (norm == QkNorm::turned_heads) norm_heads(heads);
    if (norm == QkNorm::unit_turned && turns) {
        normalize_to_unit(heads.q);
        normalize_to_unit(heads.k);
    }
    return heads;
}

// q and k, each head by itself, or all heads of a token as one row.
void Model::norm_heads(const Heads& heads) {
    const bool as_one = config_.architecture.qk_norm == QkNorm::all_heads;
    const auto norm = [&](const TensorView& of, const TensorView& weight) {
        if (of.empty() || weight.empty()) return;
        const TensorView rows = as_one ? as_row(of) : of;
        normalize(rows, rows, weight);
    };
    norm(heads.q, layer().q_norm);
    norm(heads.k, layer().k_norm);
}

// Heads by their positions.
void Model::apply_rope(const TensorView& to, const TensorView& from, const TensorView& position) {
    const RopeConfig& rope = this->rope(layer_);
    const bool local = plan().rope == LayerRope::local && local_rope_table_.data() != nullptr;
    const Buffer& table = local ? local_rope_table_ : rope_table_;
    step(RopeArgs{.dst = to,
                  .src = from,
                  .table = table.view(DType::f32, {config_.context, rope.n_rot / 2, 2}),
                  .row = position,
                  .pairs = rope.pairs});
}

// x = M x, or back, where a matrix turns that side of the layer.
void Model::turn(const TensorView& x, const TensorView& matrix, bool inverse) {
    if (matrix.empty() || x.empty()) return;
    step(TurnArgs{.dst = x, .src = x, .matrix = matrix, .inverse = inverse});
}

// Keys and values of the batch, into one kind of a layer's rows.
void Model::store(const Heads& heads, const KvRows& rows, const KvCache& cache,
                  const KvBatch& batch) {
    const bool main = rows.k.data == cache.k(layer_).data;
    const bool main_v = rows.v.data == cache.v(layer_).data;
    step(KvStoreArgs{.k_cache = rows.k,
                     .v_cache = heads.v.empty() ? TensorView() : rows.v,
                     .k = heads.k,
                     .v = heads.v,
                     .stream = batch.stream,
                     .cell = batch.cell,
                     .k_rotation = rows.k_rotation,
                     .v_rotation = heads.v.empty() ? Rotation() : rows.v_rotation,
                     .k_format = main ? cache.format_rows(layer_, Side::k) : FormatRows(),
                     .v_format = main_v ? cache.format_rows(layer_, Side::v) : FormatRows(),
                     .position = batch.position});
}

// Stores the batch first, then attends to nothing but the cache; [T][H][Dv].
TensorView Model::store_and_attend(const Heads& heads, KvCache& cache, const KvBatch& batch) {
    const LayerPlan& shape = plan();
    const KvRows rows{cache.k(layer_), cache.v(layer_), cache.spec().at(layer_, Side::k),
                      cache.spec().at(layer_, Side::v)};
    const KvRows f16 = cache.f16_rows(layer_);  // none where a matrix turns the others
    const TensorView k_matrix = cache.matrix(layer_, Side::k);
    const TensorView v_matrix = cache.matrix(layer_, Side::v);
    turn(heads.q, k_matrix, false);
    if (!shape.source) {
        turn(heads.k, k_matrix, false);
        turn(heads.v, v_matrix, false);
        store(heads, rows, cache, batch);
        if (!f16.k.empty()) store(heads, f16, cache, batch);
    }
    const TensorView attended =
        attended_.view(DType::f32, {batch.cell.n[3], shape.heads, shape.d_v});
    const AttentionArgs whole{.dst = attended,
                              .q = heads.q,
                              .k_cache = rows.k,
                              .v_cache = rows.v,
                              .position = cache.positions(),
                              .used = cache.used(),
                              .q_stream = batch.stream,
                              .q_position = batch.position,
                              .sinks = layer().sinks,
                              .scale = config_.attention_scale,
                              .softcap = config_.attention_softcap,
                              .window = shape.window,
                              .chunked = config_.architecture.chunked,
                              .k_rotation = rows.k_rotation,
                              .v_rotation = rows.v_rotation,
                              .precision = options_.precision.attention};
    if (f16.k.empty()) {
        step(whole);
    } else {
        attend_in_parts(whole, f16, cache.shape().f16_tokens);
    }
    turn(attended, v_matrix, true);
    return attended;
}

// The same over three kinds of tokens that share out the cells: the first and the recent ones, by
// their rows in f16, and the rest. Outputs are turned back before they are merged. A learned sink
// is the rest's.
void Model::attend_in_parts(const AttentionArgs& whole, const KvRows& f16,
                            const F16Tokens& tokens) {
    const int64_t n_tokens = whole.dst.n[1], heads = whole.dst.n[2];
    const std::size_t floats = std::size_t(n_tokens * heads) * sizeof(float);
    if (part_lse_.bytes() < 2 * floats || part_.bytes() < attended_.bytes()) {
        part_ = Buffer(backend(), attended_.bytes());
        part_lse_ = Buffer(backend(), 2 * floats);
    }
    AttentionArgs rest = whole;
    rest.lse = view(part_lse_.data(), DType::f32, {n_tokens, heads});
    rest.bounds = {.position = {.from = tokens.first}, .distance = {.from = tokens.recent}};
    step(rest);

    AttentionArgs part = whole;
    part.dst = part_.view(DType::f32, {n_tokens, heads, whole.dst.n[3]});
    part.lse = view(part_lse_.data() + floats, DType::f32, {n_tokens, heads});
    part.sinks = {};
    part.k_cache = f16.k;
    part.v_cache = f16.v;
    part.k_rotation = f16.k_rotation;
    part.v_rotation = f16.v_rotation;
    const CellBounds first{.position = {.to = tokens.first}, .distance = {}};
    const CellBounds recent{.position = {.from = tokens.first}, .distance = {.to = tokens.recent}};
    for (const CellBounds& bounds : {first, recent}) {
        if (bounds.position.to == 0 || bounds.distance.to == 0) continue;
        part.bounds = bounds;
        step(part);
        step(MergeArgs{.dst = rest.dst,
                       .lse = rest.lse,
                       .a = rest.dst,
                       .b = part.dst,
                       .lse_a = rest.lse,
                       .lse_b = part.lse});
    }
}

}  // namespace rotkv
