#include "tools/saved_report.h"

#include "tools/layer_words.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace rotkv::tools {
namespace {

// A field of a layer as text; "" where this version has none of that name.
std::string text_of(const SavedCache& saved, int64_t layer, const std::string& name) {
    for (const SavedField& field : saved.layer(layer)) {
        if (field.name != name) continue;
        return field.is_text ? printable(field.text) : std::to_string(field.number);
    }
    return "";
}

std::string side_in_words(const SavedCache& saved, const KvLayer& layer, int64_t l, Side side) {
    const std::string name = letter(side), rotation = text_of(saved, l, "rotation of " + name);
    return fmt::format("{} {} [{}][{}]{}{}", name, text_of(saved, l, "type of " + name),
                       layer.kv_heads, side == Side::k ? layer.d_k : layer.d_v,
                       rotation.empty() ? "" : ", rotation ", rotation);
}

std::string layer_in_words(const SavedCache& saved, const KvShape& shape, int64_t l) {
    const KvLayer& layer = shape.layers[size_t(l)];
    if (layer.source) return fmt::format("reads the rows of layer {}", *layer.source);
    std::string words;
    if (layer.recurrent.heads > 0) {
        words = fmt::format("a state of {} bytes a stream", layer.recurrent.bytes_per_stream());
    }
    if (layer.kv_heads == 0) return words.empty() ? "keeps nothing" : words;
    size_t bytes = 0;
    for (const SavedPart& part : parts_of(layer)) bytes += part.token_bytes;
    words += (words.empty() ? "" : "; ") + side_in_words(saved, layer, l, Side::k) + "; " +
             (layer.v_in_k ? fmt::format("V in K, from channel {} on", layer.v_first)
                           : side_in_words(saved, layer, l, Side::v));
    const std::string both = text_of(saved, l, "rotation");  // of version 1
    if (!both.empty()) words += "; rotation " + both;
    return fmt::format("{}; {} bytes a token", words, bytes);
}

nlohmann::ordered_json json_of_layer(const SavedCache& saved, int64_t l) {
    nlohmann::ordered_json fields = {{"layer", l}};
    for (const SavedField& field : saved.layer(l)) {
        std::string name(field.name);
        std::ranges::replace(name, ' ', '_');
        if (field.is_text) {
            fields[name] = field.text;
        } else {
            fields[name] = field.number;
        }
    }
    return fields;
}

nlohmann::ordered_json number_or_null(int32_t position) {
    return position < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(position);
}

nlohmann::ordered_json describe_streams(const SavedCache& saved, std::FILE* out) {
    nlohmann::ordered_json streams = nlohmann::ordered_json::array();
    for (size_t s = 0; s < saved.streams.size(); ++s) {
        const SavedStream& stream = saved.streams[s];
        int32_t low = -1, high = -1;
        for (const int32_t p : stream.position) {
            if (p < 0) continue;
            low = low < 0 ? p : std::min(low, p), high = std::max(high, p);
        }
        fmt::print(out, "  stream {}: {} tokens in {} cells{}", s, stream.tokens,
                   stream.position.size(),
                   high < 0 ? "" : fmt::format(" at positions {} .. {}", low, high));
        const bool held = saved.has_states();
        fmt::print(out, "{}\n",
                   held ? fmt::format("; its states hold {} tokens from position {} on",
                                      stream.held.next - stream.held.first, stream.held.first)
                        : "");
        streams.push_back({{"tokens", stream.tokens},
                           {"cells", stream.position.size()},
                           {"first", number_or_null(low)},
                           {"last", number_or_null(high)}});
    }
    return streams;
}

// Of the furthest element.
std::string place_of(const HeadBeside& head) {
    if (head.position < 0) return "-";
    return fmt::format("stream {}, position {}, channel {}", head.stream, head.position,
                       head.apart.channel);
}

std::string amount(const HeadBeside& head, double x) {
    return fmt::format("{:.3g} {}", x, head.in_steps ? "steps" : "of the row");
}

void print_heads(std::FILE* out, const SavedBeside& beside) {
    fmt::print(out,
               "| layer | side | head | type | elements | differ | rms | at most | where "
               "|\n|---|---|---|---|---|---|---|---|---|\n");
    for (const HeadBeside& head : beside.heads) {
        fmt::print(out, "| {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", head.layer,
                   letter(head.side), head.head, head.type, head.apart.elements,
                   head.apart.differ(), amount(head, head.apart.rms()),
                   amount(head, head.apart.most), place_of(head));
    }
}

// All heads of a side: how many differ, where that begins; and where it is worst, in steps and,
// of formats, in shares of a row.
void print_side(std::FILE* out, const SavedBeside& beside, Side side) {
    int64_t heads = 0, other = 0, elements = 0, differ = 0, first = -1;
    const HeadBeside* worst[2] = {nullptr, nullptr};
    for (const HeadBeside& head : beside.heads) {
        if (head.side != side) continue;
        ++heads, elements += head.apart.elements, differ += head.apart.differ();
        if (head.apart.differ() == 0) continue;
        ++other;
        if (first < 0) first = head.layer;
        const HeadBeside*& most = worst[head.in_steps];
        if (most == nullptr || head.apart.most > most->apart.most) most = &head;
    }
    if (heads == 0) return;
    fmt::print(out, "{}: {} of {} elements differ, in {} of {} heads{}\n", letter(side), differ,
               elements, other, heads, first < 0 ? "" : fmt::format(", from layer {} on", first));
    for (const HeadBeside* most : worst) {
        if (most == nullptr) continue;
        fmt::print(out, "  by {} at most: layer {}, head {}, {}\n", amount(*most, most->apart.most),
                   most->layer, most->head, place_of(*most));
    }
}

}  // namespace

nlohmann::ordered_json describe(const SavedCache& saved, std::FILE* out) {
    const KvShape shape = shape_of(saved);
    fmt::print(out, "{}: rotkv's, version {}, {} bytes; of the model {}\n", saved.path,
               saved.version, saved.file.size(), hexadecimal(saved.fingerprint));
    nlohmann::ordered_json streams = describe_streams(saved, out);
    std::map<std::string, std::vector<int64_t>> kinds;
    nlohmann::ordered_json layers = nlohmann::ordered_json::array();
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
        kinds[layer_in_words(saved, shape, l)].push_back(l);
        layers.push_back(json_of_layer(saved, l));
    }
    std::vector<std::pair<int64_t, std::string>> lines;  // in the order of their first layers
    for (const auto& [words, of] : kinds) {
        lines.emplace_back(of[0], fmt::format("  {}: {}\n", words_of_layers(of), words));
    }
    std::ranges::sort(lines);
    for (const auto& [first, line] : lines) fmt::print(out, "{}", line);
    return {{"file", saved.path},
            {"version", saved.version},
            {"bytes", saved.file.size()},
            {"model", hexadecimal(saved.fingerprint)},
            {"bytes_of_rows_and_states", saved.data_bytes},
            {"streams", streams},
            {"layers", layers}};
}

void print_beside(std::FILE* out, const SavedBeside& beside, bool heads) {
    if (heads) print_heads(out, beside);
    for (const Side side : {Side::k, Side::v}) print_side(out, beside, side);
    if (beside.states.elements > 0) {
        fmt::print(out, "states: {} of {} elements differ, by {:.3g} steps of f32 at most\n",
                   beside.states.differ(), beside.states.elements, beside.states.most);
    }
    fmt::print(out, "{}\n",
               beside.elements() == 0 ? "There is nothing to compare."
               : beside.differ() == 0 ? "Equal."
                                      : "Not equal.");
}

nlohmann::ordered_json json_of(const SavedBeside& beside) {
    nlohmann::ordered_json heads = nlohmann::ordered_json::array();
    for (const HeadBeside& head : beside.heads) {
        heads.push_back({{"layer", head.layer},
                         {"side", letter(head.side)},
                         {"head", head.head},
                         {"type", head.type},
                         {"elements", head.apart.elements},
                         {"differ", head.apart.differ()},
                         {"unit", head.in_steps ? "steps" : "rms of the row"},
                         {"rms", head.apart.rms()},
                         {"most", head.apart.most},
                         {"stream", head.stream},
                         {"position", head.position},
                         {"channel", head.apart.channel}});
    }
    return {{"elements", beside.elements()},
            {"differ", beside.differ()},
            {"states",
             {{"elements", beside.states.elements},
              {"differ", beside.states.differ()},
              {"most", beside.states.most}}},
            {"heads", heads}};
}

bool within(const SavedBeside& beside, double most_steps) {
    const auto good = [&](const StepsApart& apart, bool in_steps) {
        return apart.differ() == 0 || (in_steps && apart.most <= most_steps);
    };
    return good(beside.states, true) &&
           std::ranges::all_of(beside.heads, [&](const HeadBeside& head) {
               return good(head.apart, head.in_steps);
           });
}

}  // namespace rotkv::tools
