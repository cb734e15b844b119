// How a row goes into the cache (kv_store) and how keys move to other positions (kv_shift). Beside
// ref: tokens and cells are shared out among threads, and a step is done for all heads before the
// next one, in the thread's own memory. Rows do not wait for each other, a row's steps do.
#include "fast/kernels.h"
#include "fast/workspace.h"

namespace rotkv::fast {
namespace {

// Rows of a token, all heads: y [heads][D].
void rotate_heads(float* y, const TensorView& x, int64_t t, const RowRotation& rotation) {
    const int64_t heads = x.n[2], d = x.n[3];
    for (int64_t h = 0; h < heads; ++h) rotation.forward(y + h * d, x.row<const float>(t, h));
}

void quantize_heads(const TensorView& cache, int64_t stream, int64_t cell, const float* x) {
    const int64_t heads = cache.n[2], d = cache.n[3];
    for (int64_t h = 0; h < heads; ++h) {
        quantize_row(cache.type, cache.row<std::byte>(stream, cell, h), x + h * d, d);
    }
}

}  // namespace

// One thread owns a token: its K and its V. Two tokens of a batch never have the same cell.
void kv_store(const KvStoreArgs& args) {
    const bool with_v = !args.v_cache.empty();  // otherwise V is a view of K
    const int64_t tokens = args.k.n[1], d_k = args.k.n[3], d_v = with_v ? args.v.n[3] : 0;
    const int64_t k_floats = args.k.n[2] * d_k, v_floats = args.k.n[2] * d_v;
    const int32_t* streams = args.stream.row<const int32_t>(0);
    const int32_t* cells = args.cell.row<const int32_t>(0);
    const RowRotation k_rotation(args.k_rotation, d_k), v_rotation(args.v_rotation, d_v);
    constexpr int64_t of_element = 4;  // cost: it is rotated, scaled and rounded
    for_each_row(tokens, of_element * (k_floats + v_floats), [&](int64_t t) {
        if (cells[t] < 0) return;
        thread_local Workspace space;
        float* const k = space.reserve(k_floats + v_floats);
        float* const v = k + k_floats;
        rotate_heads(k, args.k, t, k_rotation);
        if (with_v) rotate_heads(v, args.v, t, v_rotation);
        quantize_heads(args.k_cache, streams[t], cells[t], k);
        if (with_v) quantize_heads(args.v_cache, streams[t], cells[t], v);
    });
}

// One thread owns a cell.
void kv_shift(const KvShiftArgs& args) {
    const TensorView& cache = args.k_cache;
    const int64_t cells = cache.n[1], heads = cache.n[2], d = cache.n[3];
    const int64_t n_rot = 2 * args.table.n[2];
    const RowRotation rotation(args.k_rotation, d);
#pragma omp parallel
    {
        thread_local Workspace space;
        float* const k = space.reserve(heads * d);
#pragma omp for
        for (int64_t i = 0; i < cache.n[0] * cells; ++i) {
            const int64_t stream = i / cells, cell = i % cells;
            const int32_t row = args.row.row<const int32_t>(stream)[cell];
            if (row < 0) continue;
            const float* table = args.table.row<const float>(row, 0);
            const float* factors = rope_factors(table, n_rot, args.pairs);
            const auto each_head = [&](const auto& step) {
                for (int64_t h = 0; h < heads; ++h) step(k + h * d, h);
            };
            each_head([&](float* x, int64_t h) {
                dequantize_row(cache.type, x, cache.row<const std::byte>(stream, cell, h), d);
            });
            each_head([&](float* x, int64_t) { rotation.back(x, x); });
            each_head([&](float* x, int64_t) { rope_row(x, x, d, factors, n_rot, args.pairs); });
            each_head([&](float* x, int64_t) { rotation.forward(x, x); });
            quantize_heads(cache, stream, cell, k);
        }
    }
}

}  // namespace rotkv::fast
