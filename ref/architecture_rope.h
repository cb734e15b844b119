#pragma once
// How the positions of a model turn its queries and keys, read from the keys of its file.
// Docs: docs/18-models.md

#include "ref/architecture.h"
#include "ref/architecture_keys.h"

namespace rotkv {

/// The first layer that attends and has no window, or else the first that attends: what RoPE and
/// the scale of scores go by.
const LayerPlan& full_layer(const ModelConfig& config);

/// Reads ModelConfig::rope, local_rope and temperature; the plan and the contexts are there.
/// Throws: Error(bad_file) and Error(unsupported) as read_config() says.
void read_rope(const GgufFile& file, const Keys& keys, ModelConfig& config);

}  // namespace rotkv
