#pragma once
// The second half of parsing a GGUF file: the list of its tensors, and the places of their data.
// Docs: docs/06-gguf.md

#include "ref/files/byte_cursor.h"
#include "ref/files/gguf.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rotkv {

/// Reads the list. Offsets are still relative to the data, views empty, and tensors of a type that
/// is not readable here have no size yet.
/// Throws: Error(bad_file) for what breaks the format.
std::vector<GgufTensor> read_tensors(ByteCursor& cursor, uint64_t n_tensors, uint64_t alignment);

/// Gives every tensor its place in the file, and a view of its bytes where they can be read.
/// Throws: Error(bad_file) where tensors share bytes or lie past the end of the file.
void place_tensors(std::vector<GgufTensor>& tensors, uint64_t data_offset,
                   std::span<const std::byte> bytes, const std::string& file);

}  // namespace rotkv
