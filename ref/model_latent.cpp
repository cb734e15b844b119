// Latent attention (MLA): what a token leaves is one row [latent | turning channels], from which
// each head's keys W_k latent and values W_v latent follow.
//   q . W_k latent = (W_k^T q) . latent,   sum p W_v latent = W_v (sum p latent)
// so that W_k and W_v, absorbed, meet queries and outputs, and attention reads the row as it is:
// its key for all heads, the latent in it the value. With a rotation it is the row that turns, and
// W_v gets the latent turned back with K's blocks.
#include "ref/activations.h"
#include "ref/model.h"

namespace rotkv {

// Matrices of heads are experts that every token has: id[t][h] = h.
static TensorView every_head(const Buffer& heads, int64_t tokens, int64_t count) {
    return repeated(heads.view(DType::i32, {count}), tokens);
}

// q [T][H][R + n_rot], k [T][1][R + n_rot], absorbed; else those of every head, and v.
Model::Heads Model::project_latent(const TensorView& x, const TensorView& position) {
    const LatentConfig& latent = config_.latent;
    const int64_t n_tokens = x.n[2], heads = plan().heads, still = latent.still;
    const int64_t turning = latent.turning, d = still + turning, row = latent.rank + turning;
    ColumnsOf parts(projected_.view(DType::f32, {n_tokens, latent.projected(heads)}));

    const TensorView q = as_heads(parts.next(heads * d), heads, d);
    if (latent.query_rank > 0) {
        const TensorView query = parts.next(latent.query_rank);
        multiply(query, layer().latent.query_down, x);
        normalize(query, query, layer().latent.query_norm);
        multiply(as_row(q), layer().latent.query_up, query);
    } else {
        multiply(as_row(q), layer().q, x);
    }
    const TensorView kv = parts.next(row), low = columns(kv, 0, latent.rank);
    multiply(kv, layer().latent.down, x);
    normalize(low, low, layer().latent.norm);
    const TensorView k_rope = columns(kv, latent.rank, turning);  // of all heads

    if (latent.absorbed) {
        const TensorView wide = as_heads(parts.next(heads * row), heads, row);
        step(ExpertMatmulArgs{.dst = columns(wide, 0, latent.rank),
                              .weight = layer().latent.key_up,
                              .src = columns(q, 0, still),
                              .id = every_head(heads_, n_tokens, heads),
                              .precision = options_.precision.products});
        apply_rope(columns(wide, latent.rank, turning), columns(q, still, turning), position);
        apply_rope(for_each_of(k_rope, 1), for_each_of(k_rope, 1), position);
        return {.q = wide, .k = as_heads(kv, 1, row), .v = {}, .gate = {}};
    }
    const int64_t step_kv = still + latent.d_v;
    const TensorView each = as_heads(parts.next(heads * step_kv), heads, step_kv);
    const TensorView k = as_heads(parts.next(heads * d), heads, d);
    multiply(as_row(each), layer().latent.key_value_up, low);
    copy(columns(k, 0, still), columns(each, 0, still));
    apply_rope(columns(k, still, turning), for_each_of(k_rope, heads), position);
    apply_rope(columns(q, still, turning), columns(q, still, turning), position);
    return {.q = q, .k = k, .v = columns(each, still, latent.d_v), .gate = {}};
}

// From the latent of each head, turned back, to its values' channels, [T][H][Dv].
TensorView Model::latent_output(const TensorView& attended) {
    const int64_t n_tokens = attended.n[1], heads = attended.n[2], d_v = config_.latent.d_v;
    const TensorView output = latent_values_.view(DType::f32, {n_tokens, heads, d_v});
    step(ExpertMatmulArgs{.dst = output,
                          .weight = layer().latent.value_up,
                          .src = attended,
                          .id = every_head(heads_, n_tokens, heads),
                          .precision = options_.precision.products});
    return output;
}

}  // namespace rotkv
