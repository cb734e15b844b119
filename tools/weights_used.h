#pragma once
// What one token has to do with a file's weights: all of most, some of the experts, a row of
// tables. Docs: docs/19-what-layers-keep.md

#include "ref/architecture.h"
#include "ref/files/gguf.h"

#include <cstdint>

namespace rotkv::tools {

/// How much of a tensor one token meets.
enum class WeightRole {
    every_token,  ///< matrices, norms, biases: all of it for each token
    expert,       ///< [X][..]: of the chosen A of X
    table,        ///< one row a token
    output,       ///< the output matrix, for tokens whose logits are asked for
    not_run,      ///< of layers that predict further tokens
};

WeightRole role_of(const GgufTensor& tensor, const GgufFile& file, const ModelConfig& config);

/// The layer that a tensor "blk.LAYER..." belongs to; -1: none.
int64_t layer_of(const GgufTensor& tensor);

/// The values of a tensor.
int64_t values_of(const GgufTensor& tensor);

/// Elements of all tensors (layers that are not run among them), and those that one token meets.
struct ParameterCount {
    int64_t all = 0, per_token = 0;  ///< per_token: with the output matrix
};
ParameterCount count_parameters(const GgufFile& file, const ModelConfig& config);

}  // namespace rotkv::tools
