#pragma once
// What --explain found, as tables and a sentence for people and as JSON.
// Docs: docs/13-where-the-error-comes-from.md

#include "tools/compare/explain_run.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Errors of one layer, or of several added up: shares of |o|^2, summed over the layer's heads.
struct ErrorShares {
    double both = 0, keys = 0, values = 0;  ///< |o_KV - o|^2 / |o|^2 and so on
    double temperature = 0;                 ///< of keys: one change of temperature a head
    double own = 0, own_by_chance = 0;      ///< of keys: one a query; what chance gives
    double covariance = 0, score_variance = 0;

    double product() const { return both - keys - values; }
    double slope() const { return score_variance <= 0 ? 1 : covariance / score_variance; }
};

/// One layer, its heads added up before anything is divided.
ErrorShares layer_errors(const ExplainedLayer& layer);

/// The sum of all layers' shares: each layer counts alike, however long its outputs are.
ErrorShares all_errors(const Explanation& explanation);

/// The layers with the largest errors that together hold half of all_errors().both, largest first;
/// where that is NaN, the layers whose doing it is.
std::vector<int64_t> layers_with_half(const Explanation& explanation);

/// "82 % of the error comes through keys ..., layers 0 and 27 hold half of it."
std::string sentence_of(const Explanation& explanation);

/// For each variant: a row a layer, the worst heads, the sentence.
void print_explanations(std::FILE* out, const std::vector<Explanation>& explanations);

/// Adds a line for each whose error is not a number.
void add_lines(std::vector<std::string>& lines, const std::vector<Explanation>& explanations);

/// [{name, sentence, all, layers: [{layer, ..., heads: [...]}]}]
nlohmann::ordered_json json_of(const std::vector<Explanation>& explanations);

}  // namespace rotkv::tools
