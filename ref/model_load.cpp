// From the file's tensors to a Model: every weight it needs is there in the expected shape, and
// every tensor of the file is one it uses.
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/model.h"
#include "ref/quant.h"

#include <deque>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

namespace {

std::string prefix_of(int64_t layer) { return "blk." + std::to_string(layer) + "."; }

// Hands out the file's tensors by name, as views in the backend's memory.
class Weights {
  public:
    Weights(const GgufFile& file, Imports& imported, std::deque<std::vector<float>>& widened)
        : file_(file), imported_(imported), widened_(widened) {}

    bool has(const std::string& name) const { return file_.find_tensor(name) != nullptr; }

    // Throws where the file has no such tensor.
    int64_t rows(const std::string& name) const { return file_.tensor(name).view.n[2]; }

    // Whether it has the first of two tensors; throws where it has neither.
    bool has_one_of(const std::string& prefix, const char* first, const char* second) const {
        if (has(prefix + first)) return true;
        if (has(prefix + second)) return false;
        throw Error(ErrorCode::bad_file, file_.path() + ": expected a tensor '" + prefix + first +
                                             "' or '" + prefix + second + "', found none");
    }

    // A matrix [out][in] of any weight type.
    TensorView matrix(const std::string& name, int64_t out, int64_t in) {
        const GgufTensor& tensor = file_.tensor(name);
        check_extents(tensor, out, in);
        return import(tensor, tensor.view.data, tensor.bytes);
    }

    // A vector [n], which the operations need in f32; every f16 and bf16 is one exactly.
    TensorView vector(const std::string& name, int64_t n) {
        const GgufTensor& tensor = file_.tensor(name);
        check_extents(tensor, 1, n);
        if (tensor.type == DType::f32) return import(tensor, tensor.view.data, tensor.bytes);
        if (tensor.type != DType::f16 && tensor.type != DType::bf16) {
            throw Error(ErrorCode::unsupported, file_.path() + ": tensor " + name +
                                                    ": expected f32, f16 or bf16, found " +
                                                    type_info(tensor.type).name);
        }
        std::vector<float>& values = widened_.emplace_back(static_cast<size_t>(n));
        ref::dequantize_row(tensor.type, values.data(), tensor.view.data, n);
        const std::span<const std::byte> bytes = std::as_bytes(std::span(values));
        const TensorView widened = import(tensor, bytes.data(), bytes.size());
        return view(widened.data, DType::f32, {n});
    }
    TensorView optional_vector(const std::string& name, int64_t n) {
        return has(name) ? vector(name, n) : TensorView{};
    }
    // A norm of a layer, by the name in its architecture's row, where it has one.
    TensorView norm(const std::string& prefix, const char* name, int64_t n) {
        return *name != '\0' ? vector(prefix + name, n) : TensorView{};
    }

    void use(const std::string& name) { used_.insert(name); }
    void use_layer(int64_t index) {
        const std::string prefix = prefix_of(index);
        for (const GgufTensor& tensor : file_.tensors()) {
            if (tensor.name.starts_with(prefix)) use(tensor.name);
        }
    }

    // A tensor without a place in the forward pass means that the file holds another model than
    // the one that would run.
    void refuse_unused(const char* architecture) const {
        for (const GgufTensor& tensor : file_.tensors()) {
            if (used_.count(tensor.name) != 0) continue;
            throw Error(ErrorCode::unsupported, file_.path() + ": tensor " + tensor.name +
                                                    " has no place in architecture '" +
                                                    architecture + "' as it is known here");
        }
    }

  private:
    void check_extents(const GgufTensor& tensor, int64_t out, int64_t in) const {
        const int64_t* n = tensor.view.n;
        if (n[0] == 1 && n[1] == 1 && n[2] == out && n[3] == in) return;
        throw Error(ErrorCode::bad_file, file_.path() + ": tensor " + tensor.name + ": expected [" +
                                             std::to_string(out) + "][" + std::to_string(in) +
                                             "], found " + describe(tensor.view));
    }

    // The tensor with `bytes` for its values.
    TensorView import(const GgufTensor& tensor, const std::byte* data, size_t bytes) {
        used_.insert(tensor.name);
        TensorView weight = tensor.view;
        weight.data = imported_.import({data, bytes});
        return weight;
    }

    const GgufFile& file_;
    Imports& imported_;
    std::deque<std::vector<float>>& widened_;
    std::set<std::string> used_;
};

// Gate and up may be one matrix, "ffn_up" of twice as many rows, and their biases one vector.
void load_feed_forward(Weights& weights, const std::string& prefix, int64_t width, int64_t hidden,
                       ModelLayer& layer) {
    if (weights.rows(prefix + "ffn_up.weight") == 2 * hidden) {
        layer.gate_up = weights.matrix(prefix + "ffn_up.weight", 2 * hidden, width);
        layer.gate_up_bias = weights.optional_vector(prefix + "ffn_up.bias", 2 * hidden);
    } else {
        layer.gate = weights.matrix(prefix + "ffn_gate.weight", hidden, width);
        layer.up = weights.matrix(prefix + "ffn_up.weight", hidden, width);
        layer.gate_bias = weights.optional_vector(prefix + "ffn_gate.bias", hidden);
        layer.up_bias = weights.optional_vector(prefix + "ffn_up.bias", hidden);
    }
    layer.down = weights.matrix(prefix + "ffn_down.weight", width, hidden);
    layer.down_bias = weights.optional_vector(prefix + "ffn_down.bias", width);
}

ModelLayer load_layer(Weights& weights, const ModelConfig& config, int64_t index) {
    const LayerPlan& plan = config.plan[size_t(index)];
    const Architecture& architecture = config.architecture;
    const std::string prefix = prefix_of(index);
    const int64_t width = config.width;
    const int64_t q_rows = plan.heads * plan.d_k, k_rows = plan.kv_heads * plan.d_k;
    const int64_t v_rows = plan.kv_heads * plan.d_v;

    ModelLayer layer;
    layer.attention_norm = weights.norm(prefix, architecture.attention_norm, width);
    layer.feed_forward_norm = weights.norm(prefix, architecture.feed_forward_norm, width);
    layer.post_attention_norm = weights.norm(prefix, architecture.post_attention_norm, width);
    layer.post_feed_forward_norm = weights.norm(prefix, architecture.post_feed_forward_norm, width);
    if (architecture.qk_norm != QkNorm::none) {
        const bool as_one = architecture.qk_norm == QkNorm::all_heads;
        layer.q_norm = weights.vector(prefix + "attn_q_norm.weight", as_one ? q_rows : plan.d_k);
        layer.k_norm = weights.vector(prefix + "attn_k_norm.weight", as_one ? k_rows : plan.d_k);
    }
    if (weights.has_one_of(prefix, "attn_qkv.weight", "attn_q.weight")) {
        const int64_t rows = q_rows + k_rows + v_rows;
        layer.qkv = weights.matrix(prefix + "attn_qkv.weight", rows, width);
        layer.qkv_bias = weights.optional_vector(prefix + "attn_qkv.bias", rows);
    } else {
        layer.q = weights.matrix(prefix + "attn_q.weight", q_rows, width);
        layer.k = weights.matrix(prefix + "attn_k.weight", k_rows, width);
        layer.v = weights.matrix(prefix + "attn_v.weight", v_rows, width);
    }
    if (layer.qkv_bias.empty()) {
        layer.q_bias = weights.optional_vector(prefix + "attn_q.bias", q_rows);
        layer.k_bias = weights.optional_vector(prefix + "attn_k.bias", k_rows);
        layer.v_bias = weights.optional_vector(prefix + "attn_v.bias", v_rows);
    }
    layer.attention_output =
        weights.matrix(prefix + "attn_output.weight", width, plan.heads * plan.d_v);
    layer.attention_output_bias = weights.optional_vector(prefix + "attn_output.bias", width);

    load_feed_forward(weights, prefix, width, plan.feed_forward, layer);
    return layer;
}

// A table with one row for every position that may be asked for.
Buffer upload_rope_table(Backend& backend, const RopeConfig& config, int64_t context) {
    std::vector<int32_t> positions(static_cast<size_t>(context));
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = int32_t(i);
    const std::vector<float> table = rope_table(config, positions);
    Buffer memory(backend, table.size() * sizeof(float));
    memory.upload(std::as_bytes(std::span(table)));
    backend.synchronize();  // the host's table goes out of scope
    return memory;
}

}  // namespace

Imports::~Imports() {
    for (std::byte* memory : memory_) backend_.free_memory(memory);
}

std::byte* Imports::import(std::span<const std::byte> bytes) {
    memory_.push_back(backend_.import(bytes));
    return memory_.back();
}

ModelWeights::ModelWeights(const GgufFile& from, Backend& on, const ModelConfig& config)
    : file(from), backend(on), imported(on) {
    Weights weights(file, imported, widened);
    embedding = weights.matrix("token_embd.weight", config.words, config.width);
    output_norm = weights.vector("output_norm.weight", config.width);
    output = weights.has("output.weight")
                 ? weights.matrix("output.weight", config.words, config.width)
                 : embedding;
    for (int64_t l = 0; l < config.layers; ++l) layers.push_back(load_layer(weights, config, l));
    for (const char* name :
         {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}) {
        weights.use(name);  // read by read_config
    }
    for (int64_t l = 0; l < config.predicting_layers; ++l) weights.use_layer(config.layers + l);
    weights.refuse_unused(config.architecture.name);
}

static ModelConfig config_of(const GgufFile& file, const ModelOptions& options) {
    require(options.context > 0 && options.context <= (int64_t(1) << 28), ErrorCode::bad_argument,
            "model: the context must be 1 to 268435456 tokens");
    return read_config(file, options.context, options.phi3_window);
}

Model::Model(const GgufFile& file, Backend& backend, const ModelOptions& options)
    : options_(options),
      config_(config_of(file, options)),
      weights_(std::make_shared<const ModelWeights>(file, backend, config_)) {
    upload_tables();
}

Model::Model(const Model& loaded, const ModelOptions& options)
    : options_(options),
      config_(config_of(loaded.weights_->file, options)),
      weights_(loaded.weights_) {
    upload_tables();
}

// One row, or number, for every position that may be asked for.
void Model::upload_tables() {
    rope_table_ = upload_rope_table(backend(), config_.rope, config_.context);
    if (config_.local_rope != config_.rope) {
        local_rope_table_ = upload_rope_table(backend(), config_.local_rope, config_.context);
    }
    if (config_.temperature.scale == 0) return;
    std::vector<float> factors;
    for (int64_t p = 0; p < config_.context; ++p) {
        factors.push_back(float(config_.temperature.factor(p)));
    }
    temperature_ = Buffer(backend(), factors.size() * sizeof(float));
    temperature_.upload(std::as_bytes(std::span(factors)));
    backend().synchronize();  // the host's factors go out of scope
}

}  // namespace rotkv
