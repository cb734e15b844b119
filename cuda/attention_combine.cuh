#pragma once
// Where several blocks of threads share the cells of one stream: the parts of a row that they
// publish, and the kernel that makes one of them, divides, rotates back and stores.
//
// A part is, for one query head, over some of the cells,
//     most, total = sum_c 2^(s_c - most), sums_j = sum_c 2^(s_c - most) v_cj
// with scores in powers of two. The order of all sums is that of the splits, so that a second run
// gives the same bits.
// Docs: docs/05-attention.md

#include "cuda/kernels.h"

#include <cuda_runtime.h>

namespace rotkv::cuda {

constexpr uint32_t k_most_splits = 256;

/// In device memory, where a stream's cells are split among several blocks.
struct Parts {
    uint32_t splits = 1;
    uint32_t fours = 0;           // groups of four channels of a value
    unsigned* arrived = nullptr;  // [T][columns] blocks that have written; 0 between launches
    float2* softmax = nullptr;    // [T][H][splits] {most, total}
    float4* sums = nullptr;       // [T][H][splits][fours]; null: rows are finished at once

    __host__ __device__ bool are_used() const { return sums != nullptr; }
};

/// Bytes of the part of one query head.
inline int64_t part_bytes(int64_t d_v) {
    return (d_v + 3) / 4 * int64_t(sizeof(float4)) + int64_t(sizeof(float2));
}

/// Parts of `rows` query heads; there is room for workspace.bytes / (rows * part_bytes(d_v)).
inline Parts parts_in(const Workspace& workspace, int64_t rows, int64_t d_v, int64_t splits) {
    Parts parts;
    parts.splits = uint32_t(splits);
    parts.fours = uint32_t((d_v + 3) / 4);
    parts.sums = reinterpret_cast<float4*>(workspace.parts);
    parts.softmax = reinterpret_cast<float2*>(parts.sums + rows * splits * parts.fours);
    return parts;
}

// Of a thread of the kernel: what the compiler takes. With more, no block would find room beside
// decode_kernel's.
constexpr uint32_t k_combine_threads = 128;
constexpr uint32_t k_combine_registers = 64;

/// Launches it behind the kernel that publishes the parts; it tells lse too. Rotation blocks of at
/// most 256 channels.
void combine_parts(const AttentionArgs& args, const Parts& parts, Stream stream);

}  // namespace rotkv::cuda
