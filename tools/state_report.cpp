#include "tools/state_report.h"

#include "ref/rotation_words.h"
#include "tools/layer_words.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>

namespace rotkv::tools {
namespace {

// "30 layers, K q8_0 of 204 bytes a cell, V q8_0 of 204"
std::string rows_in_words(const LlamaStream& stream) {
    std::map<std::string, int64_t> kinds;
    for (size_t l = 0; l < stream.k.size(); ++l) {
        std::string kind = fmt::format("K {} of {} bytes a cell", type_info(stream.k[l].type).name,
                                       stream.k[l].row_bytes);
        if (l < stream.v.size()) {
            kind += fmt::format(", V {} of {}", type_info(stream.v[l].type).name,
                                stream.v[l].row_bytes);
        }
        ++kinds[kind];
    }
    std::string text;
    for (const auto& [kind, n] : kinds) {
        text += fmt::format("{}{} layers, {}", text.empty() ? "" : "; ", n, kind);
    }
    return text;
}

nlohmann::ordered_json said(const std::optional<int64_t>& block) {
    return block ? nlohmann::ordered_json(*block) : nlohmann::ordered_json();
}

std::string said_words(const LlamaStream& stream) {
    if (!stream.k_block) return "it does not say; compare finds it out";
    const auto words = [](int64_t n) {
        return n == 0 ? std::string("none") : fmt::format("blocks of {}", n);
    };
    return fmt::format("K {}, V {}", words(*stream.k_block), words(*stream.v_block));
}

std::string words_of(const Rotation& rotation) {
    return rotation.on() ? fmt::format("rotated in blocks of {}", rotation.block) : "not rotated";
}

// All layers of a side that are alike, in one line each.
void print_side(std::FILE* out, const StateBeside& beside, Side side) {
    struct Alike {
        int64_t layers = 0, strange = 0;
        double off = 0, otherwise = INFINITY;
        StepsApart steps;
    };
    std::map<std::string, Alike> kinds;
    for (const SideBeside& one : beside.sides) {
        if (one.side != side) continue;
        const std::string words = one.explained() ? words_of(one.rotation)
                                                  : std::string("rows that no rotation explains");
        Alike& all = kinds[fmt::format("{}, {}", type_info(one.type).name, words)];
        ++all.layers;
        all.steps.add(one.steps);
        all.strange += one.strange_cells;
        all.off = std::max(all.off, one.off);
        all.otherwise = std::min(all.otherwise, one.off_otherwise);
    }
    for (const auto& [words, all] : kinds) {
        const double n = double(all.steps.elements);
        fmt::print(out, "{} of {} layers: {}\n", letter(side), all.layers, words);
        fmt::print(out,
                   "  turned back, at most {:.3g} of their length from ours in f32; by any other "
                   "rotation at least {:.3g}\n",
                   all.off, all.otherwise);
        fmt::print(out,
                   "  beside ours in this type: {:.2f} % equal, {:.2f} % within 1.5 steps, rms "
                   "{:.3g} steps, at most {:.3g}\n",
                   100 * double(all.steps.equal) / n, 100 * double(all.steps.one_step) / n,
                   all.steps.rms(), all.steps.most);
        if (all.strange > 0) {
            fmt::print(out, "  cells that it does not explain, over all these layers: {}\n",
                       all.strange);
        }
    }
}

void print_layers(std::FILE* out, const StateBeside& beside) {
    fmt::print(
        out,
        "| layer | side | type | rotation | off from f32 | by another | equal | <= 1.5 steps | rms "
        "steps | most steps | where |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const SideBeside& one : beside.sides) {
        const double n = double(one.steps.elements);
        fmt::print(out,
                   "| {} | {} | {} | {} | {:.4f} | {:.4f} | {:.4f} | {:.4f} | {:.3f} | {:.2f} | "
                   "cell {}, head {}, channel {} |\n",
                   one.layer, letter(one.side), type_info(one.type).name,
                   one.explained() ? rotation_name(one.rotation) : "?", one.off, one.off_otherwise,
                   double(one.steps.equal) / n, double(one.steps.one_step) / n, one.steps.rms(),
                   one.steps.most, one.cell, one.head, one.steps.channel);
    }
}

// One sentence on all of it.
std::string verdict(const StateBeside& beside) {
    for (const SideBeside& one : beside.sides) {
        if (!one.explained()) {
            return fmt::format(
                "Not a cache of these tokens and this model, or not rotated alike: {} of "
                "layer {}, {} of {} cells{}.",
                letter(one.side), one.layer, one.strange_cells, one.cells,
                one.strange_cells == 0
                    ? ""
                    : fmt::format(", the first at position {}", one.first_strange));
        }
    }
    if (!beside.explained()) return "The file says another rotation than its bytes hold.";
    if (beside.as_policy()) {
        return beside.never_rotated()
                   ? "As llama.cpp has it with these types: not rotated, whatever is set."
                   : "As llama.cpp rotates these types: load it with LLAMA_ATTN_ROT_DISABLE unset.";
    }
    if (beside.never_rotated()) {
        return "Not rotated, where llama.cpp would: load it with LLAMA_ATTN_ROT_DISABLE=1.";
    }
    return "No setting of llama.cpp's rotates these types so, in these layers.";
}

}  // namespace

nlohmann::ordered_json describe(const LlamaState& state, std::FILE* out) {
    fmt::print(out, "{}: llama.cpp's, of a {}, version {}; {} tokens{}\n", state.path,
               state.is_session ? "session" : "sequence", state.version, state.tokens.size(),
               state.architecture.empty() ? "" : ", architecture " + printable(state.architecture));
    nlohmann::ordered_json caches = nlohmann::ordered_json::array();
    for (size_t c = 0; c < state.caches.size(); ++c) {
        for (size_t s = 0; s < state.caches[c].size(); ++s) {
            const LlamaStream& stream = state.caches[c][s];
            if (stream.position.empty()) continue;
            const auto [low, high] =
                std::minmax_element(stream.position.begin(), stream.position.end());
            fmt::print(out, "  cache {}, stream {}: {} cells at positions {} .. {}; {}\n", c, s,
                       stream.position.size(), *low, *high, rows_in_words(stream));
            fmt::print(out, "  rotation, by the file: {}\n", said_words(stream));
            if (stream.sequences > 1) fmt::print(out, "  of {} sequences\n", stream.sequences);
            caches.push_back({{"cache", c},
                              {"stream", s},
                              {"cells", stream.position.size()},
                              {"sequences", stream.sequences},
                              {"k_block", said(stream.k_block)},
                              {"v_block", said(stream.v_block)},
                              {"layers", stream.k.size()}});
        }
    }
    return {{"file", state.path},
            {"session", state.is_session},
            {"architecture", state.architecture},
            {"tokens", state.tokens.size()},
            {"caches", caches}};
}

void print_beside(std::FILE* out, const StateBeside& beside, bool layers) {
    print_side(out, beside, Side::k);
    print_side(out, beside, Side::v);
    if (layers) print_layers(out, beside);
    fmt::print(out, "{}\n", verdict(beside));
}

nlohmann::ordered_json json_of(const StateBeside& beside) {
    nlohmann::ordered_json sides = nlohmann::ordered_json::array();
    for (const SideBeside& one : beside.sides) {
        sides.push_back({{"layer", one.layer},
                         {"side", letter(one.side)},
                         {"type", type_info(one.type).name},
                         {"explained", one.explained()},
                         {"cells", one.cells},
                         {"strange_cells", one.strange_cells},
                         {"rotation", rotation_name(one.rotation)},
                         {"off", one.off},
                         {"off_otherwise", one.off_otherwise},
                         {"elements", one.steps.elements},
                         {"equal", one.steps.equal},
                         {"one_step", one.steps.one_step},
                         {"rms_steps", one.steps.rms()},
                         {"most_steps", one.steps.most},
                         {"cell", one.cell},
                         {"head", one.head},
                         {"channel", one.steps.channel}});
    }
    return sides;
}

}  // namespace rotkv::tools
