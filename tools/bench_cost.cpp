#include "tools/bench_cost.h"

#include <algorithm>

namespace rotkv::tools {

// The matrices of all layers: every token goes through each of them once.
static Work one_token_through_layers(const GgufFile& file) {
    Work work;
    for (const GgufTensor& tensor : file.tensors()) {
        if (tensor.n_dims != 2 || tensor.name.rfind("blk.", 0) != 0) continue;
        work.flops += 2.0 * double(tensor.n[0]) * double(tensor.n[1]);
        work.bytes += double(tensor.bytes);
    }
    return work;
}

// How many cells a query at `position` sees: all up to its own, or a window of them.
static int64_t visible_cells(const ModelConfig& config, int64_t layer, int64_t position) {
    const int64_t all = position + 1;
    return config.local[std::size_t(layer)] ? std::min(all, config.window) : all;
}

static Work attention_of_layer(const ModelConfig& config, const KvShape& cache, int64_t layer,
                               int64_t first, int64_t tokens) {
    Work work;
    for (int64_t position = first; position < first + tokens; ++position) {
        work.flops += 2.0 * double(config.heads * (config.d_k + config.d_v)) *
                      double(visible_cells(config, layer, position));
    }
    const int64_t seen_by_first = visible_cells(config, layer, first);
    work.bytes = double(seen_by_first + tokens - 1) *
                 double(cache.layers[std::size_t(layer)].bytes_per_token());
    return work;
}

Work work_of_pass(const GgufFile& file, const Model& model, const KvShape& cache, int64_t first,
                  int64_t tokens, bool with_logits) {
    Work work = one_token_through_layers(file);
    work.flops *= double(tokens);
    for (int64_t layer = 0; layer < model.config().layers; ++layer) {
        work += attention_of_layer(model.config(), cache, layer, first, tokens);
    }
    if (with_logits) {
        const TensorView& output = model.output_weight();
        work.flops += 2.0 * double(output.n[2]) * double(output.n[3]);
        work.bytes += double(span_bytes(output));
    }
    return work;
}

}  // namespace rotkv::tools
