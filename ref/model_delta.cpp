// Gated DeltaNet: a layer that keeps a state of fixed size in place of keys and values. Its input
// becomes q, k, v of heads by a product and a short convolution along the text, both kept in the
// cache's recurrent state; nothing of it is rotated or quantized.
#include "ref/activations.h"
#include "ref/model.h"

namespace rotkv {

// beta and alpha, [T][Hv] each. In one matrix, each key head has the rows of its value heads' beta,
// then of their alpha.
void Model::split_gates(const TensorView& x, const TensorView& beta, const TensorView& alpha,
                        const TensorView& both) {
    const DeltaWeights& weights = layer().delta;
    if (weights.beta_alpha.empty()) {
        multiply(beta, weights.beta, x);
        return multiply(alpha, weights.alpha, x);
    }
    const int64_t key_heads = config_.delta.key_heads, each = config_.delta.heads / key_heads;
    multiply(both, weights.beta_alpha, x);
    copy(as_heads(beta, key_heads, each), as_heads(both, key_heads, each, 2 * each));
    copy(as_heads(alpha, key_heads, each),
         as_heads(columns(both, each, both.n[3] - each), key_heads, each, 2 * each));
}

// The output of the heads, normed and gated, [T][Hv D].
TensorView Model::delta(const TensorView& x, const KvCache& cache, const KvBatch& batch) {
    const DeltaConfig& shape = config_.delta;
    const DeltaWeights& weights = layer().delta;
    const RecurrentState& state = *cache.state();
    const int64_t n_tokens = x.n[2], values = shape.heads * shape.d;
    const int64_t keys = shape.key_heads * shape.d;
    ColumnsOf parts(projected_.view(DType::f32, {n_tokens, shape.projected()}));
    const TensorView qkv = parts.next(shape.channels()), gate = parts.next(values);
    const TensorView beta = parts.next(shape.heads), alpha = parts.next(shape.heads);
    multiply(qkv, weights.qkv, x);
    multiply(gate, weights.gate, x);
    split_gates(x, beta, alpha, parts.next(2 * shape.heads));

    step(ConvStepArgs{.dst = qkv,
                      .src = qkv,
                      .weight = weights.convolution,
                      .state = state.inputs(layer_),
                      .stream = batch.stream});
    const TensorView q = as_heads(columns(qkv, 0, keys), shape.key_heads, shape.d);
    const TensorView k = as_heads(columns(qkv, keys, keys), shape.key_heads, shape.d);
    const TensorView v = as_heads(columns(qkv, 2 * keys, values), shape.heads, shape.d);
    for (const TensorView& heads : {q, k}) {  // x / sqrt(sum(x^2) + epsilon)
        step(RmsNormArgs{.dst = heads,
                         .src = heads,
                         .weight = unit_.view(DType::f32, {shape.d}),
                         .epsilon = config_.norm_epsilon / float(shape.d)});
    }
    step(DeltaStepArgs{.dst = v,
                       .q = q,
                       .k = k,
                       .v = v,
                       .alpha = alpha,
                       .beta = beta,
                       .decay = weights.decay,
                       .dt = weights.dt,
                       .state = state.matrices(layer_),
                       .stream = batch.stream,
                       .key_heads = config_.architecture.key_heads});
    normalize(v, v, weights.norm);
    const TensorView output = as_row(v);
    step(ActMulArgs{.dst = output, .gate = gate, .up = output, .activation = Activation::silu});
    return output;
}

}  // namespace rotkv
