// From the file's tensors to a Model: every weight it needs is there in the expected shape, and
// every tensor of the file is one it uses.
#include "ref/error.h"
#include "ref/file_weights.h"
#include "ref/files/gguf.h"
#include "ref/model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

namespace {

template <class Number>
Buffer upload(Backend& backend, const std::vector<Number>& numbers) {
    Buffer memory(backend, numbers.size() * sizeof(Number));
    memory.upload(std::as_bytes(std::span(numbers)));
    backend.synchronize();  // the host's numbers go out of scope
    return memory;
}

// A table with one row for every position that may be asked for.
Buffer upload_rope_table(Backend& backend, const RopeConfig& config, int64_t context) {
    std::vector<int32_t> positions(static_cast<size_t>(context));
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = int32_t(i);
    return upload(backend, rope_table(config, positions));
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
    FileWeights weights(file, imported, widened);
    embedding = weights.matrix("token_embd.weight", config.words, config.width);
    output_norm = weights.vector("output_norm.weight", config.width);
    output = config.architecture.own_output || weights.has("output.weight")
                 ? weights.matrix("output.weight", config.words, config.width)
                 : embedding;
    if (const int64_t narrow = config.per_layer_width; narrow > 0) {
        const int64_t all = config.layers * narrow;
        per_layer_embedding = weights.matrix("per_layer_token_embd.weight", config.words, all);
        per_layer_projection = weights.matrix("per_layer_model_proj.weight", all, config.width);
        per_layer_norm = weights.vector("per_layer_proj_norm.weight", narrow);
    }
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

// Numbers that all batches read: by position (RoPE, temperature), and constants of delta layers
// and of heads that have matrices.
void Model::upload_tables() {
    rope_table_ = upload_rope_table(backend(), config_.rope, config_.context);
    if (config_.local_rope != config_.rope) {
        local_rope_table_ = upload_rope_table(backend(), config_.local_rope, config_.context);
    }
    if (config_.temperature.scale != 0) {
        std::vector<float> factors;
        for (int64_t p = 0; p < config_.context; ++p) {
            factors.push_back(float(config_.temperature.factor(p)));
        }
        temperature_ = upload(backend(), factors);
    }
    if (const int64_t d = config_.delta.d; d > 0) {
        unit_ = upload(backend(), std::vector<float>(size_t(d), 1 / std::sqrt(float(d))));
    }
    if (config_.latent.absorbed) {
        int64_t most = 0;
        for (const LayerPlan& layer : config_.plan) most = std::max(most, layer.heads);
        std::vector<int32_t> heads(static_cast<size_t>(most));
        std::iota(heads.begin(), heads.end(), 0);
        heads_ = upload(backend(), heads);
    }
}

}  // namespace rotkv
