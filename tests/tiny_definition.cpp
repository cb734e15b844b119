// The forward pass of small models in f64: blocks and attention.
#include "tests/tiny_definition.h"

#include <algorithm>
#include <cmath>
#include <complex>

namespace rotkv::test {

Numbers product(const std::vector<float>& w, const Numbers& x, const std::vector<float>* bias) {
    Numbers y(w.size() / x.size(), 0.0);
    for (size_t o = 0; o < y.size(); ++o) {
        for (size_t i = 0; i < x.size(); ++i) y[o] += double(w[o * x.size() + i]) * x[i];
        if (bias != nullptr) y[o] += double((*bias)[o]);
    }
    return y;
}

std::vector<Numbers> split(const Numbers& x, int64_t d) {
    std::vector<Numbers> heads;
    for (auto it = x.begin(); it != x.end(); it += d) heads.emplace_back(it, it + d);
    return heads;
}

static Numbers joined(const std::vector<Numbers>& heads) {
    Numbers row;
    for (const Numbers& head : heads) row.insert(row.end(), head.begin(), head.end());
    return row;
}

Definition::Definition(const TinyModel& model, int64_t first)
    : m_(model),
      memory_(size_t(TinyModel::layers)),
      states_(size_t(TinyModel::layers)),
      first_(first),
      position_(first) {}

Numbers Definition::next(int32_t token) {
    const std::vector<float>& table = m_.weights.at("token_embd.weight");
    Numbers x;
    for (int64_t i = 0; i < m_.width; ++i) {
        x.push_back(m_.embedding_scale * double(table[size_t(token * m_.width + i)]));
    }
    const std::vector<Numbers> inputs = per_layer_inputs(token, x);
    for (int64_t l = 0; l < TinyModel::layers; ++l) {
        const Numbers read = m_.pre_norms ? normed(x, weight(l, "attn_norm.weight")) : x;
        const Numbers mixed = m_.delta.here[size_t(l)] ? delta(l, read)
                              : m_.name == "deepseek2" ? latent(l, read)
                                                       : grouped(l, read);
        add_block(x, mixed, "post_attention_norm.weight", l);
        const Numbers then = m_.parallel    ? read
                             : m_.pre_norms ? normed(x, weight(l, m_.second_norm))
                                            : x;
        add_block(x, feed_forward(l, then, x), "post_ffw_norm.weight", l);
        if (!inputs.empty()) {
            const Numbers part = per_layer_part(l, x, inputs[size_t(l)]);
            for (size_t i = 0; i < x.size(); ++i) x[i] += part[i];
        }
        if (const auto* factor = optional(blk(l, "layer_output_scale.weight"))) {
            for (double& value : x) value *= double((*factor)[0]);
        }
    }
    ++position_;
    x = normed(x, m_.weights.at("output_norm.weight"));
    for (double& value : x) value *= m_.logit_scale;
    return x;
}

Numbers Definition::normed(Numbers x, const std::vector<float>& weight) const {
    double squares = 0, mean = 0;
    for (const double value : x) mean += m_.layer_norm ? value / double(x.size()) : 0;
    for (double& value : x) value -= mean;
    for (const double value : x) squares += value * value;
    const double root = std::sqrt(squares / double(x.size()) + TinyModel::epsilon);
    for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] / root * double(weight[i]);
    return x;
}

Numbers Definition::unit(const Numbers& x) const {
    return normed(x, std::vector<float>(x.size(), 1.0f));
}

void Definition::add_block(Numbers& x, Numbers y, const std::string& post_norm, int64_t l) const {
    if (m_.post_norms) y = normed(y, weight(l, post_norm));
    for (size_t i = 0; i < x.size(); ++i) x[i] += m_.residual_scale * y[i];
}

bool Definition::turns(int64_t l) const {
    if (m_.still > 0 && l % m_.still == m_.still - 1) return false;
    return m_.is_local(l) || !m_.only_local_turn;
}

// Pairs of the channels from `first` on as complex numbers times magnitude exp(i angle).
void Definition::turn(Numbers& x, int64_t l, int64_t first) const {
    const bool local = m_.is_local(l);
    const double base = local ? m_.local_base : m_.base;
    const size_t half = size_t(local && m_.local_n_rot > 0 ? m_.local_n_rot : m_.n_rot) / 2;
    for (size_t i = 0; i < half; ++i) {
        const size_t a = size_t(first) + (m_.neox ? i : 2 * i);
        const size_t b = m_.neox ? a + half : a + 1;
        double angle = double(position_) * std::pow(base, -double(i) / double(half));
        if (!m_.factors.empty() && !(local && m_.factors_on_full)) angle /= double(m_.factors[i]);
        const auto z = std::complex<double>(x[a], x[b]) * std::polar(m_.magnitude, angle);
        x[a] = z.real();
        x[b] = z.imag();
    }
}

// Norm and position of the heads of q or k.
void Definition::place(std::vector<Numbers>& heads, int64_t l, const std::string& name) const {
    const std::vector<float>* norm_weight = optional(blk(l, name));
    if (m_.qk_norm == "all") {
        heads = split(normed(joined(heads), *norm_weight), int64_t(heads[0].size()));
    }
    for (Numbers& head : heads) {
        if (m_.qk_norm == "head") head = normed(head, *norm_weight);
        if (turns(l)) turn(head, l, 0);
        if (m_.qk_norm == "turned") head = normed(head, *norm_weight);
        if (m_.qk_norm == "unit" && turns(l)) head = unit(head);
    }
}

// What queries are multiplied by.
double Definition::warmth(int64_t l) const {
    if (m_.still_tempered && turns(l)) return 1;
    const int64_t lengths = (position_ + m_.temperature_offset) / m_.temperature_length;
    return 1 + m_.temperature * std::log(1 + double(lengths));
}

// The layer whose keys and values this one reads: its own, or those of the last one of its kind
// that has some.
int64_t Definition::source(int64_t l) const {
    const int64_t own = TinyModel::layers - m_.shared_kv;
    if (l < own) return l;
    int64_t found = own - 1;
    while (m_.is_local(found) != m_.is_local(l)) --found;
    return found;
}

Numbers Definition::grouped(int64_t l, const Numbers& h) {
    const TinyHeads& shape = m_.heads[size_t(l)];
    std::vector<Numbers> q, gates;
    for (const Numbers& both :
         split(times(l, "attn_q", h), shape.d + (m_.query_gate ? shape.d_v : 0))) {
        q.emplace_back(both.begin(), both.begin() + shape.d);
        gates.emplace_back(both.begin() + shape.d, both.end());
    }
    place(q, l, "attn_q_norm.weight");
    for (Numbers& head : q) {
        for (double& value : head) value *= warmth(l);
    }
    if (source(l) == l) {
        const Numbers keys = times(l, "attn_k", h);
        const bool own_values = m_.has(blk(l, "attn_v.weight"));
        std::vector<Numbers> k = split(keys, shape.d);
        std::vector<Numbers> v = split(own_values ? times(l, "attn_v", h) : keys, shape.d_v);
        place(k, l, "attn_k_norm.weight");
        for (Numbers& head : v) {
            if (m_.unit_v) head = unit(head);
        }
        memory_[size_t(l)].push_back({k, v});
    }
    const double own = m_.attention_scale;
    std::vector<Numbers> attended = attend(l, q, own > 0 ? own : 1 / std::sqrt(double(shape.d)));
    for (size_t head = 0; head < attended.size() && m_.query_gate; ++head) {
        for (size_t i = 0; i < attended[head].size(); ++i) {
            attended[head][i] *= sigmoid(gates[head][i]);
        }
    }
    return times(l, "attn_output", joined(attended));
}

// The heads of q over the positions that they see.
std::vector<Numbers> Definition::attend(int64_t l, const std::vector<Numbers>& q,
                                        double scale) const {
    const std::vector<Remembered>& past = memory_[size_t(source(l))];
    int64_t oldest = 0;
    if (m_.is_local(l)) {
        oldest = m_.chunked ? position_ / m_.window * m_.window : position_ - m_.window + 1;
    }
    const size_t from = size_t(std::max<int64_t>(0, oldest - first_));
    const std::vector<float>* sinks = optional(blk(l, "attn_sinks.weight"));
    const size_t group = q.size() / past[0].k.size();
    std::vector<Numbers> attended;
    for (size_t head = 0; head < q.size(); ++head) {
        const float* sink = sinks == nullptr ? nullptr : &(*sinks)[head];
        attended.push_back(mix(q[head], past, from, head / group, scale, sink));
    }
    return attended;
}

// softmax(scale q . k) v over the positions from `from` on; a sink takes a part and has no value.
Numbers Definition::mix(const Numbers& q, const std::vector<Remembered>& past, size_t from,
                        size_t kv, double scale, const float* sink) const {
    Numbers sum(past[0].v[kv].size(), 0.0);
    double total = sink == nullptr ? 0 : std::exp(double(*sink));
    for (size_t s = from; s < past.size(); ++s) {
        double score = 0;
        for (size_t i = 0; i < q.size(); ++i) score += q[i] * past[s].k[kv][i];
        score *= scale;
        const double cap = m_.attention_softcap;
        if (cap > 0) score = cap * std::tanh(score / cap);
        total += std::exp(score);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::exp(score) * past[s].v[kv][i];
    }
    for (double& value : sum) value /= total;
    return sum;
}

std::vector<double> TinyModel::forward(const std::vector<int32_t>& tokens, int64_t first) const {
    Definition definition(*this, first);
    Numbers result;
    for (const int32_t token : tokens) {
        const Numbers hidden = definition.next(token);
        result.insert(result.end(), hidden.begin(), hidden.end());
    }
    return result;
}

}  // namespace rotkv::test
