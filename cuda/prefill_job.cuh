#pragma once
// What a kernel of prefill is launched with, and the host's choices: how many blocks of threads
// share the cells of a stream, and what fits.
// Docs: docs/05-attention.md

#include "cuda/attention_combine.cuh"
#include "cuda/attention_parts.cuh"
#include "cuda/prefill_tile.cuh"
#include "ref/backend.h"

namespace rotkv::cuda::prefill {

struct Place;

// The arguments and what follows from their shapes.
struct Job {
    AttentionArgs args;
    Side k, v;
    Pieces k_cut, v_cut;
    Divisor group;  // query heads of a KV head
    uint32_t rows, kv_heads;
    uint32_t groups;              // of warps in a block
    float q_scale, cap;           // cap > 0: scores become cap tanh(s / cap), in bits
    const float* sinks;           // null: none
    bool q_vectors, dst_vectors;  // rows on 16 bytes
    Parts parts;                  // if used: of each row, in place of its output
    Task task;                    // for rows that are computed once more

    __device__ Strip strip(int64_t stream) const {
        const std::byte* row = args.position.data + stream * args.position.stride[2];
        return {reinterpret_cast<const int32_t*>(row),
                reinterpret_cast<const int32_t*>(args.used.data)[stream]};
    }
    __device__ int32_t q_stream(uint32_t t) const {
        return reinterpret_cast<const int32_t*>(args.q_stream.data)[t];
    }
    __device__ int32_t q_position(uint32_t t) const {
        return reinterpret_cast<const int32_t*>(args.q_position.data)[t];
    }
    __device__ int64_t part(const Place& at, uint32_t row) const;
};

/// For a kernel with so many groups of warps a block, and so many tiles where they need a stage.
inline Job job_of(const AttentionArgs& args, uint32_t groups, uint32_t tiles) {
    const uint32_t kv_heads = uint32_t(args.k_cache.n[2]);
    const int64_t group = args.q.n[2] / std::max(1u, kv_heads);
    const int64_t d_k = args.q.n[3], d_v = args.dst.n[3];
    const uint32_t piece = std::max(d_k, d_v) > 128 ? 256 : 128;  // a whole row
    const float bits = args.scale * k_log2_e;
    return {args,
            Side(args.k_cache, tiles),
            Side(args.v_cache, tiles),
            Pieces(args.k_rotation, d_k, piece),
            Pieces(args.v_rotation, d_v, piece),
            Divisor(group),
            uint32_t(args.q.n[1] * group),
            kv_heads,
            groups,
            args.softcap > 0 ? 2 * bits / args.softcap : bits,
            args.softcap > 0 ? args.softcap * k_log2_e : 0,
            args.sinks.empty() ? nullptr : args.sinks.row<const float>(0),
            rows_on_16_bytes(args.q),
            rows_on_16_bytes(args.dst),
            Parts(),
            Task(args)};
}

// As many splits as make the walk shorter: `blocks` without splits run on the processors in rounds,
// and a split's share of the cells is what a round takes. Rounds that are as good as full are
// enough, since parts cost time too.
inline int64_t choose_splits(const AttentionArgs& args, const Workspace& workspace, int64_t blocks,
                             int64_t cells_of_tile) {
    const int64_t tiles = (args.k_cache.n[1] + cells_of_tile - 1) / cells_of_tile;
    const int64_t parts = workspace.bytes / (args.q.n[1] * args.q.n[2] * part_bytes(args.dst.n[3]));
    const int64_t most = std::min({int64_t(k_most_splits), tiles / 2, parts});
    const auto walk = [&](int64_t splits) {  // in tiles
        const int64_t rounds = (blocks * splits + workspace.processors - 1) / workspace.processors;
        return double(rounds) / double(splits);
    };
    int64_t best = 1;
    for (int64_t splits = 2; splits <= most; ++splits) {
        if (walk(splits) < 0.85 * walk(best)) best = splits;
    }
    return best;
}

// Parts of so many splits. A single one is not needed, unless somebody asks for lse.
inline Parts choose_parts(const AttentionArgs& args, const Workspace& workspace, int64_t blocks,
                          int64_t cells_of_tile) {
    const int64_t splits = choose_splits(args, workspace, blocks, cells_of_tile);
    if (splits == 1 && args.lse.empty()) return {};
    return parts_in(workspace, args.q.n[1] * args.q.n[2], args.dst.n[3], splits);
}

/// Are cells near enough for 32-bit numbers?
inline bool strides_fit(const AttentionArgs& args) {
    return std::max(args.k_cache.stride[1], args.v_cache.stride[1]) < int64_t(1) << 32;
}

}  // namespace rotkv::cuda::prefill
