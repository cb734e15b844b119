#pragma once
// A file as one block of bytes.
// Docs: docs/06-gguf.md

#include <cstddef>
#include <string>
#include <vector>

namespace rotkv {

/// Throws: Error(io) where there is no regular file (a device has no end), or it cannot be read.
std::vector<std::byte> whole_file(const std::string& path);

}  // namespace rotkv
