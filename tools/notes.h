#pragma once
// What a program says beside its results, of what a figure rests on.
// Docs: tools/README.md

#include <string>
#include <string_view>
#include <vector>

namespace rotkv::tools {

/// Text from a file on one line: nothing of it may reach a terminal as a command.
std::string printable(std::string_view text);

/// Says "TOOL: note: WORDS" on stderr, printable: words may hold text from a file.
void say_note(const std::string& tool, const std::string& words);

/// Says every notice of a file, behind its path.
void say_notices(const std::string& tool, const std::string& path,
                 const std::vector<std::string>& notices);

}  // namespace rotkv::tools
