// All formats of the zoo: the list that CMake writes from the names of the files
// ref/zoo/format_*.cpp, and how a name finds its format in it.
#include "ref/error.h"
#include "ref/format.h"
#include "ref/zoo/zoo.h"

#include <algorithm>

namespace rotkv {

const std::vector<FormatFamily>& format_families() {
    static const std::vector<FormatFamily> families = []() {
        std::vector<FormatFamily> all = zoo::families_of_files();
        std::ranges::sort(all, {}, &FormatFamily::name);
        return all;
    }();
    return families;
}

std::vector<std::string> names_of_formats() {
    std::vector<std::string> names;
    for (const FormatFamily& family : format_families()) {
        names.insert(names.end(), family.members.begin(), family.members.end());
    }
    return names;
}

std::shared_ptr<const Format> find_format(const std::string& name) {
    const size_t colon = std::min(name.find(':'), name.size());
    const auto& families = format_families();
    const auto family = std::ranges::find(families, name.substr(0, colon), &FormatFamily::name);
    if (family == families.end()) return nullptr;
    const bool dangling = colon + 1 == name.size();
    const std::string parameter = colon < name.size() ? name.substr(colon + 1) : "";
    std::shared_ptr<const Format> format = dangling ? nullptr : family->make(name, parameter);
    if (format != nullptr) return format;
    throw Error(ErrorCode::usage,
                "format " + family->name + ": expected " +
                    (family->parameter.empty() ? "nothing behind its name"
                                               : family->name + ":" + family->parameter) +
                    ", found '" + name + "'");
}

}  // namespace rotkv
