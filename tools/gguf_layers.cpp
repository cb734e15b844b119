#include "tools/gguf_layers.h"

#include "ref/rotation_words.h"
#include "tools/layer_words.h"
#include "tools/rotation_flags.h"
#include "tools/weights_used.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

namespace {

// Layers that are alike in something, by the first of them.
struct LayerClass {
    std::vector<int64_t> layers;
    LayerPlan plan;
};

constexpr const char* k_impossible = "impossible: the head is not whole blocks of 32";

bool alike_blocks(const LayerPlan& a, const LayerPlan& b) {
    return a.feed_forward == b.feed_forward && a.experts == b.experts &&
           a.experts_used == b.experts_used && a.expert_feed_forward == b.expert_feed_forward &&
           a.shared_feed_forward == b.shared_feed_forward;
}

bool alike_rows(const LayerPlan& a, const LayerPlan& b) {
    return a.kind == b.kind && a.heads == b.heads && a.kv_heads == b.kv_heads && a.d_k == b.d_k &&
           a.d_v == b.d_v && a.source == b.source && a.window == b.window;
}

template <class Alike>
std::vector<LayerClass> classes_of(const ModelConfig& config, const Alike& alike) {
    std::vector<LayerClass> classes;
    for (int64_t l = 0; l < config.layers; ++l) {
        const LayerPlan& plan = config.plan[std::size_t(l)];
        auto found = std::ranges::find_if(
            classes, [&](const LayerClass& one) { return alike(one.plan, plan); });
        if (found == classes.end()) found = classes.insert(found, {.layers = {}, .plan = plan});
        found->layers.push_back(l);
    }
    return classes;
}

const char* name_of(LayerKind kind) {
    switch (kind) {
        case LayerKind::grouped:
            return "attention";
        case LayerKind::latent:
            return "latent attention";
        case LayerKind::delta:
            return "gated DeltaNet";
    }
    return "";
}

// "attention: 4 query and 2 KV heads of 64 (K) and 64 (V), window 128, sinks"
std::string words_of(const LayerPlan& plan, const KvLayer& kept, const ModelConfig& config) {
    std::string words = fmt::format("{}: ", name_of(plan.kind));
    if (plan.kind == LayerKind::delta) {
        const DeltaConfig& delta = config.delta;
        return words + fmt::format("{} value and {} key heads of {}, convolution over {}",
                                   delta.heads, delta.key_heads, delta.d, delta.taps);
    }
    words += kept.v_in_k ? fmt::format("{} query heads on one row of {}, V its first {}",
                                       plan.heads, plan.d_k, plan.d_v)
                         : fmt::format("{} query and {} KV heads of {} (K) and {} (V)", plan.heads,
                                       plan.kv_heads, plan.d_k, plan.d_v);
    if (plan.source) words += fmt::format(", those of layer {}", *plan.source);
    if (plan.window > 0) {
        words += fmt::format(", {} {}", config.architecture.chunked ? "chunks of" : "window",
                             plan.window);
    }
    return words + (config.architecture.sinks ? ", sinks" : "");
}

std::string words_of_block(const LayerPlan& block) {
    std::string words;
    if (block.feed_forward > 0) words = fmt::format("{} hidden channels", block.feed_forward);
    if (block.experts == 0) return words;
    words += fmt::format("{}{} of {} experts of {} hidden channels", words.empty() ? "" : ", and ",
                         block.experts_used, block.experts, block.expert_feed_forward);
    if (block.shared_feed_forward == 0) return words;
    return words + fmt::format(", a shared one of {}", block.shared_feed_forward);
}

std::string each(const LayerClass& one) {
    return one.layers.size() == 1 ? "" : fmt::format(" in each of {} layers", one.layers.size());
}

void print_class(std::FILE* out, const LayerClass& one, const KvLayer& kept,
                 const RotationSpec& spec) {
    const int64_t state = kept.recurrent.bytes_per_stream();
    if (state > 0) {
        fmt::print(out, "  a state of {} bytes per stream{}, f32, not rotated\n", state, each(one));
        return;
    }
    if (kept.source) {
        fmt::print(out, "  nothing of its own\n");
        return;
    }
    const int64_t first = one.layers[0];
    for (const Side side : {Side::k, Side::v}) {
        const int64_t d = side == Side::k ? kept.d_k : kept.d_v;
        fmt::print(out, "  {} {}: rotation {}\n", letter(side), kept.type(side).words(d),
                   describe(spec, first, side));
    }
    const std::optional<int64_t> bytes = row_bytes_of(kept);
    if (bytes) {
        fmt::print(out, "  {} bytes per token{}\n", *bytes, each(one));
    } else {
        fmt::print(out, "  {}\n", k_impossible);
    }
}

Json json_of_class(const LayerClass& one, const KvLayer& kept, const ModelConfig& config,
                   const RotationSpec& spec) {
    const LayerPlan& plan = one.plan;
    const std::optional<int64_t> bytes = row_bytes_of(kept);
    Json json = {{"layers", one.layers},
                 {"kind", name_of(plan.kind)},
                 {"heads", plan.heads},
                 {"kv_heads", plan.kv_heads},
                 {"d_k", plan.d_k},
                 {"d_v", plan.d_v},
                 {"v_in_k", kept.v_in_k},
                 {"window", plan.window},
                 {"chunked", plan.window > 0 && config.architecture.chunked},
                 {"sinks", plan.heads > 0 && config.architecture.sinks},
                 {"reads", plan.source ? Json(*plan.source) : Json()},
                 {"bytes_per_token", bytes ? Json(plan.source ? 0 : *bytes) : Json()},
                 {"state_bytes_per_stream", kept.recurrent.bytes_per_stream()}};
    const Json rotation = json_of(spec);
    json["rotation"] = rotation.is_array() ? rotation[std::size_t(one.layers[0])] : rotation;
    return json;
}

}  // namespace

std::optional<int64_t> row_bytes_of(const KvLayer& layer) {
    if (layer.kv_heads == 0) return 0;
    const bool fits =
        layer.type_k.refusal(layer.d_k).empty() && layer.type_v.refusal(layer.d_v).empty();
    return fits ? std::optional(layer.bytes_per_token()) : std::nullopt;
}

std::optional<int64_t> row_bytes_of(const KvShape& shape) {
    for (const KvLayer& layer : shape.layers) {
        if (!row_bytes_of(layer)) return std::nullopt;
    }
    return shape.bytes_per_token();
}

void print_blocks(std::FILE* out, const GgufFile& file, const ModelConfig& config) {
    const ParameterCount count = count_parameters(file, config);
    fmt::print(out, "\n{} layers, {} parameters{}\n", config.layers, count.all,
               count.per_token == count.all
                   ? ""
                   : fmt::format(", of which a token meets {}", count.per_token));
    for (const LayerClass& one : classes_of(config, alike_blocks)) {
        fmt::print(out, "  {}, feed-forward: {}\n", words_of_layers(one.layers),
                   words_of_block(one.plan));
    }
}

void print_kept(std::FILE* out, const ModelConfig& config, const KvShape& shape,
                const RotationSpec& spec) {
    for (const LayerClass& one : classes_of(config, alike_rows)) {
        const KvLayer& kept = shape.layers[std::size_t(one.layers[0])];
        fmt::print(out, "\n{}, {}\n", words_of_layers(one.layers),
                   words_of(one.plan, kept, config));
        print_class(out, one, kept, spec);
    }
    const std::optional<int64_t> bytes = row_bytes_of(shape);
    const int64_t state = shape.recurrent().bytes_per_stream();
    fmt::print(out, "together {}{}\n",
               bytes ? fmt::format("{} bytes per token", *bytes) : k_impossible,
               state > 0 ? fmt::format(", and states of {} bytes per stream", state) : "");
}

Json json_of_layers(const GgufFile& file, const ModelConfig& config, const KvShape& shape,
                    const RotationSpec& spec) {
    Json json;
    for (const LayerClass& one : classes_of(config, alike_rows)) {
        const KvLayer& kept = shape.layers[std::size_t(one.layers[0])];
        json["layers"].push_back(json_of_class(one, kept, config, spec));
    }
    for (const LayerClass& one : classes_of(config, alike_blocks)) {
        json["feed_forward"].push_back({{"layers", one.layers},
                                        {"hidden", one.plan.feed_forward},
                                        {"experts", one.plan.experts},
                                        {"experts_used", one.plan.experts_used},
                                        {"expert_hidden", one.plan.expert_feed_forward},
                                        {"shared_hidden", one.plan.shared_feed_forward}});
    }
    const ParameterCount count = count_parameters(file, config);
    json["parameters"] = {{"all", count.all}, {"per_token", count.per_token}};
    return json;
}

}  // namespace rotkv::tools
