#include "tools/bench_cost.h"

#include "tools/weights_used.h"

#include <algorithm>
#include <cmath>

namespace rotkv::tools {

namespace {

// Of X experts, how many are expected to be read where n tokens choose A each, evenly.
double experts_read(const LayerPlan& layer, int64_t tokens) {
    const double all = double(layer.experts), unused = 1 - double(layer.experts_used) / all;
    return all * (1 - std::pow(unused, double(tokens)));
}

bool is_matrix(const GgufTensor& tensor) {
    return tensor.n_dims > 1 && !tensor.name.ends_with(".bias");
}

// Matrices that every token goes through, and those of the experts that it has.
PassCost matrices(const GgufFile& file, const ModelConfig& config, int64_t tokens) {
    PassCost work;
    for (const GgufTensor& tensor : file.tensors()) {
        if (!is_matrix(tensor)) continue;
        const WeightRole role = role_of(tensor, file, config);
        const double products = 2.0 * double(values_of(tensor)) * double(tokens);
        if (role == WeightRole::every_token) {
            work += {products, double(tensor.bytes)};
        } else if (role == WeightRole::expert) {
            const LayerPlan& layer = config.plan[std::size_t(layer_of(tensor))];
            const double all = double(layer.experts);
            work += {products * double(layer.experts_used) / all,
                     double(tensor.bytes) * experts_read(layer, tokens) / all};
        }
    }
    return work;
}

// How many cells a query at `position` sees: all up to its own, or a window of them.
int64_t visible_cells(const LayerPlan& layer, bool chunked, int64_t position) {
    const int64_t all = position + 1;
    if (layer.window == 0) return all;
    return chunked ? position % layer.window + 1 : std::min(all, layer.window);
}

// What attention reads of a token: cells, which are f32 where rows are kept in a format.
int64_t bytes_of_cell(KvLayer kept) {
    kept.type_k = kept.type_k.cells();
    kept.type_v = kept.type_v.cells();
    return kept.bytes_per_token();
}

PassCost attention_of_layer(const LayerPlan& layer, bool chunked, const KvLayer& kept,
                            int64_t first, int64_t tokens) {
    PassCost work;
    int64_t begin = first;  // of the cells that some token sees
    for (int64_t position = first; position < first + tokens; ++position) {
        const int64_t visible = visible_cells(layer, chunked, position);
        begin = std::min(begin, position + 1 - visible);
        work.flops += 2.0 * double(layer.heads * (layer.d_k + layer.d_v)) * double(visible);
    }
    work.bytes = double(first + tokens - begin) * double(bytes_of_cell(kept));
    return work;
}

// What gated DeltaNet does to its state: M k, what is missing times k^T, M q.
PassCost state_of_layer(const DeltaConfig& delta, const KvLayer& kept, int64_t tokens) {
    return {6.0 * double(delta.heads * delta.d * delta.d) * double(tokens),
            double(kept.recurrent.bytes_per_stream())};
}

}  // namespace

PassCost cost_of_pass(const GgufFile& file, const Model& model, const KvShape& cache, int64_t first,
                      int64_t tokens, bool with_logits) {
    const ModelConfig& config = model.config();
    PassCost work = matrices(file, config, tokens);
    for (std::size_t l = 0; l < config.plan.size(); ++l) {
        const LayerPlan& layer = config.plan[l];
        const KvLayer& kept = cache.layers[l];
        work += layer.kind == LayerKind::delta
                    ? state_of_layer(config.delta, kept, tokens)
                    : attention_of_layer(layer, config.architecture.chunked, kept, first, tokens);
    }
    if (with_logits) {
        const TensorView& output = model.weights().output;
        work.flops += 2.0 * double(output.n[2]) * double(output.n[3]);
        work.bytes += double(span_bytes(output));
    }
    return work;
}

}  // namespace rotkv::tools
