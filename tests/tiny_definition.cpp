// The forward pass of small models, written down in f64 from the definitions.
#include "tests/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <complex>

namespace rotkv::test {

namespace {

using Vector = std::vector<double>;

// y = W x (+ b)
Vector product(const std::vector<float>& w, const Vector& x, const std::vector<float>* bias) {
    Vector y(w.size() / x.size(), 0.0);
    for (size_t o = 0; o < y.size(); ++o) {
        for (size_t i = 0; i < x.size(); ++i) y[o] += double(w[o * x.size() + i]) * x[i];
        if (bias != nullptr) y[o] += double((*bias)[o]);
    }
    return y;
}

Vector norm(Vector x, const std::vector<float>& weight, bool of_layer) {
    double squares = 0, mean = 0;
    for (const double value : x) mean += of_layer ? value / double(x.size()) : 0;
    for (double& value : x) value -= mean;
    for (const double value : x) squares += value * value;
    const double root = std::sqrt(squares / double(x.size()) + 1e-6);
    for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] / root * double(weight[i]);
    return x;
}

// One position of one layer, as later positions see it.
struct Remembered {
    std::vector<Vector> k, v;  // [kv head][d]
};

std::vector<Vector> split(const Vector& x, int64_t d) {
    std::vector<Vector> heads;
    for (auto it = x.begin(); it != x.end(); it += d) heads.emplace_back(it, it + d);
    return heads;
}

// The forward pass of one model, token after token.
class Definition {
  public:
    explicit Definition(const TinyModel& model)
        : m_(model), memory_(static_cast<size_t>(TinyModel::layers)) {}

    Vector next(int32_t token) {
        const std::vector<float>& table = weight("token_embd.weight");
        Vector x;
        for (int64_t i = 0; i < TinyModel::width; ++i) {
            x.push_back(m_.embedding_scale * double(table[size_t(token * TinyModel::width + i)]));
        }
        for (int64_t l = 0; l < TinyModel::layers; ++l) {
            const Vector read = m_.pre_norms ? normed(x, blk(l, "attn_norm.weight")) : x;
            add_block(x, attention(l, read), blk(l, "post_attention_norm.weight"));
            const Vector then = m_.parallel    ? read
                                : m_.pre_norms ? normed(x, blk(l, "ffn_norm.weight"))
                                               : x;
            add_block(x, feed_forward(l, then), blk(l, "post_ffw_norm.weight"));
        }
        ++position_;
        x = normed(x, "output_norm.weight");
        for (double& value : x) value *= m_.logit_scale;
        return x;
    }

  private:
    const std::vector<float>& weight(const std::string& tensor) const {
        return m_.weights.at(tensor);
    }
    const std::vector<float>* optional(const std::string& tensor) const {
        return m_.weights.count(tensor) != 0 ? &m_.weights.at(tensor) : nullptr;
    }

    Vector normed(const Vector& x, const std::string& tensor) const {
        return norm(x, weight(tensor), m_.layer_norm);
    }
    void add_block(Vector& x, Vector y, const std::string& post_norm) const {
        if (m_.post_norms) y = normed(y, post_norm);
        for (size_t i = 0; i < x.size(); ++i) x[i] += m_.residual_scale * y[i];
    }

    // The heads of q, k or v.
    std::vector<Vector> project(int64_t l, const std::string& which, const Vector& h) const {
        return split(product(weight(blk(l, "attn_" + which + ".weight")), h,
                             optional(blk(l, "attn_" + which + ".bias"))),
                     which == "v" ? m_.d_v : TinyModel::d);
    }

    // Norm and position of the heads of q or k.
    void place(std::vector<Vector>& heads, int64_t l, const std::string& norm_weight) const {
        if (m_.qk_norm == "all") {
            Vector row;
            for (const Vector& head : heads) row.insert(row.end(), head.begin(), head.end());
            heads = split(normed(row, norm_weight), TinyModel::d);
        }
        for (Vector& head : heads) {
            if (m_.qk_norm == "head") head = normed(head, norm_weight);
            if (turns(l)) turn(head, l);
            if (m_.qk_norm == "turned") head = normed(head, norm_weight);
        }
    }

    bool turns(int64_t l) const {
        if (m_.still > 0 && l % m_.still == m_.still - 1) return false;
        return is_local(l) || !m_.only_local_turn;
    }

    // Pairs as complex numbers times magnitude exp(i angle).
    void turn(Vector& x, int64_t l) const {
        const double base = is_local(l) ? m_.local_base : m_.base;
        const size_t half = size_t(m_.n_rot / 2);
        for (size_t i = 0; i < half; ++i) {
            const size_t a = m_.neox ? i : 2 * i, b = m_.neox ? i + half : 2 * i + 1;
            double angle = double(position_) * std::pow(base, -double(i) / double(half));
            if (!m_.factors.empty()) angle /= double(m_.factors[i]);
            const auto z = std::complex<double>(x[a], x[b]) * std::polar(m_.magnitude, angle);
            x[a] = z.real();
            x[b] = z.imag();
        }
    }

    bool is_local(int64_t l) const { return m_.pattern > 0 && l % m_.pattern < m_.pattern - 1; }

    Vector attention(int64_t l, const Vector& h) {
        std::vector<Vector> q = project(l, "q", h), k = project(l, "k", h);
        place(q, l, blk(l, "attn_q_norm.weight"));
        place(k, l, blk(l, "attn_k_norm.weight"));
        const double lengths = double(position_ / TinyModel::temperature_length);
        for (Vector& head : q) {
            for (double& value : head) value *= 1 + m_.temperature * std::log(1 + lengths);
        }
        std::vector<Remembered>& past = memory_[size_t(l)];
        past.push_back({k, project(l, "v", h)});

        const size_t window = is_local(l) ? size_t(TinyModel::window) : past.size();
        const size_t from = past.size() - std::min(window, past.size());
        Vector attended;
        for (size_t head = 0; head < q.size(); ++head) {
            const Vector sum = mix(q[head], past, from, head / 2);
            attended.insert(attended.end(), sum.begin(), sum.end());
        }
        return product(weight(blk(l, "attn_output.weight")), attended,
                       optional(blk(l, "attn_output.bias")));
    }

    // softmax(scale q . k) v over the positions from `from` on.
    Vector mix(const Vector& q, const std::vector<Remembered>& past, size_t from, size_t kv) const {
        Vector sum(static_cast<size_t>(m_.d_v), 0.0);
        double total = 0;
        for (size_t s = from; s < past.size(); ++s) {
            double score = 0;
            for (size_t i = 0; i < q.size(); ++i) score += q[i] * past[s].k[kv][i];
            score *= m_.attention_scale > 0 ? m_.attention_scale : 1 / std::sqrt(double(q.size()));
            const double cap = m_.attention_softcap;
            if (cap > 0) score = cap * std::tanh(score / cap);
            total += std::exp(score);
            for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::exp(score) * past[s].v[kv][i];
        }
        for (double& value : sum) value /= total;
        return sum;
    }

    Vector feed_forward(int64_t l, const Vector& h) const {
        Vector gate =
            product(weight(blk(l, "ffn_gate.weight")), h, optional(blk(l, "ffn_gate.bias")));
        const Vector up =
            product(weight(blk(l, "ffn_up.weight")), h, optional(blk(l, "ffn_up.bias")));
        for (size_t i = 0; i < gate.size(); ++i) {
            const double z = gate[i];
            const double inner = std::sqrt(2 / std::acos(-1.0)) * (z + 0.044715 * z * z * z);
            gate[i] = (m_.gelu ? z / 2 * (1 + std::tanh(inner)) : z / (1 + std::exp(-z))) * up[i];
        }
        return product(weight(blk(l, "ffn_down.weight")), gate, optional(blk(l, "ffn_down.bias")));
    }

    const TinyModel& m_;
    std::vector<std::vector<Remembered>> memory_;  // [layer][position]
    int64_t position_ = 0;
};

}  // namespace

std::vector<double> TinyModel::forward(const std::vector<int32_t>& tokens) const {
    Definition definition(*this);
    Vector result;
    for (const int32_t token : tokens) {
        const Vector hidden = definition.next(token);
        result.insert(result.end(), hidden.begin(), hidden.end());
    }
    return result;
}

}  // namespace rotkv::test
