#include "tools/compare/by_layer.h"

#include "ref/error.h"
#include "tools/compare/paired.h"
#include "tools/layer_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
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

std::vector<int64_t> parse_layers(const std::string& text, const KvShape& shape) {
    const std::vector<int64_t> asked = parse_layers(text, shape.n_layers());
    const std::vector<int64_t> own = layers_with_rows(shape);
    std::vector<int64_t> layers;
    std::ranges::set_intersection(asked, own, std::back_inserter(layers));
    if (layers.empty()) {
        throw Error(ErrorCode::usage, fmt::format("--layers {}: expected some with keys and values "
                                                  "of their own: {}",
                                                  text, words_of_layers(own)));
    }
    return layers;
}

LayerShares layer_shares(const LockStep& run, const MeasuredCache& measured) {
    const int64_t per_window = run.plan().scored_per_window();
    const auto mean = [&](std::span<const TokenPair> pairs) {
        return mean_by_windows(figures_of(pairs, &TokenPair::kld), per_window);
    };
    LayerShares shares;
    for (const LayerRun& layer : measured.layers) {
        shares.kld.push_back(mean(layer.pairs));
        shares.sum += shares.kld.back().value;
    }
    shares.whole = mean(measured.pairs).value;
    shares.complete = measured.layers.size() == layers_with_rows(measured.shape).size();
    return shares;
}

}  // namespace rotkv::tools
