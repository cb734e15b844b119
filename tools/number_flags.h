#pragma once
// Flags that take a number: decimal digits of the range that makes sense, and nothing else. A flag
// that reads 010 as 8, takes nan for a number within bounds, or 3x for 3 measures something else
// than was asked for.
// Docs: tools/README.md

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <type_traits>

namespace rotkv::tools {

/// A whole number. Throws Error(usage) that names the flag, the range and what was found.
int64_t parse_whole(const std::string& flag, const std::string& text, int64_t least, int64_t most);

/// A finite number, as 0.8 or 1e-3. Throws Error(usage) likewise.
double parse_real(const std::string& flag, const std::string& text, double least, double most);

/// -1 or a whole number from 1 on: how many at most, -1 for all. Throws Error(usage) likewise.
int64_t parse_limit(const std::string& flag, const std::string& text);

/// "-c" of "-c,--ctx-size", for errors.
inline std::string first_name(const std::string& names) { return names.substr(0, names.find(',')); }

/// Adds a flag for a whole number into `value`: a number, whose default --help shows, or an
/// optional.
template <class Value>
CLI::Option* add_whole(CLI::App& app, const std::string& names, Value& value, int64_t least,
                       int64_t most, const std::string& what) {
    CLI::Option* option = app.add_option_function<std::string>(
        names,
        [flag = first_name(names), least, most, &value](const std::string& text) {
            value = static_cast<Value>(parse_whole(flag, text, least, most));
        },
        what);
    if constexpr (std::is_integral_v<Value>) option->default_str(std::to_string(value));
    return option->type_name("N");
}

}  // namespace rotkv::tools
