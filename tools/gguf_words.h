#pragma once
// Words of rotkv-gguf for what a file holds.
// Docs: docs/06-gguf.md

#include "ref/files/gguf.h"

#include <string>

namespace rotkv::tools {

/// The type in a listing: "q8_0", "type 21 (IQ3_S), not readable here".
std::string type_words(const GgufTensor& tensor);

/// "96 x 128" as the file has it, innermost first; "one element" without dimensions.
std::string shape_words(const GgufTensor& tensor);

}  // namespace rotkv::tools
