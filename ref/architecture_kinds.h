#pragma once
// What the keys of a file, and which tensors it has, make of its layers beyond their plain extents:
// their kind, the experts among them, and who reads whose cache.
// Docs: docs/18-models.md

#include "ref/architecture.h"
#include "ref/architecture_keys.h"

namespace rotkv {

/// Fills in, for a config whose plan has its extents and windows, what latent attention, gated
/// DeltaNet, layers without a cache of their own and embeddings of layers need.
/// Throws: Error(bad_file), Error(unsupported) by key, expected and found.
void plan_kinds(const GgufFile& file, const Keys& keys, ModelConfig& config);

/// Which layers have experts and how tokens choose among them, likewise.
void plan_experts(const GgufFile& file, const Keys& keys, ModelConfig& config);

}  // namespace rotkv
