#include "tools/sweep_lists.h"

#include "tools/list_flags.h"

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
    if (formats.empty())
        return {types_of("-ctk", parts_of("-ctk", k)), types_of("-ctv", parts_of("-ctv", v)),
                false};
    const char* flag = "--formats";
    const std::vector<CacheType> types =
        types_of(flag, formats == "all" ? all_cache_types() : parts_of(flag, formats));
    return {types, types, true};
}

}  // namespace rotkv::tools
