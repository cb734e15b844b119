// The forward pass of small models in f64: what stands in for keys and values of heads.
#include "tests/tiny_definition.h"

#include <algorithm>
#include <cmath>

namespace rotkv::test {

// Keys and values of every head, whether the file has matrices for them or for what absorbs them:
//   k_h = [W_k,h latent | turned], v_h = W_v,h latent
Numbers Definition::latent(int64_t l, const Numbers& h) {
    const TinyLatent& shape = m_.latent;
    const int64_t heads = m_.heads[size_t(l)].q, rank = shape.rank, still = shape.still;
    const int64_t d = still + shape.turning;
    Numbers queries;
    if (m_.has(blk(l, "attn_q_a.weight"))) {
        const Numbers low = normed(times(l, "attn_q_a", h), weight(l, "attn_q_a_norm.weight"));
        queries = times(l, "attn_q_b", low);
    } else {
        queries = times(l, "attn_q", h);
    }
    std::vector<Numbers> q = split(queries, d);
    for (Numbers& head : q) {
        turn(head, l, still);
        for (double& value : head) value *= warmth(l);
    }
    const Numbers row = times(l, "attn_kv_a_mqa", h);
    const Numbers low =
        normed({row.begin(), row.begin() + rank}, weight(l, "attn_kv_a_norm.weight"));
    Numbers turned(row.begin() + rank, row.end());
    turn(turned, l, 0);

    const bool absorbed = m_.has(blk(l, "attn_k_b.weight"));
    const std::vector<float>& both = weight(l, absorbed ? "attn_k_b.weight" : "attn_kv_b.weight");
    Remembered now;
    for (int64_t head = 0; head < heads; ++head) {
        Numbers k(static_cast<size_t>(still), 0.0), v(static_cast<size_t>(shape.d_v), 0.0);
        for (int64_t r = 0; r < rank; ++r) {
            for (int64_t i = 0; i < still; ++i) {
                const int64_t of_key = absorbed ? (head * rank + r) * still + i
                                                : (head * (still + shape.d_v) + i) * rank + r;
                k[size_t(i)] += double(both[size_t(of_key)]) * low[size_t(r)];
            }
            for (int64_t i = 0; i < shape.d_v; ++i) {
                const float w =
                    absorbed
                        ? weight(l, "attn_v_b.weight")[size_t((head * shape.d_v + i) * rank + r)]
                        : both[size_t((head * (still + shape.d_v) + still + i) * rank + r)];
                v[size_t(i)] += double(w) * low[size_t(r)];
            }
        }
        k.insert(k.end(), turned.begin(), turned.end());
        now.k.push_back(k);
        now.v.push_back(v);
    }
    memory_[size_t(l)].push_back(now);
    Numbers all;
    for (const Numbers& head : attend(l, q, 1 / std::sqrt(double(d)))) {
        all.insert(all.end(), head.begin(), head.end());
    }
    return times(l, "attn_output", all);
}

// x / sqrt(sum(x^2) + epsilon)
static Numbers of_length_1(const Numbers& x) {
    double squares = TinyModel::epsilon;
    for (const double value : x) squares += value * value;
    Numbers y;
    for (const double value : x) y.push_back(value / std::sqrt(squares));
    return y;
}

// M <- e^g M, M <- M + beta (v - M k) k^T, o = M q / sqrt(d): the rows of M one by one.
static Numbers delta_step(Numbers& m, double keep, double beta, const Numbers& q, const Numbers& k,
                          const Numbers& v) {
    const size_t d = q.size();
    Numbers o(d, 0.0);
    for (size_t i = 0; i < d; ++i) {
        double found = 0;
        for (size_t j = 0; j < d; ++j) {
            m[i * d + j] *= keep;
            found += m[i * d + j] * k[j];
        }
        for (size_t j = 0; j < d; ++j) {
            m[i * d + j] += beta * (v[i] - found) * k[j];
            o[i] += m[i * d + j] * q[j] / std::sqrt(double(d));
        }
    }
    return o;
}

Numbers Definition::delta(int64_t l, const Numbers& h) {
    const TinyDelta& shape = m_.delta;
    const size_t heads = size_t(shape.heads), keys = size_t(shape.key_heads);
    const size_t each = heads / keys, d = size_t(shape.d), taps = size_t(shape.taps);
    State& state = states_[size_t(l)];
    if (state.matrices.empty()) state.matrices.assign(heads, Numbers(d * d, 0.0));

    state.inputs.push_back(times(l, "attn_qkv", h));
    const std::vector<float>& w = weight(l, "ssm_conv1d.weight");
    Numbers mixed(size_t(shape.channels()), 0.0);
    for (size_t c = 0; c < mixed.size(); ++c) {
        for (size_t back = 0; back < std::min(taps, state.inputs.size()); ++back) {
            mixed[c] += double(w[c * taps + taps - 1 - back]) *
                        state.inputs[state.inputs.size() - 1 - back][c];
        }
        mixed[c] = silu(mixed[c]);
    }
    const std::vector<Numbers> parts = split(mixed, shape.d);  // heads of q, of k, of v
    const std::vector<Numbers> z = split(times(l, "attn_gate", h), shape.d);
    Numbers output;
    for (size_t head = 0; head < heads; ++head) {
        const size_t of = shape.grouped ? head / each : head % keys;
        double beta, alpha;
        if (shape.grouped) {  // each key head: its heads' betas, then their alphas
            const Numbers both = times(l, "ssm_ba", h);
            beta = both[of * 2 * each + head % each];
            alpha = both[of * 2 * each + each + head % each];
        } else {
            beta = times(l, "ssm_beta", h)[head];
            alpha = times(l, "ssm_alpha", h)[head];
        }
        const double x = alpha + double(weight(l, "ssm_dt.bias")[head]);
        const double g = double(weight(l, "ssm_a")[head]) * std::log(1 + std::exp(x));
        const Numbers o =
            delta_step(state.matrices[head], std::exp(g), sigmoid(beta), of_length_1(parts[of]),
                       of_length_1(parts[keys + of]), parts[2 * keys + head]);
        const Numbers y = normed(o, weight(l, "ssm_norm.weight"));
        for (size_t i = 0; i < d; ++i) output.push_back(y[i] * silu(z[head][i]));
    }
    return times(l, "ssm_out", output);
}

}  // namespace rotkv::test
