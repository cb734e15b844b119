// Small random models: their weights, their files, and their forward pass by definition.
#include "tests/tiny_model.h"

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/half.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"

#include <unistd.h>

#include <cmath>
#include <complex>
#include <filesystem>

namespace rotkv::test {

namespace {

using Vector = std::vector<double>;

std::string blk(int64_t layer, const char* name) {
    return "blk." + std::to_string(layer) + "." + name;
}

// y = W x (+ b)
Vector product(const std::vector<float>& w, const Vector& x, const std::vector<float>* bias) {
    Vector y(w.size() / x.size(), 0.0);
    for (size_t o = 0; o < y.size(); ++o) {
        for (size_t i = 0; i < x.size(); ++i) y[o] += double(w[o * x.size() + i]) * x[i];
        if (bias != nullptr) y[o] += double((*bias)[o]);
    }
    return y;
}

Vector norm(Vector x, const std::vector<float>& weight) {
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double root = std::sqrt(squares / double(x.size()) + 1e-6);
    for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] / root * double(weight[i]);
    return x;
}

void add_to(Vector& x, const Vector& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
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

}  // namespace

TinyModel TinyModel::make(const std::string& name, bool uneven) {
    TinyModel m;
    m.name = name;
    m.lists = uneven;
    m.d_v = uneven ? d / 2 : d;
    m.hidden = uneven ? std::vector<int64_t>{40, 24, 56, 32} : std::vector<int64_t>(layers, 40);
    m.neox = name.starts_with("qwen") || name.starts_with("gemma") || name == "phi3";
    m.biases = name == "qwen2";
    m.qk_norm = name == "qwen3" || name == "gemma3";
    m.fused = name == "phi3";
    m.post_norms = m.gelu = name == "gemma2" || name == "gemma3";
    if (m.post_norms) {
        m.embedding_scale = std::sqrt(double(width));
        m.pattern = 2;
        m.base = name == "gemma3" ? 1e6 : 10000;
    }
    if (name == "gemma2") {
        m.attention_softcap = 4;
        m.final_softcap = 3;
    }
    if (name == "phi3") {
        m.magnitude = 1.19;
        for (int64_t i = 0; i < d / 2; ++i) m.factors.push_back(1.0f + 0.3f * float(i));
    }
    const auto matrix = [&](const std::string& tensor, int64_t out, int64_t in, double scale) {
        m.weights[tensor] =
            normal_vector(out * in, m.weights.size() + 1, scale / std::sqrt(double(in)));
    };
    const auto gains = [&](const std::string& tensor, int64_t n) {
        m.weights[tensor] = normal_vector(n, m.weights.size() + 1, 0.2);
        for (float& w : m.weights[tensor]) w += 1;
    };
    matrix("token_embd.weight", words, width, 3);
    gains("output_norm.weight", width);
    if (name == "llama" || name == "phi3") matrix("output.weight", words, width, 1);
    for (int64_t l = 0; l < layers; ++l) {
        gains(blk(l, "attn_norm.weight"), width);
        gains(blk(l, "ffn_norm.weight"), width);
        matrix(blk(l, "attn_q.weight"), heads * d, width, 2);
        matrix(blk(l, "attn_k.weight"), kv_heads * d, width, 2);
        matrix(blk(l, "attn_v.weight"), kv_heads * m.d_v, width, 1);
        matrix(blk(l, "attn_output.weight"), width, heads * m.d_v, 1);
        matrix(blk(l, "ffn_gate.weight"), m.hidden[size_t(l)], width, 1);
        matrix(blk(l, "ffn_up.weight"), m.hidden[size_t(l)], width, 1);
        matrix(blk(l, "ffn_down.weight"), width, m.hidden[size_t(l)], 1);
        if (m.biases) {
            matrix(blk(l, "attn_q.bias"), heads * d, 1, 0.5);
            matrix(blk(l, "attn_k.bias"), kv_heads * d, 1, 3);
            matrix(blk(l, "attn_v.bias"), kv_heads * m.d_v, 1, 0.5);
        }
        if (m.qk_norm) {
            gains(blk(l, "attn_q_norm.weight"), d);
            gains(blk(l, "attn_k_norm.weight"), d);
        }
        if (m.post_norms) {
            gains(blk(l, "post_attention_norm.weight"), width);
            gains(blk(l, "post_ffw_norm.weight"), width);
        }
    }
    return m;
}

void TinyModel::add_biases() {
    const auto bias = [&](const std::string& tensor, int64_t n) {
        weights[tensor] = normal_vector(n, weights.size() + 1, 0.5);
    };
    for (int64_t l = 0; l < layers; ++l) {
        bias(blk(l, "attn_q.bias"), heads * d);
        bias(blk(l, "attn_k.bias"), kv_heads * d);
        bias(blk(l, "attn_v.bias"), kv_heads * d_v);
        bias(blk(l, "attn_output.bias"), width);
        bias(blk(l, "ffn_gate.bias"), hidden[size_t(l)]);
        bias(blk(l, "ffn_up.bias"), hidden[size_t(l)]);
        bias(blk(l, "ffn_down.bias"), width);
    }
}

namespace {

bool is_norm_or_bias(const std::string& tensor) {
    return tensor.find("norm") != std::string::npos || tensor.find("bias") != std::string::npos;
}

std::vector<uint16_t> halves(const std::vector<float>& values, DType type) {
    std::vector<uint16_t> bits;
    for (const float x : values) {
        bits.push_back(type == DType::f16 ? f32_to_f16(x) : f32_to_bf16(x));
    }
    return bits;
}

}  // namespace

void TinyModel::round_vectors(DType type) {
    vectors = type;
    for (auto& [tensor, values] : weights) {
        if (!is_norm_or_bias(tensor)) continue;
        const std::vector<uint16_t> bits = halves(values, type);
        for (size_t i = 0; i < values.size(); ++i) {
            values[i] = type == DType::f16 ? f16_to_f32(bits[i]) : bf16_to_f32(bits[i]);
        }
    }
}

void TinyModel::write(const std::string& path) const {
    GgufWriter writer;
    const auto number = [&](const char* key, uint32_t value) {
        writer.add(name + "." + key, value);
    };
    const auto real = [&](const char* key, double value) {
        writer.add(name + "." + key, float(value));
    };
    writer.add("general.architecture", std::string_view(name));
    number("block_count", layers);
    number("embedding_length", width);
    const auto per_layer = [&](const char* key, const std::vector<int64_t>& values) {
        if (!lists) return number(key, uint32_t(values[0]));
        writer.add(name + "." + key, GgufArray(std::vector<int32_t>(values.begin(), values.end())));
    };
    per_layer("feed_forward_length", hidden);
    number("context_length", 4096);
    per_layer("attention.head_count", std::vector<int64_t>(layers, heads));
    per_layer("attention.head_count_kv", std::vector<int64_t>(layers, kv_heads));
    number("attention.key_length", d);
    number("attention.value_length", uint32_t(d_v));
    real("attention.layer_norm_rms_epsilon", 1e-6);
    real("rope.freq_base", base);
    if (pattern > 0) {
        number("attention.sliding_window", window);
        std::vector<bool> windowed;
        for (int64_t l = 0; l < layers; ++l) windowed.push_back(l % pattern < pattern - 1);
        const char* key = "attention.sliding_window_pattern";
        lists ? writer.add(name + "." + key, GgufArray(windowed)) : number(key, uint32_t(pattern));
    }
    if (attention_softcap > 0) real("attn_logit_softcapping", attention_softcap);
    if (final_softcap > 0) real("final_logit_softcapping", final_softcap);
    if (magnitude != 1) real("rope.scaling.attn_factor", magnitude);

    std::map<std::string, std::vector<float>> stored = weights;
    const auto fuse = [&](const std::string& into, const std::vector<std::string>& parts) {
        std::vector<float> whole;
        for (const std::string& part : parts) {
            whole.insert(whole.end(), stored.at(part).begin(), stored.at(part).end());
            stored.erase(part);
        }
        stored[into] = whole;
    };
    for (int64_t l = 0; l < layers && fused; ++l) {
        fuse(blk(l, "attn_qkv.weight"),
             {blk(l, "attn_q.weight"), blk(l, "attn_k.weight"), blk(l, "attn_v.weight")});
        fuse(blk(l, "ffn_up.weight"), {blk(l, "ffn_gate.weight"), blk(l, "ffn_up.weight")});
        if (!fused_biases) continue;
        fuse(blk(l, "attn_qkv.bias"),
             {blk(l, "attn_q.bias"), blk(l, "attn_k.bias"), blk(l, "attn_v.bias")});
        fuse(blk(l, "ffn_up.bias"), {blk(l, "ffn_gate.bias"), blk(l, "ffn_up.bias")});
    }
    if (name == "phi3") {
        stored["rope_factors_short.weight"] = factors;
        stored["rope_factors_long.weight"] = std::vector<float>(factors.size(), 9.0f);
    } else if (!factors.empty()) {
        stored["rope_freqs.weight"] = factors;
    }
    std::vector<std::vector<uint16_t>> narrow;
    narrow.reserve(stored.size());
    for (const auto& [tensor, values] : stored) {
        const bool vector = is_norm_or_bias(tensor) || tensor.find("rope") != std::string::npos;
        const bool to_width = tensor.find("attn_output") != std::string::npos ||
                              tensor.find("ffn_down") != std::string::npos;
        const int64_t size = int64_t(values.size());
        const int64_t in = vector ? size : to_width ? size / width : width;
        if (is_norm_or_bias(tensor) && vectors != DType::f32) {
            narrow.push_back(halves(values, vectors));
            writer.add_tensor(tensor, view(narrow.back().data(), vectors, {size}));
            continue;
        }
        writer.add_tensor(tensor, view(values.data(), DType::f32, {size / in, in}));
    }
    writer.write(path);
}

namespace {

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
            Vector y = attention(l, norm(x, weight(blk(l, "attn_norm.weight"))));
            if (m_.post_norms) y = norm(y, weight(blk(l, "post_attention_norm.weight")));
            add_to(x, y);
            y = feed_forward(l, norm(x, weight(blk(l, "ffn_norm.weight"))));
            if (m_.post_norms) y = norm(y, weight(blk(l, "post_ffw_norm.weight")));
            add_to(x, y);
        }
        ++position_;
        return norm(x, weight("output_norm.weight"));
    }

  private:
    const std::vector<float>& weight(const std::string& tensor) const {
        return m_.weights.at(tensor);
    }
    const std::vector<float>* optional(const std::string& tensor) const {
        return m_.weights.count(tensor) != 0 ? &m_.weights.at(tensor) : nullptr;
    }

    // The heads of q, k or v.
    std::vector<Vector> project(int64_t l, const std::string& which, const Vector& h) const {
        return split(product(weight(blk(l, ("attn_" + which + ".weight").c_str())), h,
                             optional(blk(l, ("attn_" + which + ".bias").c_str()))),
                     which == "v" ? m_.d_v : TinyModel::d);
    }

    // Norm and position of one head: pairs as complex numbers times magnitude exp(i angle).
    void place(Vector& x, int64_t l, const char* norm_weight) const {
        constexpr int64_t d = TinyModel::d;
        if (m_.qk_norm) x = norm(x, weight(blk(l, norm_weight)));
        const double base = is_local(l) ? m_.local_base : m_.base;
        for (size_t i = 0; i < size_t(d / 2); ++i) {
            const size_t a = m_.neox ? i : 2 * i, b = m_.neox ? i + size_t(d / 2) : 2 * i + 1;
            double angle = double(position_) * std::pow(base, -2.0 * double(i) / double(d));
            if (!m_.factors.empty()) angle /= double(m_.factors[i]);
            const auto z = std::complex<double>(x[a], x[b]) * std::polar(m_.magnitude, angle);
            x[a] = z.real();
            x[b] = z.imag();
        }
    }

    bool is_local(int64_t l) const { return m_.pattern > 0 && l % m_.pattern < m_.pattern - 1; }

    Vector attention(int64_t l, const Vector& h) {
        std::vector<Vector> q = project(l, "q", h), k = project(l, "k", h);
        for (Vector& head : q) place(head, l, "attn_q_norm.weight");
        for (Vector& head : k) place(head, l, "attn_k_norm.weight");
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

    // softmax(q . k / sqrt(d)) v over the positions from `from` on.
    Vector mix(const Vector& q, const std::vector<Remembered>& past, size_t from, size_t kv) const {
        Vector sum(static_cast<size_t>(m_.d_v), 0.0);
        double total = 0;
        for (size_t s = from; s < past.size(); ++s) {
            double score = 0;
            for (size_t i = 0; i < q.size(); ++i) score += q[i] * past[s].k[kv][i];
            score /= std::sqrt(double(q.size()));
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

TemporaryFile::TemporaryFile(const std::string& name)
    : path_((std::filesystem::temp_directory_path() /
             ("rotkv-" + std::to_string(getpid()) + "-" + name))
                .string()) {}

TemporaryFile::~TemporaryFile() { std::filesystem::remove(path_); }

}  // namespace rotkv::test
