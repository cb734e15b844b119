#pragma once
// What each layer's cache costs with all other layers as in the base, and whether the layers'
// damages add up to the whole.
// Docs: docs/13-where-the-error-comes-from.md

#include "tools/compare/kld_run.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Parses "0,5-9", ascending and each layer once; nothing stands for all of the model's `layers`.
/// Throws Error(usage).
std::vector<int64_t> parse_layers(const std::string& text, int64_t layers);

/// The same without layers that keep no keys and values of their own: nothing of them is quantized.
/// Throws Error(usage) where no other was asked for.
std::vector<int64_t> parse_layers(const std::string& text, const KvShape& shape);

/// The mean KLD of one variant, layer by layer.
struct LayerShares {
    std::vector<Mean> kld;  ///< one a layer that was run, error by windows
    double sum = 0;         ///< of those
    double whole = 0;       ///< all layers at once
    bool complete = false;  ///< every layer with rows of its own was run
};
LayerShares layer_shares(const LockStep& run, const MeasuredCache& measured);

}  // namespace rotkv::tools
