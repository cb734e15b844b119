// Small random models: their weights and their files.
#include "tests/tiny_model.h"

#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/half.h"
#include "ref/kernels.h"
#include "ref/model.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace rotkv::test {

std::string blk(int64_t layer, const std::string& name) {
    return "blk." + std::to_string(layer) + "." + name;
}

// What sets the architecture `name` apart.
void TinyModel::set_apart() {
    const auto is = [&](std::initializer_list<const char*> names) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    const bool gemma = is({"gemma2", "gemma3"});
    neox = gemma || is({"qwen2", "qwen3", "phi3", "hunyuan-dense", "olmo2", "exaone4"});
    gelu = gemma;
    biases = name == "qwen2";
    fused = name == "phi3";
    qk_norm = is({"qwen3", "gemma3", "exaone4"}) ? "head"
              : name == "olmo2"                  ? "all"
              : name == "hunyuan-dense"          ? "turned"
                                                 : "";
    pre_norms = !is({"olmo2", "exaone4"});
    post_norms = gemma || is({"olmo2", "exaone4", "glm4"});
    layer_norm = parallel = only_local_turn = name == "cohere2";
    pattern = gemma ? 2 : is({"olmo2", "cohere2"}) ? 4 : 0;
    if (name == "gemma3") base = 1e6;
    if (gemma) embedding_scale = std::sqrt(double(width));
    if (name == "smollm3") still = 4;
    if (name == "glm4") n_rot = d / 2;
    if (name == "mistral3") temperature = 0.3;
    if (name == "cohere2") logit_scale = 0.4;
    if (name == "granite") {
        embedding_scale = 1.5;
        residual_scale = 0.6;
        attention_scale = 0.31;
        logit_scale = 1 / 3.0;
    }
    if (name == "gemma2") {
        attention_softcap = 4;
        final_softcap = 3;
    }
    if (name == "phi3") {
        magnitude = 1.19;
        for (int64_t i = 0; i < d / 2; ++i) factors.push_back(1.0f + 0.3f * float(i));
    }
}

TinyModel TinyModel::make(const std::string& name, bool uneven) {
    TinyModel m;
    m.name = name;
    m.lists = uneven;
    m.d_v = uneven ? d / 2 : d;
    m.hidden = uneven ? std::vector<int64_t>{40, 24, 56, 32} : std::vector<int64_t>(layers, 40);
    m.set_apart();
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
    if (m.name == "llama" || m.name == "phi3") matrix("output.weight", words, width, 1);
    for (int64_t l = 0; l < layers; ++l) {
        if (m.pre_norms) gains(blk(l, "attn_norm.weight"), width);
        if (m.pre_norms && !m.parallel) gains(blk(l, "ffn_norm.weight"), width);
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
        if (!m.qk_norm.empty()) {
            const bool all = m.qk_norm == "all";
            gains(blk(l, "attn_q_norm.weight"), all ? heads * d : d);
            gains(blk(l, "attn_k_norm.weight"), all ? kv_heads * d : d);
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
    number("block_count", uint32_t(layers + predicting));
    if (predicting > 0) number("nextn_predict_layers", uint32_t(predicting));
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
    real(layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-6);
    number("rope.dimension_count", uint32_t(n_rot));
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
    if (temperature > 0) {
        real("attention.temperature_scale", temperature);
        number("rope.scaling.original_context_length", temperature_length);
    }
    if (name == "granite") {
        real("embedding_scale", embedding_scale);
        real("residual_scale", residual_scale);
        real("attention.scale", attention_scale);
    }
    if (logit_scale != 1) real("logit_scale", name == "granite" ? 1 / logit_scale : logit_scale);
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

TemporaryFile::TemporaryFile(const std::string& name)
    : path_((std::filesystem::temp_directory_path() /
             ("rotkv-" + std::to_string(getpid()) + "-" + name))
                .string()) {}

TemporaryFile::~TemporaryFile() { std::filesystem::remove(path_); }

}  // namespace rotkv::test
