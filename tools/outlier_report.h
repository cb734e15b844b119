#pragma once
// What rotkv-outliers prints and writes.
// Docs: docs/11-outliers.md

#include "tools/cli.h"
#include "tools/outlier_survey.h"

#include <cstdio>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One line per layer, head, side and rotation.
void print_heads(std::FILE* out, const Survey& survey);

/// One line per side, type and rotation: errors by law and measured, over all heads.
void print_errors(std::FILE* out, const Survey& survey);

/// What to do per side, and why: a line for each verdict that some type gets.
void print_advice(std::FILE* out, const Survey& survey);

/// One for each side, type and rotation in which some head's error is not a number.
std::vector<std::string> not_number_lines(const Survey& survey);

/// The lines of print_heads with every type's errors beside them, as comma-separated values.
void write_csv(const std::string& path, const Survey& survey);

/// {heads: [...], errors: [...], advice: [...]}
nlohmann::ordered_json json_of(const Survey& survey);

/// Files DIR/layer00.k.npy and so on, [T][heads][D] f32. DIR must not exist.
void write_npy(const std::string& folder, const Survey& survey);

}  // namespace rotkv::tools
