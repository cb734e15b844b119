#include "tools/weights_used.h"

#include <charconv>
#include <string_view>

namespace rotkv::tools {

int64_t layer_of(const GgufTensor& tensor) {
    constexpr std::string_view k_block = "blk.";
    const std::string_view name = tensor.name;
    int64_t layer = -1;
    if (!name.starts_with(k_block)) return layer;
    std::from_chars(name.data() + k_block.size(), name.data() + name.size(), layer);
    return layer;
}

int64_t values_of(const GgufTensor& tensor) {
    int64_t values = 1;
    for (int i = 0; i < tensor.n_dims; ++i) values *= tensor.n[i];
    return values;
}

WeightRole role_of(const GgufTensor& tensor, const GgufFile& file, const ModelConfig& config) {
    if (layer_of(tensor) >= config.layers) return WeightRole::not_run;
    const bool of_experts = tensor.name.find("_exps.") != std::string::npos;
    if (of_experts && layer_of(tensor) >= 0) return WeightRole::expert;
    if (tensor.name == "output.weight") return WeightRole::output;
    if (tensor.name == "per_layer_token_embd.weight") return WeightRole::table;
    if (tensor.name != "token_embd.weight") return WeightRole::every_token;
    return file.find_listed("output.weight") == nullptr ? WeightRole::output : WeightRole::table;
}

ParameterCount count_parameters(const GgufFile& file, const ModelConfig& config) {
    ParameterCount count;
    for (const GgufTensor& tensor : file.tensors()) {
        const int64_t values = values_of(tensor);
        count.all += values;
        switch (role_of(tensor, file, config)) {
            case WeightRole::every_token:
            case WeightRole::output:
                count.per_token += values;
                break;
            case WeightRole::expert: {
                const LayerPlan& layer = config.plan[std::size_t(layer_of(tensor))];
                if (layer.experts > 0) {
                    count.per_token += values / layer.experts * layer.experts_used;
                }
                break;
            }
            case WeightRole::table:
                count.per_token += tensor.n[0];
                break;
            case WeightRole::not_run:
                break;
        }
    }
    return count;
}

}  // namespace rotkv::tools
