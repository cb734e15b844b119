#pragma once
// A file as one block of bytes.
// Docs: docs/06-gguf.md

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace rotkv {

/// All of it, or its first `most` bytes.
/// Throws: Error(io) where there is no regular file (a device has no end), or it cannot be read.
std::vector<std::byte> whole_file(const std::string& path, std::uint64_t most = UINT64_MAX);

}  // namespace rotkv
