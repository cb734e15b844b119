#include "tools/layer_words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

namespace rotkv::tools {

// "0-2", "5": three and more neighbours as a range.
static std::vector<std::string> ranges_of(std::span<const int64_t> layers) {
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
    return parts;
}

std::string list_of_layers(std::span<const int64_t> layers) {
    return fmt::format("{}", fmt::join(ranges_of(layers), "+"));
}

std::string words_of_layers(std::span<const int64_t> layers) {
    constexpr std::size_t k_most = 12, k_first = 4;
    std::vector<std::string> parts = ranges_of(layers);
    if (parts.size() > k_most) {
        parts.erase(parts.begin() + k_first, parts.end() - 1);
        parts.insert(parts.end() - 1, "...");
    }
    return fmt::format("{} {}", layers.size() == 1 ? "layer" : "layers", fmt::join(parts, " "));
}

const char* letter(Side side) { return side == Side::k ? "K" : "V"; }

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

int64_t values_per_token(const KvShape& shape) {
    int64_t values = 0;
    for (const KvLayer& layer : shape.layers) {
        const int64_t of_head = layer.d_k + (layer.v_in_k ? 0 : layer.d_v);
        if (!layer.source) values += layer.kv_heads * of_head;
    }
    return values;
}

double mean_bytes_per_token(const KvShape& shape) {
    return double(shape.bytes_per_token()) +
           double(shape.f16_bytes_per_stream()) / double(shape.cells);
}

double bits_per_value(const KvShape& shape) {
    const double values = double(values_per_token(shape));
    if (values == 0) return std::numeric_limits<double>::quiet_NaN();
    return 8 * mean_bytes_per_token(shape) / values;
}

std::string words_of_bits(const KvShape& shape) {
    const bool any = std::ranges::any_of(shape.layers, [](const KvLayer& layer) {
        return layer.type_k.format() != nullptr || layer.type_v.format() != nullptr;
    });
    return any || shape.f16_tokens.any()
               ? fmt::format(" ({:.6g} bits per value)", bits_per_value(shape))
               : "";
}

std::string words_of_bytes(const KvShape& shape) {
    const int64_t all = shape.n_layers(), own = int64_t(layers_with_rows(shape).size());
    const std::string of = own == all ? "" : fmt::format("{} of ", own);
    const int64_t state = shape.recurrent().bytes_per_stream();
    const auto [first, recent] = shape.f16_tokens;
    const std::string in_f16 =
        shape.f16_tokens.any()
            ? fmt::format(", and {} bytes per stream for the first {} and {} recent tokens in f16",
                          shape.f16_bytes_per_stream(), first, recent)
            : "";
    return fmt::format("{} bytes per token in {}{} layers{}{}", shape.bytes_per_token(), of, all,
                       in_f16,
                       state > 0 ? fmt::format(", and a state of {} bytes per stream", state) : "");
}

}  // namespace rotkv::tools
