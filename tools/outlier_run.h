#pragma once
// The run of rotkv-outliers: a text through an exact cache, every head of every layer looked at.
// Docs: docs/11-outliers.md

#include "tools/loaded_model.h"
#include "tools/outlier_survey.h"
#include "tools/run_watch.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What decides the figures, as flags.
struct OutlierOptions {
    std::string type_k, type_v;  ///< to judge the side in; empty: all types
    int64_t ctx = 512;
    int64_t asked_chunks = 0;  ///< 0: not asked for, 4; -1: all
    bool keep_rows = false;    ///< no flag: whether all captured rows are wanted

    void add_to(CLI::App& app);
};

struct OutlierRun {
    Survey survey;
    WindowPlan plan;
    std::vector<std::string> not_numbers;  ///< not_number_lines()
};

/// Throws: Error(usage) for words that are no type, Error(unsupported) for a type that some head
/// cannot be kept in, as plan_windows() for the text.
OutlierRun run_outliers(LoadedModel& loaded, const std::string& text, const OutlierOptions& options,
                        const RunWatch& watch);

/// {model, notices, backend, ..., layers, sinks, heads, verdicts, not_numbers}
nlohmann::ordered_json json_of(const LoadedModel& loaded, const OutlierRun& run);

}  // namespace rotkv::tools
