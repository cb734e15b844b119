// Small random models: what each architecture is, beside its weights.
#include "tests/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

namespace rotkv::test {

namespace {

bool is(const std::string& name, std::initializer_list<const char*> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

// Head counts of each layer, where they may differ.
constexpr int64_t k_uneven_q[] = {2, 4, 2, 4}, k_uneven_kv[] = {1, 2, 2, 2};

}  // namespace

static void set_heads(TinyModel& m, bool uneven) {
    m.heads.assign(TinyModel::layers, {});
    for (size_t l = 0; l < m.heads.size(); ++l) {
        TinyHeads& h = m.heads[l];
        if (uneven) h = {.q = k_uneven_q[l], .kv = k_uneven_kv[l], .d = h.d, .d_v = h.d / 2};
        if (m.name == "gemma4") {
            const bool local = m.is_local(int64_t(l));
            h.kv = local ? 2 : 1;
            h.d = h.d_v = local ? TinyModel::d / 2 : TinyModel::d;
        }
        if (m.name == "deepseek2") {
            h.kv = m.latent.absorbed ? 1 : h.q;
            h.d = m.latent.absorbed ? m.latent.rank + m.latent.turning
                                    : m.latent.still + m.latent.turning;
            h.d_v = m.latent.absorbed ? m.latent.rank : m.latent.d_v;
        }
    }
}

static void set_norms(TinyModel& m) {
    const std::string& name = m.name;
    const bool gemma = is(name, {"gemma2", "gemma3", "gemma4"});
    const bool qwen = is(name, {"qwen3", "qwen3moe", "qwen3next", "qwen35", "qwen35moe"});
    m.qk_norm = qwen || is(name, {"gemma3", "gemma4", "exaone4", "glm4moe"}) ? "head"
                : name == "olmo2"                                            ? "all"
                : name == "hunyuan-dense"                                    ? "turned"
                : name == "llama4"                                           ? "unit"
                                                                             : "";
    if (name == "glm4moe" && m.lists) m.qk_norm = "";
    if (is(name, {"qwen3next", "qwen35", "qwen35moe", "glm4moe", "gpt-oss"})) {
        m.second_norm = "post_attention_norm.weight";
    }
    m.pre_norms = !is(name, {"olmo2", "exaone4"});
    m.post_norms = gemma || is(name, {"olmo2", "exaone4", "glm4"});
    m.layer_norm = m.parallel = name == "cohere2";
    m.unit_v = name == "gemma4";
}

static void set_positions(TinyModel& m) {
    const std::string& name = m.name;
    m.neox = is(name, {"gemma2", "gemma3", "gemma4", "qwen2", "qwen2moe", "qwen3", "qwen3moe",
                       "qwen3next", "qwen35", "qwen35moe", "phi3", "hunyuan-dense", "olmo2",
                       "exaone4", "glm4moe", "gpt-oss"});
    m.pattern = is(name, {"gemma2", "gemma3", "gemma4", "gpt-oss"}) ? 2
                : is(name, {"olmo2", "cohere2", "llama4"})          ? 4
                                                                    : 0;
    m.only_local_turn = name == "cohere2";
    if (is(name, {"gemma3", "gemma4"})) m.base = 1e6;
    if (is(name, {"smollm3", "llama4"})) m.still = 4;
    if (is(name, {"glm4", "glm4moe", "qwen3next", "qwen35", "qwen35moe"})) m.n_rot = m.d / 2;
    if (name == "deepseek2") m.n_rot = m.latent.turning;
    if (name == "mistral3" || (name == "deepseek2" && !m.lists)) m.temperature = 0.3;
    const auto add_factors = [&](double step) {
        for (int64_t i = 0; i < m.n_rot / 2; ++i) m.factors.push_back(float(1 + step * double(i)));
    };
    if (name == "llama4") {
        m.window = m.temperature_length = 8192;
        m.chunked = m.still_tempered = true;
        m.temperature = 0.1;
        m.temperature_offset = 1;
        if (m.lists) add_factors(0.2);
    }
    if (name == "gemma4") {
        m.local_n_rot = m.d / 2;
        m.factors = {1, 1, 1, 1e30f, 1e30f, 1e30f, 1e30f, 1e30f};  // three pairs turn
        m.factors_on_full = true;
    }
    if (name == "phi3") {
        m.magnitude = 1.19;
        add_factors(0.3);
    }
}

void TinyModel::set_apart(bool uneven) {
    hidden = uneven ? std::vector<int64_t>{40, 24, 56, 32} : std::vector<int64_t>(layers, 40);
    latent.absorbed = !uneven;
    if (uneven) latent.query_rank = 0;
    set_norms(*this);
    set_positions(*this);
    set_heads(*this, uneven);
    const bool gemma = is(name, {"gemma2", "gemma3", "gemma4"});
    activation = gemma ? "gelu" : name == "gpt-oss" ? "oai" : "silu";
    fused = name == "phi3";
    if (gemma) embedding_scale = std::sqrt(double(width));
    if (name == "cohere2") logit_scale = 0.4;
    if (is(name, {"granite", "granitemoe"})) {
        embedding_scale = 1.5;
        residual_scale = 0.6;
        attention_scale = 0.31;
        logit_scale = 1 / 3.0;
    }
    if (name == "gemma2") {
        attention_softcap = 4;
        final_softcap = 3;
    }
    if (name == "gemma4") {
        attention_scale = 1;
        shared_kv = uneven ? 0 : 2;
        per_layer = uneven ? 0 : 12;
    }
    delta.here.assign(layers, false);
    if (is(name, {"qwen3next", "qwen35", "qwen35moe"})) {
        query_gate = true;
        delta.here = {true, !uneven, true, false};
        delta.grouped = name == "qwen3next";
    }
}

void TinyModel::set_experts(bool uneven) {
    const bool always = is(name, {"ernie4_5-moe", "granitemoe", "qwen2moe", "qwen3moe", "qwen3next",
                                  "qwen35moe", "glm4moe", "gpt-oss", "llama4", "deepseek2"});
    const bool sometimes = is(name, {"mistral3", "gemma4"});
    if (!always && !(sometimes && uneven)) return;
    TinyExperts& x = experts;
    x = {.count = 6,
         .here = std::vector<bool>(layers, true),
         .used = uneven ? std::vector<int64_t>{2, 1, 3, 2} : std::vector<int64_t>(layers, 2),
         .hidden = uneven ? std::vector<int64_t>{20, 16, 24, 12} : std::vector<int64_t>(layers, 32),
         .gating = "softmax",
         .normalise = !is(name, {"qwen2moe", "gpt-oss", "llama4", "glm4moe", "deepseek2"})};
    if (is(name, {"ernie4_5-moe", "glm4moe", "deepseek2"})) x.here[0] = false;
    if (is(name, {"ernie4_5-moe", "granitemoe", "qwen2moe", "qwen3next", "qwen35moe"})) {
        x.shared = 28;
    }
    // Files that do not say how wide an expert is say it of all that a token uses, or of each.
    if (name.starts_with("qwen") && !uneven) hidden.assign(layers, x.used[0] * x.hidden[0]);
    if (name == "granitemoe" && !uneven) x.hidden = hidden;
    if (is(name, {"glm4moe", "llama4"})) {
        x.gating = "sigmoid";
        x.shared_count = 1;
    }
    if (name == "glm4moe" && !uneven) {
        x.normalise = true;
        x.scale = 2.5;
    }
    if (name == "gpt-oss") x.gating = "chosen";
    if (name == "llama4") {
        x.here = {false, true, false, true};
        x.used.assign(layers, 1);
        x.on_input = true;
    }
    if (name == "deepseek2") {
        x.count = 8;
        x.shared_count = 2;
        if (uneven) return;
        x.gating = "sigmoid";
        x.normalise = true;
        x.scale = 1.8;
        x.used.assign(layers, 3);
        x.groups = 4;
        x.groups_used = 2;
    }
    x.beside_dense = name == "gemma4";
}

}  // namespace rotkv::test
