// The cache's operations: how a row goes in (kv_store), and how keys move to other positions
// (kv_shift). Who sits in which cell is kv_cells.cpp's business.
#include "ref/hadamard.h"
#include "ref/kernels.h"
#include "ref/quant.h"

#include <vector>

namespace rotkv::ref {

// One head row of one token: rotate, quantize, write.
static void store_row(const TensorView& cache, int64_t stream, int64_t cell, int64_t head,
                      const float* x, const Rotation& rotation) {
    const int64_t d = cache.n[3];
    std::vector<float> rotated(static_cast<size_t>(d));
    hadamard_row(rotated.data(), x, d, rotation, false);
    quantize_row(cache.type, cache.row<std::byte>(stream, cell, head), rotated.data(), d);
}

void kv_store(const KvStoreArgs& args) {
    const int64_t tokens = args.k.n[1], kv_heads = args.k.n[2];
    for (int64_t t = 0; t < tokens; ++t) {
        const int32_t stream = ints(args.stream)[t];
        const int32_t cell = ints(args.cell)[t];
        if (cell < 0) continue;
        for (int64_t head = 0; head < kv_heads; ++head) {
            store_row(args.k_cache, stream, cell, head, args.k.row<const float>(t, head),
                      args.k_rotation);
            if (args.v_cache.empty()) continue;  // V is a view of K
            store_row(args.v_cache, stream, cell, head, args.v.row<const float>(t, head),
                      args.v_rotation);
        }
    }
}

void kv_shift(const KvShiftArgs& args) {
    const TensorView& cache = args.k_cache;
    const int64_t d = cache.n[3], n_rot = 2 * args.table.n[2];
    std::vector<float> k(static_cast<size_t>(d));
    for (int64_t stream = 0; stream < cache.n[0]; ++stream) {
        for (int64_t cell = 0; cell < cache.n[1]; ++cell) {
            const int32_t row = ints(args.row, stream)[cell];
            if (row < 0) continue;
            const float* turn = args.table.row<const float>(row, 0);
            for (int64_t head = 0; head < cache.n[2]; ++head) {
                // RoPE and the Hadamard matrix do not commute: back to plain channels first.
                const std::byte* cached = cache.row<const std::byte>(stream, cell, head);
                dequantize_row(cache.type, k.data(), cached, d);
                hadamard_row(k.data(), k.data(), d, args.k_rotation, true);
                rope_row(k.data(), k.data(), d, turn, n_rot, args.pairs);
                store_row(cache, stream, cell, head, k.data(), args.k_rotation);
            }
        }
    }
}

}  // namespace rotkv::ref
