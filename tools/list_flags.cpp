#include "tools/list_flags.h"

#include "ref/error.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

std::vector<std::string> parts_of(const char* flag, const std::string& list) {
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

std::string refuse_empty(const std::string& list) {
    return list.empty() ? "expected a list, found ''" : "";
}

std::vector<CacheType> types_of(const char* flag, const std::string& list) {
    std::vector<CacheType> types;
    for (const std::string& name : parts_of(flag, list)) {
        types.push_back(parse_cache_type(flag, name));
    }
    return types;
}

std::string usual_types() {
    std::string list;
    for (const DType type : usual_cache_types()) {
        list += (list.empty() ? "" : ",") + std::string(type_info(type).name);
    }
    return list;
}

std::vector<AskedRotation> rotations_of(const char* flag, const std::string& list) {
    std::vector<AskedRotation> rotations;
    for (const std::string& text : parts_of(flag, list)) {
        rotations.push_back(parse_asked_rotation(flag, text));
    }
    return rotations;
}

}  // namespace rotkv::tools
