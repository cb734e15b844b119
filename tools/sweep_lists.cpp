#include "tools/sweep_lists.h"

#include "tools/list_flags.h"

#include <fmt/ranges.h>

namespace rotkv::tools {

std::vector<std::string> all_cache_types() {
    std::vector<std::string> names;
    for (const DType type : cache_types()) names.push_back(type_info(type).name);
    const std::vector<std::string> formats = names_of_formats();
    names.insert(names.end(), formats.begin(), formats.end());
    return names;
}

SweepTypes parse_sweep_types(const std::string& k, const std::string& v,
                             const std::string& formats) {
    if (formats.empty()) return {types_of("-ctk", k), types_of("-ctv", v), false};
    const std::vector<CacheType> types =
        types_of("--formats",
                 formats == "all" ? fmt::format("{}", fmt::join(all_cache_types(), ",")) : formats);
    return {types, types, true};
}

}  // namespace rotkv::tools
