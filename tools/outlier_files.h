#pragma once
// What rotkv-outliers writes.
// Docs: docs/11-outliers.md

#include "tools/outlier_survey.h"

#include <nlohmann/json.hpp>

#include <string>

namespace rotkv::tools {

/// The lines of print_heads with every type's errors beside them, as comma-separated values.
void write_csv(const std::string& path, const Survey& survey);

/// {layers, sinks, signs_seed, heads, verdicts}
nlohmann::ordered_json json_of(const Survey& survey);

/// Files DIR/layer00.k.npy and so on, [T][heads][D] f32; none of what a layer does not keep. DIR
/// must not exist.
void write_npy(const std::string& folder, const Survey& survey);

}  // namespace rotkv::tools
