#pragma once
// Names of cases on a command line.
// Docs: tools/README.md

#include <string>

namespace rotkv::tools {

/// Throws Error(usage) for a name that is no case's, in the table or beside it.
void require_case(const std::string& name);

}  // namespace rotkv::tools
