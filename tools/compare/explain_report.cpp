#include "tools/compare/explain_report.h"

#include "tools/compare/kld_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace rotkv::tools {

namespace {

constexpr std::size_t k_worst_heads = 5;
constexpr std::size_t k_named_layers = 4;  ///< in a sentence; more are counted

double share(double part, double whole) { return whole <= 0 ? 0 : 100 * part / whole; }

// Some heads of one layer.
ErrorShares shares_of(std::span<const OutputErrors> heads) {
    ErrorShares shares;
    double output = 0;
    for (const OutputErrors& head : heads) {
        output += head.output;
        shares.both += head.both;
        shares.keys += head.keys;
        shares.values += head.values;
        shares.temperature += head.temperature();
        shares.own += head.own;
        shares.own_by_chance += head.own_by_chance;
        shares.covariance += head.covariance;
        shares.score_variance += head.score_variance;
    }
    for (double* part : {&shares.both, &shares.keys, &shares.values, &shares.temperature,
                         &shares.own, &shares.own_by_chance}) {
        *part = output == 0 ? 0 : number_or_nan(*part / output);
    }
    shares.covariance = number_or_nan(shares.covariance);
    shares.score_variance = number_or_nan(shares.score_variance);
    return shares;
}

struct WorstHead {
    int64_t layer = 0, head = 0;
    ErrorShares shares;
};

std::vector<WorstHead> worst_heads(const Explanation& explanation) {
    std::vector<WorstHead> all;
    for (const ExplainedLayer& layer : explanation.layers) {
        for (std::size_t h = 0; h < layer.heads.size(); ++h) {
            all.push_back({layer.layer, int64_t(h), shares_of(std::span(&layer.heads[h], 1))});
        }
    }
    // Nothing is worse than what is not a number.
    const auto size = [](const WorstHead& head) {
        return std::isnan(head.shares.both) ? HUGE_VAL : head.shares.both;
    };
    std::stable_sort(all.begin(), all.end(),
                     [&](const WorstHead& a, const WorstHead& b) { return size(a) > size(b); });
    all.resize(std::min(all.size(), k_worst_heads));
    return all;
}

// Of the error: keys, values, product. Of the keys' part: temperature, own, by chance.
void print_line(std::FILE* out, const std::string& name, const ErrorShares& shares) {
    fmt::print(out, "{:<5}  {:>11.3g}", name, shares.both);
    for (const double part : {shares.keys, shares.values, shares.product()}) {
        fmt::print(out, "  {:>6.1f} %", share(part, shares.both));
    }
    fmt::print(out, "  {:>9.1f} %", share(shares.temperature, shares.keys));
    for (const double part : {shares.own, shares.own_by_chance}) {
        fmt::print(out, "  {:>6.1f} %", share(part, shares.keys));
    }
    fmt::print(out, "  {:>6.4f}\n", shares.slope());
}

void print_explanation(std::FILE* out, const std::string& letter, const Explanation& explanation) {
    fmt::print(out, "\n====== Error of attention outputs, {}: {} ======\n", letter,
               explanation.name);
    fmt::print(out, "{:<5}  {:>11}  {:>8}  {:>8}  {:>8}  {:>11}  {:>8}  {:>8}  {:>6}\n", "layer",
               "|e|^2/|o|^2", "keys", "values", "product", "temperature", "own", "chance", "slope");
    for (const ExplainedLayer& layer : explanation.layers) {
        print_line(out, std::to_string(layer.layer), layer_errors(layer));
    }
    print_line(out, "all", all_errors(explanation));
    for (const std::string& line : explanation.without_rows) fmt::print(out, "{}\n", line);
    fmt::print(out, "worst heads:");
    for (const WorstHead& worst : worst_heads(explanation)) {
        fmt::print(out, " layer {} head {} ({:.3g})", worst.layer, worst.head, worst.shares.both);
    }
    fmt::print(out, "\n{}: {}\n", letter, sentence_of(explanation));
}

nlohmann::ordered_json json_of_shares(const ErrorShares& shares) {
    return {{"error", shares.both},
            {"keys", shares.keys},
            {"values", shares.values},
            {"product", shares.product()},
            {"temperature", shares.temperature},
            {"own_temperature", shares.own},
            {"own_by_chance", shares.own_by_chance},
            {"slope", shares.slope()}};
}

}  // namespace

ErrorShares layer_errors(const ExplainedLayer& layer) { return shares_of(layer.heads); }

ErrorShares all_errors(const Explanation& explanation) {
    ErrorShares all;
    for (const ExplainedLayer& explained : explanation.layers) {
        const ErrorShares layer = layer_errors(explained);
        all.both += layer.both;
        all.keys += layer.keys;
        all.values += layer.values;
        all.temperature += layer.temperature;
        all.own += layer.own;
        all.own_by_chance += layer.own_by_chance;
        all.covariance += layer.covariance;
        all.score_variance += layer.score_variance;
    }
    return all;
}

std::vector<int64_t> layers_with_half(const Explanation& explanation) {
    std::vector<std::pair<double, int64_t>> errors;
    std::vector<int64_t> layers;
    for (const ExplainedLayer& layer : explanation.layers) {
        errors.emplace_back(-layer_errors(layer).both, layer.layer);
        if (std::isnan(errors.back().first)) layers.push_back(layer.layer);
    }
    if (!layers.empty()) return layers;
    std::sort(errors.begin(), errors.end());
    const double half = all_errors(explanation).both / 2;
    double sum = 0;
    for (const auto& [error, layer] : errors) {
        if (sum >= half) break;
        sum -= error;
        layers.push_back(layer);
    }
    return layers;
}

std::string sentence_of(const Explanation& explanation) {
    const ErrorShares all = all_errors(explanation);
    if (all.both == 0) return "no error.";
    const std::vector<int64_t> layers = layers_with_half(explanation);
    std::string who = layers.size() == 1 ? "layer " : "layers ";
    for (std::size_t i = 0; i < layers.size(); ++i) {
        who += i == 0 ? "" : i + 1 == layers.size() ? " and " : ", ";
        who += std::to_string(layers[i]);
    }
    if (layers.size() > k_named_layers) {
        who = fmt::format("{} of {} layers", layers.size(), explanation.layers.size());
    }
    if (std::isnan(all.both)) return fmt::format("the error is not a number, by {}.", who);
    return fmt::format(
        "{:.0f} % of the error comes through keys ({:.1f} % of that is a change of temperature), "
        "{:.0f} % through values; {} hold{} {} of it.",
        share(all.keys, all.both), share(all.temperature, all.keys), share(all.values, all.both),
        who, layers.size() == 1 ? "s" : "",
        layers.size() == explanation.layers.size() ? "all" : "half");
}

void print_explanations(std::FILE* out, const std::vector<Explanation>& explanations) {
    for (std::size_t i = 0; i < explanations.size(); ++i) {
        print_explanation(out, letter_of(i), explanations[i]);
    }
    std::fflush(out);
}

void add_lines(std::vector<std::string>& lines, const std::vector<Explanation>& explanations) {
    for (std::size_t i = 0; i < explanations.size(); ++i) {
        if (is_number(all_errors(explanations[i]).both)) continue;
        lines.push_back(letter_of(i) + ", outputs: " + sentence_of(explanations[i]));
    }
}

nlohmann::ordered_json json_of(const std::vector<Explanation>& explanations) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (const Explanation& explanation : explanations) {
        nlohmann::ordered_json one = {{"name", explanation.name},
                                      {"sentence", sentence_of(explanation)},
                                      {"queries_per_head", explanation.layers[0].heads[0].queries},
                                      {"all", json_of_shares(all_errors(explanation))},
                                      {"without_rows", explanation.without_rows}};
        for (const ExplainedLayer& explained : explanation.layers) {
            nlohmann::ordered_json layer = {{"layer", explained.layer}};
            layer.update(json_of_shares(layer_errors(explained)));
            const std::size_t group = explained.heads.size() / std::size_t(explained.kv_heads);
            for (std::size_t h = 0; h < explained.heads.size(); ++h) {
                nlohmann::ordered_json head = {{"head", h}, {"kv_head", h / group}};
                head.update(json_of_shares(shares_of(std::span(&explained.heads[h], 1))));
                layer["heads"].push_back(std::move(head));
            }
            one["layers"].push_back(std::move(layer));
        }
        json.push_back(std::move(one));
    }
    return json;
}

}  // namespace rotkv::tools
