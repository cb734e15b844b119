#include "tools/compare/cache_words.h"

#include "ref/error.h"
#include "ref/key_bias.h"
#include "ref/rotation_words.h"
#include "tools/loaded_model.h"
#include "tools/rotation_of_both.h"
#include "tools/unread_cells.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

namespace rotkv::tools {

namespace {

[[noreturn]] void wrong(const std::string& flag, const std::string& text, const std::string& what) {
    throw Error(ErrorCode::usage, fmt::format("{} '{}': {}", flag, text, what));
}

// The fields of "k=q4_0,rot=off".
std::map<std::string, std::string> fields_of(const std::string& flag, const std::string& text) {
    std::map<std::string, std::string> fields;
    for (std::size_t begin = 0; begin <= text.size();) {
        const std::size_t end = std::min(text.find(',', begin), text.size());
        const std::string field = text.substr(begin, end - begin);
        const std::size_t equals = field.find('=');
        if (equals == std::string::npos || equals + 1 == field.size()) {
            wrong(flag, text, fmt::format("expected KEY=VALUE, found '{}'", field));
        }
        const std::string key = field.substr(0, equals);
        if (!fields.emplace(key, field.substr(equals + 1)).second) {
            wrong(flag, text, fmt::format("'{}' stands there twice", key));
        }
        begin = end + 1;
    }
    return fields;
}

CacheType cache_type(const std::string& flag, const std::string& text, const std::string& name) {
    return parse_cache_type(fmt::format("{} '{}'", flag, text), name);
}

int64_t whole(const std::string& flag, const std::string& key, const std::string& value,
              int64_t least) {
    return parse_whole(fmt::format("{}: {}", flag, key), value, least, int64_t(1) << 20);
}

// "0-2+7": the layers, ascending or not; each is added to `places`.
void read_layers(std::vector<LayerType>& places, const std::string& flag, const std::string& key,
                 const CacheType& type) {
    const Side side = key[0] == 'k' ? Side::k : Side::v;
    for (std::size_t begin = 2; begin <= key.size();) {
        const std::size_t end = std::min(key.find('+', begin), key.size());
        const std::string part = key.substr(begin, end - begin);
        const std::size_t dash = part.find('-');
        const int64_t first = whole(flag, key, part.substr(0, dash), 0);
        const int64_t last =
            dash == std::string::npos ? first : whole(flag, key, part.substr(dash + 1), first);
        for (int64_t layer = first; layer <= last; ++layer) {
            for (const LayerType& place : places) {
                if (place.side != side || place.layer != layer) continue;
                throw Error(ErrorCode::usage,
                            fmt::format("{}: {}: layer {} stands there twice", flag, key, layer));
            }
            places.push_back({side, layer, type});
        }
        begin = end + 1;
    }
}

// A field of a placement; false for any other.
bool read_placement(Placement& placement, const std::string& flag, const std::string& key,
                    const std::string& value) {
    if (key == "first") {
        placement.tokens.first = whole(flag, key, value, 0);
    } else if (key == "recent") {
        placement.tokens.recent = whole(flag, key, value, 0);
    } else if (key == "ends") {
        const std::size_t colon = value.rfind(':');  // names of formats have some of their own
        if (colon == std::string::npos) {
            throw Error(ErrorCode::usage,
                        fmt::format("{}: ends: expected TYPE:N, found '{}'", flag, value));
        }
        placement.ends = parse_cache_type(flag + ": ends", value.substr(0, colon));
        placement.end_layers = whole(flag, key, value.substr(colon + 1), 1);
    } else if (key.starts_with("k:") || key.starts_with("v:")) {
        read_layers(placement.layers, flag, key, parse_cache_type(flag + ": " + key, value));
    } else {
        return false;
    }
    return true;
}

// That some layer is of few bits, where tokens are asked for in f16.
void require_use_of_tokens(const std::string& who, const Placement& placement, const CacheType& k,
                           const CacheType& v) {
    const bool any =
        k.quantized() || v.quantized() || (placement.ends && placement.ends->quantized()) ||
        std::ranges::any_of(placement.layers,
                            [](const LayerType& place) { return place.type.quantized(); });
    if (any || !placement.tokens.any()) return;
    throw Error(ErrorCode::usage,
                who + ": first and recent change nothing, neither side is of few bits");
}

uint64_t seed_of(const std::string& flag, const std::string& text, const std::string& number) {
    if (const std::optional<uint64_t> seed = parse_seed(number)) return *seed;
    wrong(flag, text, fmt::format("signs: expected 0 to 2^64 - 1, found '{}'", number));
}

}  // namespace

Placement parse_placement(const std::string& flag, const std::string& text) {
    Placement placement;
    for (const auto& [key, value] : fields_of(flag, text)) {
        if (read_placement(placement, flag, key, value)) continue;
        wrong(flag, text,
              fmt::format("expected first, recent, ends, k:LAYERS or v:LAYERS, found '{}'", key));
    }
    return placement;
}

Placement placement_of(const CacheFlags& flags) {
    if (flags.place.empty()) return {};
    const Placement placement = parse_placement("--place", flags.place);
    require_use_of_tokens("--place", placement, flags.type_k(), flags.type_v());
    return placement;
}

void add_place_flag(CLI::App& app, std::string& place) {
    app.add_option("--place", place,
                   "tokens in f16 and layers of another type: "
                   "first=N,recent=N,ends=TYPE:N,k:LAYERS=TYPE,v:LAYERS=TYPE, layers as 0-2+7")
        ->type_name("FIELDS");
}

Variant parse_variant(const std::string& flag, const std::string& text, const Variant& otherwise) {
    Variant variant{text, otherwise.type_k, otherwise.type_v, rotation_from_environment(), {},
                    false};
    const std::map<std::string, std::string> fields = fields_of(flag, text);
    const auto rotation = [&](const std::string& value) {
        if (const auto side = find_rotation(flag, value)) return *side;
        wrong(flag, text, fmt::format("expected {}, found '{}'", rotation_choices(), value));
    };
    if (const auto rot = fields.find("rot"); rot != fields.end()) {
        const auto both = find_rotation_of_both(flag, rot->second);
        if (!both) {
            wrong(flag, text,
                  fmt::format("expected {}, found '{}'", rotation_choices_of_both(), rot->second));
        }
        variant.rotation.k = both->k;
        variant.rotation.v = both->v;
    }
    for (const auto& [key, value] : fields) {
        if (key == "k") {
            variant.type_k = cache_type(flag, text, value);
        } else if (key == "v") {
            variant.type_v = cache_type(flag, text, value);
        } else if (key == "rot-k") {
            variant.rotation.k = rotation(value);
        } else if (key == "rot-v") {
            variant.rotation.v = rotation(value);
        } else if (key == "signs") {
            variant.rotation.signs = seed_of(flag, text, value);
        } else if (key == "kbias") {
            if (value != "on" && value != "off") {
                wrong(flag, text, fmt::format("kbias: expected on or off, found '{}'", value));
            }
            variant.key_bias = value == "on";
        } else if (key != "rot" && !read_placement(variant.placement, flag, key, value)) {
            wrong(flag, text,
                  fmt::format("expected k, v, rot, rot-k, rot-v, signs, first, recent, ends, "
                              "k:LAYERS, v:LAYERS or kbias, found '{}'",
                              key));
        }
    }
    require_use_of_signs(fmt::format("{} '{}': signs", flag, text), variant.rotation,
                         variant.type_k, variant.type_v);
    require_use_of_tokens(fmt::format("{} '{}'", flag, text), variant.placement, variant.type_k,
                          variant.type_v);
    return variant;
}

std::vector<Variant> with_single_sides(const std::vector<Variant>& variants, const Variant& base) {
    std::vector<Variant> all = variants;
    for (const Variant& variant : variants) {
        if (variant.type_k == base.type_k || variant.type_v == base.type_v) continue;
        // What layers have for themselves is not split.
        if (variant.placement.ends || !variant.placement.layers.empty()) continue;
        Variant only_k = variant, only_v = variant;
        only_k.name += " [K only]";
        only_k.type_v = base.type_v;
        only_k.rotation.v = base.rotation.v;
        only_v.name += " [V only]";
        only_v.type_k = base.type_k;
        only_v.rotation.k = base.rotation.k;
        all.push_back(only_k);
        all.push_back(only_v);
    }
    return all;
}

PlannedCache plan_cache(const Model& model, const Variant& variant, int64_t streams, int64_t cells,
                        int64_t last) {
    const KvShape shape = variant.placement.in(
        model.config().cache_shape(streams, cells, variant.type_k, variant.type_v));
    require_quantized_reads(model.config(), shape, last);
    RotationSpec spec = decide_rotation(variant.rotation, shape);
    if (!variant.key_bias) return {shape, std::move(spec)};
    return {without_key_bias(model, shape, spec), std::move(spec)};
}

KvCache make_cache(const Model& model, const WindowPlan& plan, const Variant& variant) {
    const PlannedCache planned =
        plan_cache(model, variant, plan.windows_at_once(), plan.ctx, last_scored(plan));
    return KvCache(model.backend(), planned.shape, planned.spec);
}

}  // namespace rotkv::tools
