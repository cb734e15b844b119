#pragma once
// What cases that fail have in common, told from their names: fields that split them from those
// that pass.
// Docs: docs/10-testing-your-engine.md

#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One or two sentences for each operation of which two cases or more fail, such as
/// "attention: every case with rot-v fails, every one without passes". A field counts as there
/// where a name spells it out, that is, where it is not its default. All sentences are true of the
/// cases given and of no others.
std::vector<std::string> shared_fields(std::span<const std::string> failed,
                                       std::span<const std::string> passed);

}  // namespace rotkv::tools
