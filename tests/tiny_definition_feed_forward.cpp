// The forward pass of small models in f64: what a layer does to a token by itself.
#include "tests/tiny_definition.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace rotkv::test {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double gelu(double x) {
    return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

Numbers Definition::activated(const Numbers& gate, const Numbers& up) const {
    Numbers y;
    for (size_t i = 0; i < gate.size(); ++i) {
        if (m_.activation == "oai") {
            const double g = std::min(gate[i], 7.0), u = std::clamp(up[i], -7.0, 7.0);
            y.push_back(g * sigmoid(1.702 * g) * (u + 1));
        } else {
            y.push_back((m_.activation == "gelu" ? gelu(gate[i]) : silu(gate[i])) * up[i]);
        }
    }
    return y;
}

Numbers Definition::dense(int64_t l, const Numbers& h, const std::string& suffix) const {
    const Numbers gate = times(l, "ffn_gate" + suffix, h), up = times(l, "ffn_up" + suffix, h);
    return times(l, "ffn_down" + suffix, activated(gate, up));
}

// What is added for one token: h is the normed stream.
Numbers Definition::feed_forward(int64_t l, const Numbers& h, const Numbers& stream) const {
    if (!m_.has(blk(l, "ffn_gate_inp.weight"))) return dense(l, h, "");
    if (!m_.experts.beside_dense) {
        Numbers y = experts(l, h, h);
        if (!m_.has(blk(l, "ffn_up_shexp.weight"))) return y;
        const Numbers shared = shared_expert(l, h);
        for (size_t i = 0; i < y.size(); ++i) y[i] += shared[i];
        return y;
    }
    Numbers y = normed(dense(l, h, ""), weight(l, "post_ffw_norm_1.weight"));
    Numbers asked = unit(stream);
    for (size_t i = 0; i < asked.size(); ++i) {
        asked[i] *= double(weight(l, "ffn_gate_inp.scale")[i]) / std::sqrt(double(m_.width));
    }
    const Numbers read = normed(stream, weight(l, "pre_ffw_norm_2.weight"));
    const Numbers routed = normed(experts(l, read, asked), weight(l, "post_ffw_norm_2.weight"));
    for (size_t i = 0; i < y.size(); ++i) y[i] += routed[i];
    return y;
}

Numbers Definition::shared_expert(int64_t l, const Numbers& h) const {
    Numbers y = dense(l, h, "_shexp");
    if (const auto* gate = optional(blk(l, "ffn_gate_inp_shexp.weight"))) {
        const double factor = sigmoid(product(*gate, h, nullptr)[0]);
        for (double& value : y) value *= factor;
    }
    return y;
}

// Indices from the largest value on; of equals the lower one first.
static std::vector<int64_t> ranked(const Numbers& x) {
    std::vector<int64_t> order(x.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order,
                             [&](int64_t a, int64_t b) { return x[size_t(a)] > x[size_t(b)]; });
    return order;
}

// The experts with the highest scores, of the groups whose two best add up to the most.
std::vector<int64_t> Definition::choose(int64_t l, const Numbers& scores) const {
    const TinyExperts& x = m_.experts;
    const size_t size = scores.size() / size_t(x.groups);
    Numbers of_group;
    for (Numbers group : split(scores, int64_t(size))) {
        std::ranges::sort(group, std::greater());
        of_group.push_back(group[0] + (size > 1 ? group[1] : 0));
    }
    std::vector<int64_t> groups = ranked(of_group);
    groups.resize(size_t(x.groups_used));
    std::vector<int64_t> ids;
    for (const int64_t e : ranked(scores)) {
        const bool open = std::ranges::find(groups, e / int64_t(size)) != groups.end();
        if (open && int64_t(ids.size()) < x.used[size_t(l)]) ids.push_back(e);
    }
    return ids;
}

// One expert's rows of tensors that hold all.
Numbers Definition::expert(int64_t l, int64_t e, const Numbers& x) const {
    const auto times_own = [&](const std::string& name, const Numbers& of) {
        const auto own = [&](const std::vector<float>& all) {
            const auto each = std::ptrdiff_t(all.size()) / m_.experts.count;
            return std::vector<float>(all.begin() + e * each, all.begin() + (e + 1) * each);
        };
        Numbers y = product(own(weight(l, name + ".weight")), of, nullptr);
        const std::vector<float>* all = optional(blk(l, name + ".bias"));
        for (size_t i = 0; i < y.size() && all != nullptr; ++i) y[i] += double(own(*all)[i]);
        return y;
    };
    return times_own("ffn_down_exps",
                     activated(times_own("ffn_gate_exps", x), times_own("ffn_up_exps", x)));
}

Numbers Definition::experts(int64_t l, const Numbers& h, const Numbers& router_input) const {
    const TinyExperts& x = m_.experts;
    const Numbers z = times(l, "ffn_gate_inp", router_input);
    Numbers p;
    double sum = 0;
    for (const double value : z) sum += std::exp(value);
    for (const double value : z) {
        p.push_back(x.gating == "softmax"   ? std::exp(value) / sum
                    : x.gating == "sigmoid" ? sigmoid(value)
                                            : value);
    }
    Numbers scores = p;
    if (const auto* bias = optional(blk(l, "exp_probs_b.bias"))) {
        for (size_t e = 0; e < p.size(); ++e) scores[e] += double((*bias)[e]);
    }
    const std::vector<int64_t> ids = choose(l, scores);
    double of_chosen = 0;
    for (const int64_t e : ids)
        of_chosen += x.gating == "chosen" ? std::exp(z[size_t(e)]) : p[size_t(e)];
    const std::vector<float>* factor = optional(blk(l, "ffn_down_exps.scale"));
    Numbers output(h.size(), 0.0);
    for (const int64_t e : ids) {
        double w = x.gating == "chosen" ? std::exp(z[size_t(e)]) / of_chosen : p[size_t(e)];
        if (x.normalise) w /= of_chosen;
        w *= x.scale;
        Numbers input = h;
        for (double& value : input) value *= x.on_input ? w : 1;
        const Numbers y = expert(l, e, input);
        if (factor != nullptr) w *= double((*factor)[size_t(e)]);
        for (size_t i = 0; i < y.size(); ++i) output[i] += (x.on_input ? 1 : w) * y[i];
    }
    return output;
}

// a[l] = (rms(W x / sqrt(E))[l] weight + sqrt(P) table[token][l]) / sqrt(2)
std::vector<Numbers> Definition::per_layer_inputs(int32_t token, const Numbers& x) const {
    const int64_t p = m_.per_layer;
    if (p == 0) return {};
    Numbers projected = product(m_.weights.at("per_layer_model_proj.weight"), x, nullptr);
    for (double& value : projected) value /= std::sqrt(double(m_.width));
    std::vector<Numbers> inputs = split(projected, p);
    const std::vector<float>& table = m_.weights.at("per_layer_token_embd.weight");
    for (int64_t l = 0; l < TinyModel::layers; ++l) {
        Numbers& input = inputs[size_t(l)];
        input = normed(input, m_.weights.at("per_layer_proj_norm.weight"));
        for (int64_t i = 0; i < p; ++i) {
            const float own = table[size_t((token * TinyModel::layers + l) * p + i)];
            double& value = input[size_t(i)];
            value = (value + std::sqrt(double(p)) * double(own)) / std::sqrt(2.0);
        }
    }
    return inputs;
}

Numbers Definition::per_layer_part(int64_t l, const Numbers& stream, const Numbers& input) const {
    Numbers gate = times(l, "inp_gate", stream);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gelu(gate[i]) * input[i];
    return normed(times(l, "proj", gate), weight(l, "post_norm.weight"));
}

}  // namespace rotkv::test
