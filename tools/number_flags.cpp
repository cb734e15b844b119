#include "tools/number_flags.h"

#include "ref/error.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <system_error>

namespace rotkv::tools {

[[noreturn]] static void wrong(const std::string& flag, const std::string& expected,
                               const std::string& text) {
    throw Error(ErrorCode::usage, fmt::format("{}: expected {}, found '{}'", flag, expected, text));
}

// All of the text; nothing where it is more than a number, or one that int64_t does not hold.
static std::optional<int64_t> whole_of(const std::string& text) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return number;
}

int64_t parse_whole(const std::string& flag, const std::string& text, int64_t least, int64_t most) {
    const std::optional<int64_t> number = whole_of(text);
    if (number && *number >= least && *number <= most) return *number;
    wrong(flag, fmt::format("a whole number from {} to {}", least, most), text);
}

// strtod also reads spaces, words and hexadecimal digits.
double parse_real(const std::string& flag, const std::string& text, double least, double most) {
    const bool decimal = text.find_first_not_of("0123456789+-.eE") == std::string::npos;
    char* end = nullptr;
    const double number = decimal && !text.empty() ? std::strtod(text.c_str(), &end) : NAN;
    const bool whole = end != nullptr && *end == '\0' && end != text.c_str();
    if (whole && number >= least && number <= most) return number;
    wrong(flag, fmt::format("a number from {} to {}", least, most), text);
}

int64_t parse_limit(const std::string& flag, const std::string& text) {
    const std::optional<int64_t> number = whole_of(text);
    if (number && (*number == -1 || *number >= 1)) return *number;
    wrong(flag, "a whole number from 1 on, or -1 for all", text);
}

}  // namespace rotkv::tools
