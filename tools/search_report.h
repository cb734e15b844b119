#pragma once
// What a search found: a table, the words to use it with, and JSON.
// Docs: docs/26-search.md

#include "tools/search_choice.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace rotkv::tools {

/// All that is told of a search.
struct SearchResult {
    DamageModel damage;
    std::vector<Budget> budgets;
    std::vector<Finalist> finalists;
    std::vector<Nominated> nominated;  ///< [budget]
    std::vector<Answer> answers;       ///< [budget]
    int64_t values_per_token = 0;
    int64_t side_windows = 0, layer_windows = 0, held_out = 0, ctx = 0;
    int64_t windows_read = 0;  ///< by all caches together
    double seconds = 0;
};

void print_search(std::FILE* out, const SearchResult& result);

/// {budgets: [...], finalists: [...], sides: [...], layers: [...], windows_read, seconds}
nlohmann::ordered_json json_of(const SearchResult& result);

}  // namespace rotkv::tools
