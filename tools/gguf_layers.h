#pragma once
// The layers of a model, class by class: what each keeps of a token and of a stream, which sides of
// it rotate and why, and how many weights a token meets.
// Docs: docs/19-what-layers-keep.md

#include "ref/architecture.h"
#include "ref/files/gguf.h"
#include "ref/rotation.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <optional>

namespace rotkv::tools {

/// Bytes of a token's rows in one layer; nothing where the type's blocks do not fit them.
std::optional<int64_t> row_bytes_of(const KvLayer& layer);

/// The same of all layers.
std::optional<int64_t> row_bytes_of(const KvShape& shape);

/// The parameters of the file, and what each layer has of feed-forward blocks and experts.
void print_blocks(std::FILE* out, const GgufFile& file, const ModelConfig& config);

/// What layers keep in the types of `shape`, rotated as `spec` says: those alike in kind, heads,
/// window and whose rows they read together; then what all do.
void print_kept(std::FILE* out, const ModelConfig& config, const KvShape& shape,
                const RotationSpec& spec);

/// {layers, feed_forward, parameters}
nlohmann::ordered_json json_of_layers(const GgufFile& file, const ModelConfig& config,
                                      const KvShape& shape, const RotationSpec& spec);

}  // namespace rotkv::tools
