#pragma once
// A block of a cache type as its bytes say it: for who looks at codes, not at values.
// Docs: docs/03-quantization.md

#include "ref/quant.h"
#include "ref/types.h"

#include <cstddef>
#include <cstdint>

namespace rotkv {

/// A block of 32 taken apart.
struct BlockParts {
    uint16_t scale = 0, minimum = 0;  ///< bits of f16; minimum: 0 where the type has none
    int code[k_block] = {};           ///< as CodeInfo counts them
};

/// The parts of the block at `bytes`.
/// Throws: Error(unsupported) for a type without codes of a cache, CodeInfo::steps 0.
BlockParts block_parts(DType type, const std::byte* bytes);

}  // namespace rotkv
