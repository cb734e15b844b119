#pragma once
// Whether a GGUF file is sound, and a model that runs here.
// Docs: docs/06-gguf.md

#include "ref/architecture.h"
#include "ref/files/gguf.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// The model's numbers, or why this file gives none (a vocabulary, an unknown architecture).
struct MaybeConfig {
    std::optional<ModelConfig> config;
    std::string reason;
};
MaybeConfig config_of(const GgufFile& file);

/// What is assumed of the vocabulary, where there is one, and of the model, where there is one.
std::vector<std::string> notices_of(const GgufFile& file, const MaybeConfig& model);

struct CheckResult {
    bool ok = false;  ///< all of it was checked, and is as it should be
    nlohmann::ordered_json json;
};

/// Reads every weight, the vocabulary, and everything the model needs. Prints a line on each, says
/// what is assumed of the file, and last "ok" or what is not: "format ok, model not checked".
/// Throws: Error(bad_file) for a weight that is no finite number, by tensor, row and column.
CheckResult check_gguf(const GgufFile& file, std::FILE* out);

}  // namespace rotkv::tools
