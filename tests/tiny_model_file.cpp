// Small random models as GGUF files.
#include "ref/files/gguf.h"
#include "ref/quant.h"
#include "tests/tiny_model.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace rotkv::test {

namespace {

using Counts = std::vector<int64_t>;

// The keys of one model, under its architecture's name.
class KeyWriter {
  public:
    KeyWriter(const TinyModel& model, GgufWriter& writer) : m_(model), writer_(writer) {}

    void write_all() {
        writer_.add("general.architecture", std::string_view(m_.name));
        write_shape();
        write_attention();
        write_rope();
        write_scales();
        if (m_.experts.count > 0) write_experts();
        if (m_.name == "deepseek2") write_latent();
        if (std::ranges::find(m_.delta.here, true) != m_.delta.here.end()) write_delta();
        if (m_.name == "gemma4") write_gemma4();
    }

  private:
    void add(const char* key, const GgufValue& value) { writer_.add(m_.name + "." + key, value); }
    void number(const char* key, int64_t value) { add(key, uint32_t(value)); }
    void real(const char* key, double value) { add(key, float(value)); }

    // One number if it will do; in a list, layers that are not run have one too.
    void per_layer(const char* key, Counts values) {
        const bool equal = std::ranges::count(values, values[0]) == int64_t(values.size());
        if (equal && !m_.lists) return number(key, values[0]);
        values.resize(values.size() + size_t(m_.predicting), values.back());
        add(key, GgufArray(std::vector<int32_t>(values.begin(), values.end())));
    }
    void flags(const char* key, const std::function<bool(int64_t)>& of_layer) {
        std::vector<bool> list;
        for (int64_t l = 0; l < TinyModel::layers + m_.predicting; ++l) {
            list.push_back(of_layer(std::min(l, TinyModel::layers - 1)));
        }
        add(key, GgufArray(list));
    }
    Counts of_heads(int64_t TinyHeads::*count) const {
        Counts counts;
        for (const TinyHeads& heads : m_.heads) counts.push_back(heads.*count);
        return counts;
    }

    void write_shape();
    void write_attention();
    void write_rope();
    void write_scales();
    void write_experts();
    void write_latent();
    void write_delta();
    void write_gemma4();

    const TinyModel& m_;
    GgufWriter& writer_;
};

void KeyWriter::write_shape() {
    number("block_count", TinyModel::layers + m_.predicting);
    if (m_.predicting > 0) number("nextn_predict_layers", m_.predicting);
    number("embedding_length", m_.width);
    number("context_length", 4096);
    real(m_.layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
         TinyModel::epsilon);
    per_layer("feed_forward_length", m_.hidden);
}

void KeyWriter::write_attention() {
    per_layer("attention.head_count", of_heads(&TinyHeads::q));
    per_layer("attention.head_count_kv", of_heads(&TinyHeads::kv));
    number("attention.key_length", m_.heads.back().d);
    number("attention.value_length", m_.heads.back().d_v);
    if (m_.pattern == 0) return;
    number("attention.sliding_window", m_.window);
    const char* key = "attention.sliding_window_pattern";
    if (!m_.lists && m_.name != "gemma4") return number(key, m_.pattern);
    flags(key, [&](int64_t l) { return m_.is_local(l); });
}

void KeyWriter::write_rope() {
    number("rope.dimension_count", m_.n_rot);
    real("rope.freq_base", m_.base);
    if (m_.magnitude != 1) real("rope.scaling.attn_factor", m_.magnitude);
    if (m_.temperature == 0 || m_.still_tempered) return;
    real("attention.temperature_scale", m_.temperature);
    number(m_.name == "deepseek2" ? "attention.temperature_length"
                                  : "rope.scaling.original_context_length",
           m_.temperature_length);
}

void KeyWriter::write_scales() {
    const bool granite = m_.name == "granite" || m_.name == "granitemoe";
    if (m_.attention_softcap > 0) real("attn_logit_softcapping", m_.attention_softcap);
    if (m_.final_softcap > 0) real("final_logit_softcapping", m_.final_softcap);
    if (m_.logit_scale != 1) real("logit_scale", granite ? 1 / m_.logit_scale : m_.logit_scale);
    if (!granite) return;
    real("embedding_scale", m_.embedding_scale);
    real("residual_scale", m_.residual_scale);
    real("attention.scale", m_.attention_scale);
}

// What an architecture takes for granted is said in files of uneven models alone, or, where a key
// decides, in the others.
void KeyWriter::write_experts() {
    const TinyExperts& x = m_.experts;
    number("expert_count", x.count);
    if (!x.here[0] && m_.name == "llama4") number("interleave_moe_layer_step", 2);
    if (!x.here[0] && m_.name != "llama4") number("leading_dense_block_count", 1);
    per_layer("expert_used_count", x.used);
    const bool follows = m_.name.starts_with("qwen") || m_.name == "granitemoe";  // from F
    if (m_.lists || !follows) per_layer("expert_feed_forward_length", x.hidden);
    if (x.shared > 0) number("expert_shared_feed_forward_length", x.shared);
    if (x.shared_count > 0 && (m_.name != "llama4" || m_.fused)) {
        number("expert_shared_count", x.shared_count);
    }
    if (m_.lists || (m_.name != "glm4moe" && m_.name != "deepseek2")) return;
    number("expert_gating_func", x.gating == "softmax" ? 1 : x.gating == "sigmoid" ? 2 : 3);
    add("expert_weights_norm", x.normalise);
    real("expert_weights_scale", x.scale);
    if (x.groups == 1) return;
    number("expert_group_count", x.groups);
    number("expert_group_used_count", x.groups_used);
}

void KeyWriter::write_latent() {
    const TinyLatent& latent = m_.latent;
    number("attention.kv_lora_rank", latent.rank);
    number("attention.q_lora_rank", latent.query_rank);
    if (!latent.absorbed) return;
    number("attention.key_length_mla", latent.still + latent.turning);
    number("attention.value_length_mla", latent.d_v);
}

void KeyWriter::write_delta() {
    const TinyDelta& delta = m_.delta;
    number("ssm.conv_kernel", delta.taps);
    number("ssm.state_size", delta.d);
    number("ssm.group_count", delta.key_heads);
    number("ssm.time_step_rank", delta.heads);
    number("ssm.inner_size", delta.heads * delta.d);
    if (m_.lists) {
        flags("attention.recurrent_layers", [&](int64_t l) { return m_.delta.here[size_t(l)]; });
    }
    if (delta.grouped) return;
    add("rope.dimension_sections", GgufArray(std::vector<int32_t>{2, 1, 1, 0}));
}

void KeyWriter::write_gemma4() {
    const TinyHeads& local = m_.heads[0];
    number("attention.key_length_swa", local.d);
    number("attention.value_length_swa", local.d_v);
    number("attention.shared_kv_layers", m_.shared_kv);
    number("embedding_length_per_layer_input", m_.per_layer);
}

// The tensors, some of them joined, each in its type.
class TensorWriter {
  public:
    explicit TensorWriter(const TinyModel& model) : m_(model), weights_(model.weights) {
        for (const auto& [tensor, values] : weights_) shapes_[tensor] = shape_of(tensor);
        for (int64_t l = 0; l < TinyModel::layers && m_.fused; ++l) fuse_layer(l);
        if (m_.name == "phi3") {
            add("rope_factors_short.weight", m_.factors);
            add("rope_factors_long.weight", std::vector<float>(m_.factors.size(), 9.0f));
        } else if (!m_.factors.empty()) {
            add("rope_freqs.weight", m_.factors);
        }
    }

    void write(GgufWriter& writer) {
        for (const auto& [tensor, values] : weights_) {
            const Counts& shape = shapes_.at(tensor);
            const auto type = m_.types.find(tensor);
            const DType as = type == m_.types.end() ? DType::f32 : type->second;
            std::vector<std::byte>& bytes = bytes_[tensor];
            const int64_t n = int64_t(values.size());
            bytes.resize(size_t(row_bytes(as, n)));
            if (as == DType::f32) {
                std::ranges::copy(std::as_bytes(std::span(values)), bytes.begin());
            } else {
                ref::quantize_row(as, bytes.data(), values.data(), n);
            }
            writer.add_tensor(tensor, viewed(bytes.data(), as, shape));
        }
    }

  private:
    // Of a tensor that a test added or cut, the rows that there are.
    Counts shape_of(const std::string& tensor) const {
        const auto known = m_.extents.find(tensor);
        const int64_t n = int64_t(m_.weights.at(tensor).size());
        Counts shape = known != m_.extents.end()           ? known->second
                       : n % m_.width == 0 && n > m_.width ? Counts{0, m_.width}
                                                           : Counts{n};
        const int64_t rest = std::accumulate(shape.begin() + 1, shape.end(), int64_t(1),
                                             [](int64_t a, int64_t b) { return a * b; });
        shape[0] = n / rest;
        return shape;
    }
    static TensorView viewed(const std::byte* data, DType type, const Counts& shape) {
        switch (shape.size()) {
            case 1:
                return view(data, type, {shape[0]});
            case 2:
                return view(data, type, {shape[0], shape[1]});
            default:
                return view(data, type, {shape[0], shape[1], shape[2]});
        }
    }
    void add(const std::string& tensor, const std::vector<float>& values) {
        weights_[tensor] = values;
        shapes_[tensor] = {int64_t(values.size())};
    }

    // One tensor, of each of `count` matrices the rows of all parts, where all are there.
    void fuse(const std::string& into, const std::vector<std::string>& parts, int64_t count = 1) {
        for (const std::string& part : parts) {
            if (weights_.count(part) == 0) return;
        }
        std::vector<float> whole;
        Counts shape = shapes_.at(parts[0]);
        const size_t rows = count > 1 ? 1 : 0;  // which extent counts them
        shape[rows] = 0;
        for (const std::string& part : parts) shape[rows] += shapes_.at(part)[rows];
        for (int64_t i = 0; i < count; ++i) {
            for (const std::string& part : parts) {
                const std::vector<float>& values = weights_.at(part);
                const int64_t each = int64_t(values.size()) / count;
                const auto begin = values.begin() + i * each;
                whole.insert(whole.end(), begin, begin + each);
            }
        }
        for (const std::string& part : parts) weights_.erase(part);
        weights_[into] = whole;
        shapes_[into] = shape;
    }

    void fuse_layer(int64_t l) {
        const auto gate_up = [&](const std::string& suffix, const std::string& kind) {
            fuse(blk(l, "ffn_up" + suffix + kind),
                 {blk(l, "ffn_gate" + suffix + kind), blk(l, "ffn_up" + suffix + kind)});
        };
        for (const std::string kind : {".weight", ".bias"}) {
            fuse(blk(l, "ffn_gate_up_exps" + kind),
                 {blk(l, "ffn_gate_exps" + kind), blk(l, "ffn_up_exps" + kind)}, m_.experts.count);
            if (kind == ".bias" && !m_.fused_biases) return;
            fuse(blk(l, "attn_qkv" + kind),
                 {blk(l, "attn_q" + kind), blk(l, "attn_k" + kind), blk(l, "attn_v" + kind)});
            gate_up("", kind);
            gate_up("_shexp", kind);
        }
    }

    const TinyModel& m_;
    std::map<std::string, std::vector<float>> weights_;
    std::map<std::string, Counts> shapes_;
    std::map<std::string, std::vector<std::byte>> bytes_;  // until the file is written
};

}  // namespace

void TinyModel::write(const std::string& path) const {
    GgufWriter writer;
    KeyWriter(*this, writer).write_all();
    TensorWriter tensors(*this);
    tensors.write(writer);
    writer.write(path);
}

}  // namespace rotkv::test
