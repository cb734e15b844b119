// How a row goes into the cache (kv_store) and how keys move to other positions (kv_shift). Beside
// ref: tokens and cells are shared out among threads, and the rotated row between the two steps
// lives in the thread's own memory.
#include "fast/kernels.h"
#include "fast/workspace.h"

#include <algorithm>

namespace rotkv::fast {
namespace {

// One head row of one token: rotate, quantize, write. scratch [D]; x may be scratch.
void store_row(const TensorView& cache, int64_t stream, int64_t cell, int64_t head, const float* x,
               const RowRotation& rotation, float* scratch) {
    rotation.forward(scratch, x);
    quantize_row(cache.type, cache.row<std::byte>(stream, cell, head), scratch, cache.n[3]);
}

}  // namespace

// One thread owns a token: its K, then its V. Two tokens of a batch never have the same cell.
void kv_store(const KvStoreArgs& args) {
    const bool with_v = !args.v_cache.empty();  // otherwise V is a view of K
    const int64_t tokens = args.k.n[1], kv_heads = args.k.n[2];
    const int64_t d_v = with_v ? args.v.n[3] : 0, d = std::max(args.k.n[3], d_v);
    const int32_t* streams = args.stream.row<const int32_t>(0);
    const int32_t* cells = args.cell.row<const int32_t>(0);
    const RowRotation k_rotation(args.k_rotation, args.k.n[3]), v_rotation(args.v_rotation, d_v);
#pragma omp parallel if (tokens * kv_heads * (args.k.n[3] + d_v) >= k_parallel_from)
    {
        thread_local Workspace space;
        float* const rotated = space.reserve(d);
#pragma omp for
        for (int64_t t = 0; t < tokens; ++t) {
            if (cells[t] < 0) continue;
            for (int64_t head = 0; head < kv_heads; ++head) {
                store_row(args.k_cache, streams[t], cells[t], head,
                          args.k.row<const float>(t, head), k_rotation, rotated);
            }
            for (int64_t head = 0; with_v && head < kv_heads; ++head) {
                store_row(args.v_cache, streams[t], cells[t], head,
                          args.v.row<const float>(t, head), v_rotation, rotated);
            }
        }
    }
}

void kv_shift(const KvShiftArgs& args) {
    const TensorView& cache = args.k_cache;
    const int64_t cells = cache.n[1], kv_heads = cache.n[2], d = cache.n[3];
    const int64_t n_rot = 2 * args.table.n[2];
    const RowRotation rotation(args.k_rotation, d);
#pragma omp parallel
    {
        thread_local Workspace space;
        float* const k = space.reserve(d);
#pragma omp for
        for (int64_t i = 0; i < cache.n[0] * cells; ++i) {
            const int64_t stream = i / cells, cell = i % cells;
            const int32_t row = args.row.row<const int32_t>(stream)[cell];
            if (row < 0) continue;
            const float* table = args.table.row<const float>(row, 0);
            const float* factors = rope_factors(table, n_rot, args.pairs);
            for (int64_t head = 0; head < kv_heads; ++head) {
                dequantize_row(cache.type, k, cache.row<const std::byte>(stream, cell, head), d);
                rotation.back(k, k);
                rope_row(k, k, d, factors, n_rot, args.pairs);
                store_row(cache, stream, cell, head, k, rotation, k);
            }
        }
    }
}

}  // namespace rotkv::fast
