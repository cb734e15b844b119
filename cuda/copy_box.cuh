#pragma once
// One instruction that copies the rows of many cells to shared memory, from 9.0 on.
// Docs: docs/05-attention.md

#include "cuda/phase_barrier.cuh"
#include "cuda/prefill_map.h"

namespace rotkv::cuda::prefill {

/// The engine copies a box of a map, whose bytes `full` expects, to shared memory: from this unit
/// of the head's rows on, or from the multiple of 16 bytes before it, and from this cell on.
__device__ inline void copy_box(const PhaseBarrier& full, uint32_t to, const RowMap& map,
                                uint32_t unit, uint32_t head, int32_t cell, int32_t stream) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4, %5}], [%6];"
        :
        : "r"(to), "l"(&map.map), "r"((map.units_before + unit + head * map.units_of_head) & ~7u),
          "r"(head * map.rows_of_head), "r"(cell), "r"(stream), "r"(full.address())
        : "memory");
}

/// Bytes of a row of codes in shared memory.
inline uint32_t slot_of(const TensorView& cache, uint32_t row_bytes) {
    const uint64_t all = reinterpret_cast<uintptr_t>(cache.data) | uint64_t(cache.stride[0]) |
                         uint64_t(cache.stride[1]) | uint64_t(cache.stride[2]) | 16;
    const uint32_t most_skew = 16 - uint32_t(all & (~all + 1));
    return (row_bytes + most_skew + 15) / 16 * 16 | 16;
}

}  // namespace rotkv::cuda::prefill
