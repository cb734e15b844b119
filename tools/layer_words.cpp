#include "tools/layer_words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <utility>

namespace rotkv::tools {

std::string words_of_layers(std::span<const int64_t> layers) {
    constexpr std::size_t k_most = 12, k_first = 4;
    std::vector<std::string> parts;
    for (std::size_t first = 0; first < layers.size();) {
        std::size_t end = first + 1;
        while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
        if (end - first < 3) end = first + 1;
        const bool several = end > first + 1;
        parts.push_back(std::to_string(layers[first]) +
                        (several ? fmt::format("-{}", layers[end - 1]) : ""));
        first = end;
    }
    if (parts.size() > k_most) {
        parts.erase(parts.begin() + k_first, parts.end() - 1);
        parts.insert(parts.end() - 1, "...");
    }
    return fmt::format("{} {}", layers.size() == 1 ? "layer" : "layers", fmt::join(parts, " "));
}

std::vector<int64_t> layers_with_rows(const KvShape& shape) {
    std::vector<int64_t> layers;
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        if (layer.kv_heads > 0 && !layer.source) layers.push_back(l);
    }
    return layers;
}

std::vector<std::string> layers_without_rows(const KvShape& shape) {
    std::vector<int64_t> states;
    std::map<int64_t, std::vector<int64_t>> readers;  // by whose rows they read
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        const KvLayer& layer = shape.layers[std::size_t(l)];
        if (layer.kv_heads == 0) states.push_back(l);
        if (layer.source) readers[*layer.source].push_back(l);
    }
    const auto line = [](const std::vector<int64_t>& layers, const char* one, const char* several,
                         const std::string& what) {
        return fmt::format("{} {} {}", words_of_layers(layers), layers.size() == 1 ? one : several,
                           what);
    };
    std::vector<std::string> lines;
    if (!states.empty()) {
        lines.push_back(line(states, "keeps", "keep", "a state, no keys and values"));
    }
    for (const auto& [source, layers] : readers) {
        const std::string what = fmt::format("the keys and values of layer {}", source);
        lines.push_back(line(layers, "reads", "read", what));
    }
    return lines;
}

std::string words_of_bytes(const KvShape& shape) {
    const int64_t all = shape.n_layers(), own = int64_t(layers_with_rows(shape).size());
    const std::string of = own == all ? "" : fmt::format("{} of ", own);
    const int64_t state = shape.recurrent().bytes_per_stream();
    return fmt::format("{} bytes per token in {}{} layers{}", shape.bytes_per_token(), of, all,
                       state > 0 ? fmt::format(", and a state of {} bytes per stream", state) : "");
}

}  // namespace rotkv::tools
