#include "tools/sweep_lists.h"

#include "ref/error.h"
#include "tools/cli.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

// The parts of "a,b,c", each of them once.
static std::vector<std::string> parts_of(const std::string& flag, const std::string& list) {
    std::vector<std::string> parts;
    for (std::size_t begin = 0; begin <= list.size();) {
        const std::size_t end = std::min(list.find(',', begin), list.size());
        parts.push_back(list.substr(begin, end - begin));
        if (std::count(parts.begin(), parts.end(), parts.back()) > 1) {
            throw Error(ErrorCode::usage,
                        fmt::format("{} {}: '{}' stands there twice", flag, list, parts.back()));
        }
        begin = end + 1;
    }
    return parts;
}

static std::vector<CacheType> types_of(const std::string& flag,
                                       const std::vector<std::string>& names) {
    std::vector<CacheType> types;
    for (const std::string& name : names) types.push_back(parse_cache_type(flag, name));
    return types;
}

std::vector<std::string> all_cache_types() {
    std::vector<std::string> names;
    for (const DType type : cache_types()) names.push_back(type_info(type).name);
    const std::vector<std::string> formats = names_of_formats();
    names.insert(names.end(), formats.begin(), formats.end());
    return names;
}

SweepTypes parse_sweep_types(const std::string& k, const std::string& v,
                             const std::string& formats) {
    if (formats.empty())
        return {types_of("-ctk", parts_of("-ctk", k)), types_of("-ctv", parts_of("-ctv", v)),
                false};
    const char* flag = "--formats";
    const std::vector<CacheType> types =
        types_of(flag, formats == "all" ? all_cache_types() : parts_of(flag, formats));
    return {types, types, true};
}

std::vector<AskedRotation> parse_rotations(const std::string& flag, const std::string& list) {
    std::vector<AskedRotation> rotations;
    for (const std::string& text : parts_of(flag, list)) {
        rotations.push_back(parse_asked_rotation(flag, text));
    }
    return rotations;
}

}  // namespace rotkv::tools
