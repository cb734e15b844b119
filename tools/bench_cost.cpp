#include "tools/bench_cost.h"

#include <algorithm>

namespace rotkv::tools {

// The matrices of all layers: every token goes through each of them once.
static PassCost one_token_through_layers(const GgufFile& file) {
    PassCost work;
    for (const GgufTensor& tensor : file.tensors()) {
        if (tensor.n_dims != 2 || tensor.name.rfind("blk.", 0) != 0) continue;
        work.flops += 2.0 * double(tensor.n[0]) * double(tensor.n[1]);
        work.bytes += double(tensor.bytes);
    }
    return work;
}

// How many cells a query at `position` sees: all up to its own, or a window of them.
static int64_t visible_cells(const LayerPlan& layer, int64_t position) {
    const int64_t all = position + 1;
    return layer.window > 0 ? std::min(all, layer.window) : all;
}

static PassCost attention_of_layer(const LayerPlan& layer, const KvLayer& kept, int64_t first,
                                   int64_t tokens) {
    PassCost work;
    for (int64_t position = first; position < first + tokens; ++position) {
        work.flops += 2.0 * double(layer.heads * (layer.d_k + layer.d_v)) *
                      double(visible_cells(layer, position));
    }
    const int64_t seen_by_first = visible_cells(layer, first);
    work.bytes = double(seen_by_first + tokens - 1) * double(kept.bytes_per_token());
    return work;
}

PassCost cost_of_pass(const GgufFile& file, const Model& model, const KvShape& cache, int64_t first,
                      int64_t tokens, bool with_logits) {
    PassCost work = one_token_through_layers(file);
    work.flops *= double(tokens);
    for (int64_t layer = 0; layer < model.config().layers; ++layer) {
        work += attention_of_layer(model.config().plan[std::size_t(layer)],
                                   cache.layers[std::size_t(layer)], first, tokens);
    }
    if (with_logits) {
        const TensorView& output = model.weights().output;
        work.flops += 2.0 * double(output.n[2]) * double(output.n[3]);
        work.bytes += double(span_bytes(output));
    }
    return work;
}

}  // namespace rotkv::tools
