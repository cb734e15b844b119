#pragma once
// What is not a number in a run of several caches, cache by cache.
// Docs: docs/07-measuring.md

#include "tools/compare/kld_run.h"
#include "tools/compare/not_numbers.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <string>
#include <vector>

namespace rotkv::tools {

struct RunNotNumbers {
    NotNumbers base, floor;
    std::vector<NotNumbers> variants;
    /// One for each of them that has any; where the base has none, also for layers alone and runs
    /// with a changed bit.
    std::vector<std::string> lines;
};

/// Counts them, and looks for the first one's cause in the base and in each variant.
RunNotNumbers find_not_numbers(const LockStep& run, const Model& model);

/// The lines under a heading; nothing where everything is a number.
void print_not_numbers(std::FILE* out, const RunNotNumbers& found);

/// "not_numbers" for the base, the floor and every variant of json_of(LockStep).
void add_to(nlohmann::ordered_json& json, const RunNotNumbers& found);

}  // namespace rotkv::tools
