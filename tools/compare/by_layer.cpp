#include "tools/compare/by_layer.h"

#include "ref/error.h"
#include "tools/compare/kld_tables.h"

#include <fmt/format.h>

#include <charconv>
#include <sstream>

namespace rotkv::tools {

namespace {

// One number of the list, all of `text`.
int64_t layer_number(const std::string& text, const std::string& list, int64_t layers) {
    int64_t layer = -1;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
    if (error != std::errc() || end != text.data() + text.size() || layer < 0 || layer >= layers) {
        throw Error(ErrorCode::usage,
                    fmt::format("--layers {}: expected layers 0 to {}, as 0,5-9, found '{}'", list,
                                layers - 1, text));
    }
    return layer;
}

}  // namespace

std::vector<int64_t> parse_layers(const std::string& text, int64_t layers) {
    std::vector<bool> chosen(std::size_t(layers), text.empty());
    // getline would not see that nothing follows the last comma.
    std::stringstream parts(text.empty() ? "" : text + (text.back() == ',' ? "," : ""));
    for (std::string part; std::getline(parts, part, ',');) {
        const std::size_t dash = part.find('-');
        const int64_t first = layer_number(part.substr(0, dash), text, layers);
        const int64_t last =
            dash == std::string::npos ? first : layer_number(part.substr(dash + 1), text, layers);
        if (last < first) {
            throw Error(ErrorCode::usage,
                        fmt::format("--layers {}: {} ends before it begins", text, part));
        }
        for (int64_t layer = first; layer <= last; ++layer) chosen[std::size_t(layer)] = true;
    }
    std::vector<int64_t> result;
    for (int64_t layer = 0; layer < layers; ++layer) {
        if (chosen[std::size_t(layer)]) result.push_back(layer);
    }
    return result;
}

LayerShares layer_shares(const LockStep& run, const Contestant& contestant) {
    const int64_t per_window = run.plan().scored_per_window();
    const auto mean = [&](std::span<const TokenPair> pairs) {
        return mean_by_windows(figures_of(pairs, &TokenPair::kld), per_window);
    };
    LayerShares shares;
    for (const LayerRun& layer : contestant.layers) {
        shares.kld.push_back(mean(layer.pairs));
        shares.sum += shares.kld.back().value;
    }
    shares.whole = mean(contestant.pairs).value;
    shares.complete = int64_t(contestant.layers.size()) == contestant.shape.n_layers();
    return shares;
}

void print_layers(std::FILE* out, const LockStep& run) {
    if (run.variants()[0].layers.empty()) return;
    std::vector<LayerShares> columns;
    fmt::print(out, "\n====== Mean KLD with one layer as in the variant ======\n{:<6}", "layer");
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        columns.push_back(layer_shares(run, run.variants()[i]));
        fmt::print(out, "  {:<29}", letter_of(i));
    }
    fmt::print(out, "\n");
    for (std::size_t l = 0; l < columns[0].kld.size(); ++l) {
        fmt::print(out, "{:<6}", run.variants()[0].layers[l].layer);
        for (const LayerShares& column : columns) {
            const Mean& kld = column.kld[l];
            const double share = column.sum > 0 ? 100 * kld.value / column.sum : 0;
            fmt::print(out, "  {:.6f} \u00B1 {:.6f} {:>7.1f} %", kld.value, kld.error, share);
        }
        fmt::print(out, "\n");
    }
    const auto line = [&](const char* name, double LayerShares::*figure) {
        fmt::print(out, "{:<6}", name);
        for (const LayerShares& column : columns) {
            const double value = column.*figure;
            const double share = column.sum > 0 ? 100 * value / column.sum : 0;
            fmt::print(out, "  {:.6f} {:>18.1f} %", value, share);
        }
        fmt::print(out, "\n");
    };
    line("sum", &LayerShares::sum);
    if (columns[0].complete) line("whole", &LayerShares::whole);
}

nlohmann::ordered_json json_of_layers(const LockStep& run, const Contestant& contestant) {
    const LayerShares shares = layer_shares(run, contestant);
    nlohmann::ordered_json json;
    for (std::size_t l = 0; l < shares.kld.size(); ++l) {
        json["layers"].push_back({{"layer", contestant.layers[l].layer},
                                  {"kld", shares.kld[l].value},
                                  {"se", shares.kld[l].error}});
    }
    json["sum"] = shares.sum;
    if (shares.complete) {
        json["whole"] = shares.whole;
        json["whole_over_sum"] = shares.whole / shares.sum;
    }
    return json;
}

}  // namespace rotkv::tools
