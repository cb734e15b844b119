#pragma once
// What rotkv-outliers prints.
// Docs: docs/11-outliers.md

#include "tools/outlier_survey.h"

#include <cstdio>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Which layers have no rows of their own, and what sinks take.
void print_layers(std::FILE* out, const Survey& survey);

/// One line per layer, head, part of a head, side and rotation.
void print_heads(std::FILE* out, const Survey& survey);

/// One line per side, type and rotation: errors by law and measured, over all heads.
void print_errors(std::FILE* out, const Survey& survey);

/// What to do per side, a line for each type under the verdict that it gets, and why.
void print_advice(std::FILE* out, const Survey& survey);

/// One for each side, type and rotation in which some head's error is not a number.
std::vector<std::string> not_number_lines(const Survey& survey);

}  // namespace rotkv::tools
