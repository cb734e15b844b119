#pragma once
// What the kernels of attention share: the arguments as they need them, which query heads a block
// of threads works on, and which cells they see. How blocks that share the cells of one stream put
// their parts together is attention_parts.cuh (in f32, by the block that ends last) and
// attention_combine.cuh (by a second kernel).
// Docs: docs/05-attention.md

#include "cuda/attention_combine.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"
#include "cuda/window.cuh"

#include <cfloat>

namespace rotkv::cuda {

/// One side of the cache. A kernel's arguments are few bytes, since none of them is near at its
/// start.
struct Cells {
    const std::byte* data;
    int64_t stream, cell, head;  // bytes from one to the next
    DType type;

    explicit Cells(const TensorView& view)
        : data(view.data),
          stream(view.stride[0]),
          cell(view.stride[1]),
          head(view.stride[2]),
          type(view.type) {}
};

/// The arguments and what follows from their shapes.
struct Task {
    const std::byte* q;
    std::byte* dst;
    int64_t q_token, q_head, dst_token, dst_head;  // bytes from one to the next
    Cells k, v;
    const std::byte* position;
    int64_t position_stream;
    const int32_t *used, *q_stream, *q_position;
    const float* sinks;  // null: none
    float* lse;          // null: nobody asks
    int64_t lse_token;   // floats from one to the next
    Pieces k_cut, v_cut;
    Sight sight;
    float scale, softcap;
    uint32_t d_k, d_v;
    uint32_t tokens, streams, cells, all_heads;
    uint32_t group, heads;     // query heads of a KV head, of a block
    uint32_t chunks, columns;  // blocks for a KV head, for a token
    Parts parts;

    explicit Task(const AttentionArgs& a)
        : q(a.q.data),
          dst(a.dst.data),
          q_token(a.q.stride[1]),
          q_head(a.q.stride[2]),
          dst_token(a.dst.stride[1]),
          dst_head(a.dst.stride[2]),
          k(a.k_cache),
          v(a.v_cache),
          position(a.position.data),
          position_stream(a.position.stride[2]),
          used(a.used.row<const int32_t>(0)),
          q_stream(a.q_stream.row<const int32_t>(0)),
          q_position(a.q_position.row<const int32_t>(0)),
          sinks(a.sinks.empty() ? nullptr : a.sinks.row<const float>(0)),
          lse(a.lse.empty() ? nullptr : a.lse.row<float>(0)),
          lse_token(a.lse.stride[2] / int64_t(sizeof(float))),
          k_cut(a.k_rotation, a.q.n[3]),
          v_cut(a.v_rotation, a.dst.n[3]),
          sight(a),
          scale(a.scale),
          softcap(a.softcap),
          d_k(uint32_t(a.q.n[3])),
          d_v(uint32_t(a.dst.n[3])),
          tokens(uint32_t(a.q.n[1])),
          streams(uint32_t(a.k_cache.n[0])),
          cells(uint32_t(a.k_cache.n[1])),
          all_heads(uint32_t(a.q.n[2])),
          group(uint32_t(a.q.n[2] / std::max<int64_t>(1, a.k_cache.n[2]))),
          heads(std::min(group, k_most_heads)),
          chunks(heads == 0 ? 0 : (group + heads - 1) / heads),
          columns(uint32_t(a.k_cache.n[2]) * chunks) {}

    dim3 grid() const { return dim3(tokens * columns, parts.splits); }
};

/// Calls `launch` with as many tokens at a time as have room for a part of each of their heads.
template <class Launch>
void in_turns(const AttentionArgs& args, const Workspace& workspace, const Launch& launch) {
    const int64_t room = workspace.bytes / (args.q.n[2] * part_bytes(args.dst.n[3]));
    const int64_t tokens = args.q.n[1], at_once = std::max<int64_t>(1, room);
    for (int64_t first = 0; first < tokens; first += at_once) {
        AttentionArgs some = args;
        some.q.n[1] = some.dst.n[1] = some.lse.n[2] = std::min(at_once, tokens - first);
        some.q.data += first * some.q.stride[1];
        some.dst.data += first * some.dst.stride[1];
        if (!some.lse.empty()) some.lse.data += first * some.lse.stride[2];
        some.q_stream.data += first * int64_t(sizeof(int32_t));
        some.q_position.data += first * int64_t(sizeof(int32_t));
        launch(some);
    }
}

/// As many splits as fill `blocks` blocks, and no more than are of use or have room for parts.
inline Parts parts_for(const Task& task, const Workspace& workspace, uint32_t blocks,
                       uint32_t useful) {
    const uint32_t columns = task.tokens * task.columns;
    const int64_t rows = int64_t(task.tokens) * task.all_heads;
    const int64_t room = workspace.bytes / (rows * part_bytes(task.d_v));
    const int64_t most = std::min<int64_t>({k_most_splits, blocks / columns, useful, room});
    if (columns > k_most_columns || most < 2) return parts_in(workspace, rows, task.d_v, 1);
    Parts parts = parts_in(workspace, rows, task.d_v, most);
    parts.arrived = workspace.arrived;
    return parts;
}

/// What this block of threads works on. Blocks that follow each other take the KV heads of the same
/// cells, whose rows are neighbours in memory.
struct Place {
    int64_t stream;
    uint32_t t, kv, first_head;
    uint32_t heads;  // fewer than task.heads in the last chunk
    uint32_t column, split;
    Seen seen;      // by the query
    uint32_t used;  // cells of the stream that can be seen, at most

    // Integers, which no kernel writes (dependent.cuh).
    __device__ void load(const Task& task) {
        stream = task.streams > 1 ? task.q_stream[t] : 0;
        const uint32_t in_use = uint32_t(task.used[stream]);
        seen = task.sight.of(task.q_position[t]);
        used = seen.last < 0 ? 0 : in_use;
    }
};

__device__ inline Place place_of(const Task& task, uint32_t of_column, uint32_t of_split) {
    Place at;
    at.column = of_column;
    at.split = of_split;
    at.t = at.column / task.columns;
    const uint32_t column = at.column - at.t * task.columns;
    at.kv = column / task.chunks;
    const uint32_t first = (column - at.kv * task.chunks) * task.heads;
    at.heads = min(task.heads, task.group - first);
    at.first_head = at.kv * task.group + first;
    at.load(task);
    return at;
}

__device__ inline Place place_of(const Task& task) {
    return place_of(task, blockIdx.x, blockIdx.y);
}

/// The stream's positions.
__device__ inline const int32_t* positions(const Task& task, const Place& at) {
    return reinterpret_cast<const int32_t*>(task.position + at.stream * task.position_stream);
}

/// The row of cell 0.
__device__ inline const std::byte* cells_of(const Cells& side, const Place& at) {
    return side.data + at.stream * side.stream + at.kv * side.head;
}

/// sum += p v
__device__ inline void add_scaled(float4& sum, float p, const float4& v) {
    sum = {fmaf(p, v.x, sum.x), fmaf(p, v.y, sum.y), fmaf(p, v.z, sum.z), fmaf(p, v.w, sum.w)};
}

__device__ inline float warp_max(float x) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) x = fmaxf(x, partner(x, h));
    return x;
}
__device__ inline float warp_sum(float x) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) x += partner(x, h);
    return x;
}

}  // namespace rotkv::cuda
