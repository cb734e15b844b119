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

/// The same rows into L2 only, where every write to them meets them: allowed at any time.
__device__ inline void prefetch_box(const RowMap& map, uint32_t head, int32_t cell,
                                    int32_t stream) {
    asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, %2, %3, %4}];"
                 :
                 : "l"(&map.map), "r"((map.units_before + head * map.units_of_head) & ~7u),
                   "r"(head * map.rows_of_head), "r"(cell), "r"(stream)
                 : "memory");
}

}  // namespace rotkv::cuda::prefill
