#pragma once
// Files that the build puts beside the programs, wherever they are started from.
// Docs: tools/README.md

#include <string>

namespace rotkv::tools {

/// The path of such a file, "FOLDER/NAME" with the folder of this program; it need not be there.
std::string beside_program(const std::string& name);

/// The path that was asked for or, where it is empty, of the demo's text.
/// Throws Error(io) where a program was moved without that.
std::string text_or_demo(const std::string& asked);

}  // namespace rotkv::tools
