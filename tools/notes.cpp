#include "tools/notes.h"

#include <fmt/format.h>

#include <cstdio>

namespace rotkv::tools {

std::string printable(std::string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7F) c = '?';
    }
    return result;
}

void say_note(const std::string& tool, const std::string& words) {
    fmt::print(stderr, "{}: note: {}\n", tool, printable(words));
}

void say_notices(const std::string& tool, const std::string& path,
                 const std::vector<std::string>& notices) {
    for (const std::string& notice : notices) say_note(tool, path + ": " + notice);
}

}  // namespace rotkv::tools
