#pragma once
// Files that the build puts beside the programs, wherever they are started from.
// Docs: tools/README.md

#include <string>

namespace rotkv::tools {

/// The path of such a file, "FOLDER/NAME" with the folder of this program; it need not be there.
std::string beside_program(const std::string& name);

}  // namespace rotkv::tools
