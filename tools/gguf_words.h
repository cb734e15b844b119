#pragma once
// Words of rotkv-gguf for what a file holds.
// Docs: docs/06-gguf.md

#include "ref/files/gguf.h"

#include <string>
#include <string_view>
#include <vector>

namespace rotkv::tools {

/// Text from a file on one line: nothing of it may reach a terminal as a command.
std::string printable(std::string_view text);

/// The type in a listing: "q8_0", "type 21 (IQ3_S), not readable here".
std::string type_words(const GgufTensor& tensor);

/// "96 x 128" as the file has it, innermost first; "one element" without dimensions.
std::string shape_words(const GgufTensor& tensor);

/// Says each notice on stderr, as LoadedModel does.
void print_notices(const std::string& path, const std::vector<std::string>& notices);

}  // namespace rotkv::tools
