#pragma once
// A whole search: sides and groups of layers alone, the caches worth a run, and their runs on
// windows held out.
// Docs: docs/26-search.md

#include "tools/list_flags.h"
#include "tools/loaded_model.h"
#include "tools/run_watch.h"
#include "tools/search_report.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What decides the answer, as flags.
struct SearchOptions {
    std::string bits, bytes, types = usual_types(), rot = "off,auto";
    int64_t ctx = 256, chunks = 8, held_out = 6, layer_chunks = 1, groups = 16;

    void add_to(CLI::App& app);

    /// Throws Error(usage) for flags that contradict each other.
    void check() const;
};

struct SearchRun {
    WindowPlan plan;
    SearchResult result;
    std::vector<std::string> not_numbers;

    /// Is there a choice for some budget?
    bool any_choice() const;
};

/// `progress`: lines on standard error, unless `quiet`.
/// Throws: Error(usage) as check(), for words that are none, a budget that is too small, a text
/// with fewer windows than asked for; Error(unsupported) for a model without keys and values.
SearchRun run_search(LoadedModel& loaded, const std::string& text, const SearchOptions& options,
                     bool quiet, const RunWatch& watch);

/// {version, model, text, notices, ..., budgets, finalists, sides, layers, ..., not_numbers};
/// `text`: the name of a file, or empty.
nlohmann::ordered_json json_of(const LoadedModel& loaded, const SearchRun& run,
                               const std::string& text);

}  // namespace rotkv::tools
