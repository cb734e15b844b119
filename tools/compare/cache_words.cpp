#include "tools/compare/cache_words.h"

#include "ref/error.h"
#include "ref/rotation_words.h"
#include "tools/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

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

uint64_t seed_of(const std::string& flag, const std::string& text, const std::string& number) {
    if (const std::optional<uint64_t> seed = parse_seed(number)) return *seed;
    wrong(flag, text, fmt::format("signs: expected 0 to 2^64 - 1, found '{}'", number));
}

}  // namespace

Variant parse_variant(const std::string& flag, const std::string& text, const Variant& otherwise) {
    Variant variant{text, otherwise.type_k, otherwise.type_v, rotation_from_environment()};
    const std::map<std::string, std::string> fields = fields_of(flag, text);
    const auto rotation = [&](const std::string& value) {
        if (const auto side = find_rotation(flag, value)) return *side;
        wrong(flag, text, fmt::format("expected {}, found '{}'", rotation_choices(), value));
    };
    if (const auto rot = fields.find("rot"); rot != fields.end()) {
        variant.rotation.k = variant.rotation.v = rotation(rot->second);
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
        } else if (key != "rot") {
            wrong(flag, text,
                  fmt::format("expected k, v, rot, rot-k, rot-v or signs, found '{}'", key));
        }
    }
    require_use_of_signs(fmt::format("{} '{}': signs", flag, text), variant.rotation,
                         variant.type_k, variant.type_v);
    return variant;
}

std::vector<Variant> with_single_sides(const std::vector<Variant>& variants, const Variant& base) {
    std::vector<Variant> all = variants;
    for (const Variant& variant : variants) {
        if (variant.type_k == base.type_k || variant.type_v == base.type_v) continue;
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

KvCache make_cache(const Model& model, const WindowPlan& plan, const Variant& variant) {
    return make_cache(model, plan, variant.type_k, variant.type_v, variant.rotation);
}

}  // namespace rotkv::tools
