// Version 1, threads: ref/attention.cpp with its loops in vectors of f32, and query heads shared
// out among threads. A cached row is expanded into the L1 cache, then used. The gains that the next
// versions name: q8_0, 2048 cells, 9 heads on 3 KV heads, D = 64, 30 layers, AVX-512, two cores.
#include "fast/decode.h"
#include "fast/simd.h"
#include "fast/workspace.h"

#include <algorithm>
#include <vector>

namespace rotkv::fast {
namespace {

float dot(const float* a, const float* b, int64_t n) {
    Vec sum(0.0f);
    for (int64_t i = 0; i < n; i += k_lanes) {
        sum = fma(load_part(a + i, n - i), load_part(b + i, n - i), sum);
    }
    return sum_lanes(sum);
}

// y += p x
void add_row(float* y, float p, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; i += k_lanes) {
        const Vec sum = fma(Vec(p), load_part(x + i, n - i), load_part(y + i, n - i));
        store_part(y + i, sum, n - i);
    }
}

void attend(const AttentionArgs& args, const RowRotation& k_rotation, const RowRotation& v_rotation,
            int64_t t, int64_t h) {
    const int64_t d_k = args.q.n[3], d_v = args.dst.n[3];
    const int64_t stream = args.q_stream.row<const int32_t>(0)[t];
    const int64_t kv = h / (args.q.n[2] / args.k_cache.n[2]);
    const int64_t used = used_cells(args, t);
    std::vector<int32_t> cells(static_cast<size_t>(used));
    const int64_t seen = visible_cells(cells.data(), args, t, 0, used);

    thread_local Workspace space;
    float* const q = space.reserve(2 * (d_k + d_v) + seen + k_lanes);
    float *const sum = q + d_k, *const k = sum + d_v, *const v = k + d_k, *const scores = v + d_v;
    load_query(q, args, k_rotation, t, h);
    for (int64_t i = 0; i < seen; ++i) {
        const int64_t c = cells[size_t(i)];
        dequantize_row(args.k_cache.type, k, args.k_cache.row<const std::byte>(stream, c, kv), d_k);
        scores[i] = dot(q, k, d_k);
    }
    Softmax softmax;
    softmax_step(softmax, scores, seen, args.softcap);
    std::fill_n(sum, d_v, 0.0f);
    for (int64_t i = 0; i < seen; ++i) {
        const int64_t c = cells[size_t(i)];
        dequantize_row(args.v_cache.type, v, args.v_cache.row<const std::byte>(stream, c, kv), d_v);
        add_row(sum, scores[i], v, d_v);
    }
    store_output(args, v_rotation, t, h, sum, softmax);
}

}  // namespace

void decode_threads(const AttentionArgs& args) {
    const int64_t tokens = args.q.n[1], heads = args.q.n[2];
    const RowRotation k_rotation(args.k_rotation, args.q.n[3]);
    const RowRotation v_rotation(args.v_rotation, args.dst.n[3]);
#pragma omp parallel for
    for (int64_t i = 0; i < tokens * heads; ++i) {
        attend(args, k_rotation, v_rotation, i / heads, i % heads);
    }
}

}  // namespace rotkv::fast
