#pragma once
// K or V as the copy engine of 9.0 sees it: a map of its rows, made on the host, with which one
// thread asks for the rows of many cells at once (prefill_producer.cuh). A kernel gets it by value.
// Docs: docs/05-attention.md

#include "ref/types.h"

#include <cuda.h>

#include <cstdint>

namespace rotkv::cuda::prefill {

/// The driver's function that makes maps; null where there is no driver.
using MapEncoder = decltype(&::cuTensorMapEncodeTiled);
MapEncoder map_encoder();

/// Rows as units of two bytes, [streams][cells][heads][units], from the multiple of 16 bytes at or
/// before the cache's beginning on. Where heads do not lie on 16 bytes from each other, which the
/// engine asks for, a cell's heads are one long row.
struct RowMap {
    CUtensorMap map;
    uint32_t units_before;   // the cache
    uint32_t units_of_head;  // where a head begins in the long row, or 0
    uint32_t rows_of_head;   // 1, or 0 in a long row
};

/// A map whose boxes are `units` of each of `cells` cells; swizzled: of 64 units, in the order of
/// prefill_tile.cuh. Past a row's or a stream's end there are zeros. False where rows lie so that
/// the engine cannot take them; where there is no driver, whom to ask, true.
bool map_rows(RowMap& map, const TensorView& cache, uint32_t units, uint32_t cells, bool swizzled);

/// Bytes of a row in shared memory that begins as far behind 16 bytes as the cache's strides allow:
/// an odd number of 16-byte pieces, against conflicts.
inline uint32_t slot_of(const TensorView& cache, uint32_t row_bytes) {
    const uint64_t all = reinterpret_cast<uintptr_t>(cache.data) | uint64_t(cache.stride[0]) |
                         uint64_t(cache.stride[1]) | uint64_t(cache.stride[2]) | 16;
    const uint32_t most_skew = 16 - uint32_t(all & (~all + 1));
    return (row_bytes + most_skew + 15) / 16 * 16 | 16;
}

}  // namespace rotkv::cuda::prefill
