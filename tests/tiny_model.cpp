// Small random models: their weights.
#include "tests/tiny_model.h"

#include "ref/half.h"
#include "ref/quant.h"
#include "tests/random.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace rotkv::test {

std::string blk(int64_t layer, const std::string& name) {
    return "blk." + std::to_string(layer) + "." + name;
}

void TinyModel::random(const std::string& tensor, const std::vector<int64_t>& shape, double scale) {
    int64_t n = 1;
    for (const int64_t extent : shape) n *= extent;
    weights[tensor] = normal_vector(n, weights.size() + 1, scale);
    extents[tensor] = shape;
}

void TinyModel::matrix(const std::string& tensor, const std::vector<int64_t>& shape, double scale) {
    random(tensor, shape, scale / std::sqrt(double(shape.back())));
}

void TinyModel::gains(const std::string& tensor, int64_t n) {
    random(tensor, {n}, 0.2);
    for (float& w : weights[tensor]) w += 1;
}

int64_t TinyModel::shared_hidden(int64_t layer) const {
    return experts.shared + experts.shared_count * experts.hidden[size_t(layer)];
}

void TinyModel::add_grouped(int64_t l) {
    const TinyHeads& h = heads[size_t(l)];
    const int64_t q_rows = h.q * (h.d + (query_gate ? h.d_v : 0));
    const bool weighed = !qk_norm.empty() && qk_norm != "unit", all = qk_norm == "all";
    const bool biased = name == "qwen2" || name == "qwen2moe" || name == "glm4moe";
    matrix(blk(l, "attn_q.weight"), {q_rows, width}, 2);
    if (weighed) gains(blk(l, "attn_q_norm.weight"), all ? h.q * h.d : h.d);
    if (biased) random(blk(l, "attn_q.bias"), {q_rows}, 0.5);
    if (name == "gpt-oss") random(blk(l, "attn_sinks.weight"), {h.q}, 2);
    matrix(blk(l, "attn_output.weight"), {width, h.q * h.d_v});
    if (l >= layers - shared_kv) return;
    matrix(blk(l, "attn_k.weight"), {h.kv * h.d, width}, 2);
    if (weighed) gains(blk(l, "attn_k_norm.weight"), all ? h.kv * h.d : h.d);
    if (biased) random(blk(l, "attn_k.bias"), {h.kv * h.d}, 3);
    if (name == "gemma4" && lists && !is_local(l)) return;  // values are keys
    matrix(blk(l, "attn_v.weight"), {h.kv * h.d_v, width});
    if (biased) random(blk(l, "attn_v.bias"), {h.kv * h.d_v}, 0.5);
}

void TinyModel::add_latent(int64_t l) {
    const int64_t h = heads[size_t(l)].q, d_q = latent.still + latent.turning;
    if (latent.query_rank > 0) {
        matrix(blk(l, "attn_q_a.weight"), {latent.query_rank, width});
        gains(blk(l, "attn_q_a_norm.weight"), latent.query_rank);
        matrix(blk(l, "attn_q_b.weight"), {h * d_q, latent.query_rank}, 2);
    } else {
        matrix(blk(l, "attn_q.weight"), {h * d_q, width}, 2);
    }
    matrix(blk(l, "attn_kv_a_mqa.weight"), {latent.rank + latent.turning, width});
    gains(blk(l, "attn_kv_a_norm.weight"), latent.rank);
    if (latent.absorbed) {
        matrix(blk(l, "attn_k_b.weight"), {h, latent.rank, latent.still});
        matrix(blk(l, "attn_v_b.weight"), {h, latent.d_v, latent.rank});
    } else {
        matrix(blk(l, "attn_kv_b.weight"), {h * (latent.still + latent.d_v), latent.rank});
    }
    matrix(blk(l, "attn_output.weight"), {width, h * latent.d_v});
}

void TinyModel::add_delta(int64_t l) {
    matrix(blk(l, "attn_qkv.weight"), {delta.channels(), width}, 2);
    matrix(blk(l, "attn_gate.weight"), {delta.heads * delta.d, width});
    matrix(blk(l, "ssm_conv1d.weight"), {delta.channels(), delta.taps});
    if (delta.grouped) {
        matrix(blk(l, "ssm_ba.weight"), {2 * delta.heads, width});
    } else {
        matrix(blk(l, "ssm_beta.weight"), {delta.heads, width});
        matrix(blk(l, "ssm_alpha.weight"), {delta.heads, width});
    }
    random(blk(l, "ssm_a"), {delta.heads}, 0.7);
    for (float& a : weights[blk(l, "ssm_a")]) a = -std::exp(a);
    random(blk(l, "ssm_dt.bias"), {delta.heads}, 0.5);
    gains(blk(l, "ssm_norm.weight"), delta.d);
    matrix(blk(l, "ssm_out.weight"), {width, delta.heads * delta.d});
}

void TinyModel::add_dense(int64_t l) {
    const int64_t f = hidden[size_t(l)];
    matrix(blk(l, "ffn_gate.weight"), {f, width});
    matrix(blk(l, "ffn_up.weight"), {f, width});
    matrix(blk(l, "ffn_down.weight"), {width, f});
}

void TinyModel::add_experts(int64_t l) {
    const int64_t x = experts.count, f = experts.hidden[size_t(l)], shared = shared_hidden(l);
    matrix(blk(l, "ffn_gate_inp.weight"), {x, width}, 2);
    matrix(blk(l, "ffn_gate_exps.weight"), {x, f, width});
    matrix(blk(l, "ffn_up_exps.weight"), {x, f, width});
    matrix(blk(l, "ffn_down_exps.weight"), {x, width, f});
    if (name == "ernie4_5-moe" || name == "glm4moe" || (name == "deepseek2" && !lists)) {
        random(blk(l, "exp_probs_b.bias"), {x}, 0.3);
    }
    if (shared > 0) {
        matrix(blk(l, "ffn_gate_shexp.weight"), {shared, width});
        matrix(blk(l, "ffn_up_shexp.weight"), {shared, width});
        matrix(blk(l, "ffn_down_shexp.weight"), {width, shared});
    }
    if (name == "qwen2moe" || name == "qwen3next" || name == "qwen35moe") {
        matrix(blk(l, "ffn_gate_inp_shexp.weight"), {width}, 2);
    }
    if (!experts.beside_dense) return;
    gains(blk(l, "ffn_gate_inp.scale"), width);
    gains(blk(l, "ffn_down_exps.scale"), x);
    gains(blk(l, "post_ffw_norm_1.weight"), width);
    gains(blk(l, "pre_ffw_norm_2.weight"), width);
    gains(blk(l, "post_ffw_norm_2.weight"), width);
}

TinyModel TinyModel::make(const std::string& name, bool uneven, int64_t width) {
    TinyModel m;
    m.name = name;
    m.width = width;
    m.lists = uneven;
    m.set_apart(uneven);
    m.set_experts(uneven);
    m.matrix("token_embd.weight", {words, width}, 3);
    m.gains("output_norm.weight", width);
    const char* untied[] = {"llama", "phi3", "olmo2", "qwen2moe", "gpt-oss"};
    if (std::ranges::count(untied, name) > 0) m.matrix("output.weight", {words, width});
    if (const int64_t p = m.per_layer; p > 0) {
        m.matrix("per_layer_token_embd.weight", {words, layers * p}, 5);
        m.matrix("per_layer_model_proj.weight", {layers * p, width});
        m.gains("per_layer_proj_norm.weight", p);
    }
    for (int64_t l = 0; l < layers; ++l) {
        if (m.pre_norms) m.gains(blk(l, "attn_norm.weight"), width);
        if (m.pre_norms && !m.parallel) m.gains(blk(l, m.second_norm), width);
        if (m.post_norms) m.gains(blk(l, "post_attention_norm.weight"), width);
        if (m.post_norms) m.gains(blk(l, "post_ffw_norm.weight"), width);
        const bool with_experts = m.experts.count > 0 && m.experts.here[size_t(l)];
        if (m.delta.here[size_t(l)]) {
            m.add_delta(l);
        } else if (name == "deepseek2") {
            m.add_latent(l);
        } else {
            m.add_grouped(l);
        }
        if (with_experts) m.add_experts(l);
        if (!with_experts || m.experts.beside_dense) m.add_dense(l);
        if (name == "gemma4") m.gains(blk(l, "layer_output_scale.weight"), 1);
        if (m.per_layer == 0) continue;
        m.matrix(blk(l, "inp_gate.weight"), {m.per_layer, width});
        m.matrix(blk(l, "proj.weight"), {width, m.per_layer});
        m.gains(blk(l, "post_norm.weight"), width);
    }
    if (name == "gpt-oss") m.add_biases();
    return m;
}

void TinyModel::add_biases() {
    const std::vector<std::string> plain = {
        "ffn_gate",    "ffn_up",        "ffn_down",       "ffn_gate_inp", "ffn_gate_exps",
        "ffn_up_exps", "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"};
    const std::vector<std::string> grouped = {"attn_q", "attn_k", "attn_v"};
    for (int64_t l = 0; l < layers; ++l) {
        const auto bias = [&](const std::string& product) {
            const std::string of = blk(l, product);
            if (!has(of + ".weight")) return;
            std::vector<int64_t> shape = extents.at(of + ".weight");
            shape.pop_back();
            random(of + ".bias", shape, 0.5);
        };
        for (const std::string& product : plain) bias(product);
        bias("attn_output");
        for (const std::string& product : grouped) {
            if (name != "deepseek2") bias(product);
        }
    }
}

namespace {

bool is_norm_or_bias(const std::string& tensor) {
    return tensor.find("norm") != std::string::npos || tensor.find("bias") != std::string::npos;
}

}  // namespace

void TinyModel::round(const std::string& tensor, DType type) {
    std::vector<float>& values = weights.at(tensor);
    const int64_t n = int64_t(values.size());
    std::vector<std::byte> bytes(size_t(row_bytes(type, n)));
    ref::quantize_row(type, bytes.data(), values.data(), n);
    ref::dequantize_row(type, values.data(), bytes.data(), n);
    types[tensor] = type;
}

void TinyModel::round_vectors(DType type) {
    for (const auto& [tensor, values] : weights) {
        if (is_norm_or_bias(tensor)) round(tensor, type);
    }
}

TemporaryFile::TemporaryFile(const std::string& name)
    : path_((std::filesystem::temp_directory_path() /
             ("rotkv-" + std::to_string(getpid()) + "-" + name))
                .string()) {}

TemporaryFile::~TemporaryFile() { std::filesystem::remove(path_); }

}  // namespace rotkv::test
