#pragma once
// What the kernels of attention share: which query heads a block of threads works on, which cells
// they see, the rotations, and how blocks that share the cells of one stream put their parts
// together.
//
// A part is, for one query head, over some of the cells,
//     most, total = sum_c exp(s_c - most), sums_j = sum_c exp(s_c - most) v_cj
// and two parts make one by bringing both to the larger `most`. The order is that of the splits,
// whichever block ends first, so that a second run gives the same bits.
// Docs: docs/05-attention.md

#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"

#include <cfloat>

namespace rotkv::cuda {

constexpr uint32_t k_most_splits = 256;

/// In device memory, where a stream's cells are split among several blocks.
struct Parts {
    uint32_t splits = 1;
    uint32_t fours = 0;           // groups of four channels of a value
    unsigned* arrived = nullptr;  // [T][columns] blocks that have written; 0 between launches
    float2* softmax = nullptr;    // [T][H][splits] {most, total}
    float4* sums = nullptr;       // [T][H][splits][fours]
};

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
    Pieces k_cut, v_cut;
    int64_t window;
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
          k_cut(a.k_rotation, a.q.n[3]),
          v_cut(a.v_rotation, a.dst.n[3]),
          window(a.window),
          scale(a.scale),
          softcap(a.softcap),
          d_k(uint32_t(a.q.n[3])),
          d_v(uint32_t(a.dst.n[3])),
          tokens(uint32_t(a.q.n[1])),
          streams(uint32_t(a.k_cache.n[0])),
          cells(uint32_t(a.k_cache.n[1])),
          all_heads(uint32_t(a.q.n[2])),
          group(uint32_t(a.q.n[2] / a.k_cache.n[2])),
          heads(std::min(group, k_most_heads)),
          chunks(heads == 0 ? 0 : (group + heads - 1) / heads),
          columns(uint32_t(a.k_cache.n[2]) * chunks) {}

    dim3 grid() const { return dim3(tokens * columns, parts.splits); }
};

/// As many splits as fill `blocks` blocks, and no more than are of use or have room for parts.
inline Parts parts_for(const Task& task, const Workspace& workspace, uint32_t blocks,
                       uint32_t useful) {
    const uint32_t columns = task.tokens * task.columns;
    const int64_t rows = int64_t(task.tokens) * task.all_heads;
    Parts parts;
    parts.fours = (task.d_v + 3) / 4;
    const int64_t room = workspace.bytes / (rows * (parts.fours * 16 + 8));
    const int64_t most = std::min<int64_t>({k_most_splits, blocks / columns, useful, room});
    if (columns > k_most_columns || most < 2) return parts;
    parts.splits = uint32_t(most);
    parts.arrived = workspace.arrived;
    parts.sums = reinterpret_cast<float4*>(workspace.parts);
    parts.softmax = reinterpret_cast<float2*>(parts.sums + rows * most * parts.fours);
    return parts;
}

/// What this block of threads works on. Blocks that follow each other take the KV heads of the same
/// cells, whose rows are neighbours in memory.
struct Place {
    int64_t stream;
    uint32_t t, kv, first_head;
    uint32_t heads;  // fewer than task.heads in the last chunk
    uint32_t column, split;
    int32_t q_position;
    int32_t lowest;  // position that is seen
    uint32_t used;   // cells of the stream that can be seen, at most

    // What other kernels may have written.
    __device__ void load(const Task& task) {
        stream = task.streams > 1 ? task.q_stream[t] : 0;
        q_position = task.q_position[t];
        const uint32_t in_use = uint32_t(task.used[stream]);
        const int64_t first = task.window == 0 ? 0 : q_position - task.window + 1;
        lowest = int32_t(max(first, int64_t(0)));
        used = q_position < 0 ? 0 : in_use;
    }
};

__device__ inline Place place_of(const Task& task) {
    Place at;
    at.column = blockIdx.x;
    at.split = blockIdx.y;
    at.t = at.column / task.columns;
    const uint32_t column = at.column - at.t * task.columns;
    at.kv = column / task.chunks;
    const uint32_t first = (column - at.kv * task.chunks) * task.heads;
    at.heads = min(task.heads, task.group - first);
    at.first_head = at.kv * task.group + first;
    at.load(task);
    return at;
}

/// The stream's positions.
__device__ inline const int32_t* positions(const Task& task, const Place& at) {
    return reinterpret_cast<const int32_t*>(task.position + at.stream * task.position_stream);
}

/// Neither empty, nor the future, nor outside of the window?
__device__ inline bool is_visible(const Place& at, int32_t position) {
    return position >= at.lowest && position <= at.q_position;
}

/// The row of cell 0.
__device__ inline const std::byte* cells_of(const Cells& side, const Place& at) {
    return side.data + at.stream * side.stream + at.kv * side.head;
}

/// sum += p v
__device__ inline void add_scaled(float4& sum, float p, const float4& v) {
    sum = {fmaf(p, v.x, sum.x), fmaf(p, v.y, sum.y), fmaf(p, v.z, sum.z), fmaf(p, v.w, sum.w)};
}

/// From device memory to shared memory, under way when the function returns: a float; 16 bytes, on
/// 16 bytes on both sides.
__device__ inline void copy_float(float* dst, const float* src) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;"
                 :
                 : "r"(uint32_t(__cvta_generic_to_shared(dst))), "l"(src)
                 : "memory");
}
__device__ inline void copy16(std::byte* dst, const std::byte* src) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
                 :
                 : "r"(uint32_t(__cvta_generic_to_shared(dst))), "l"(src)
                 : "memory");
}
/// All copies of this thread so far, as one group.
__device__ inline void close_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `groups` of this thread are under way.
template <int groups>
__device__ void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" : : "n"(groups) : "memory");
}

__device__ inline float warp_max(float x) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) x = fmaxf(x, partner(x, h));
    return x;
}
__device__ inline float warp_sum(float x) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) x += partner(x, h);
    return x;
}

template <int R>
__device__ void rotate_pieces(float* x, const Pieces& cut, bool back) {
    const uint32_t lane = lane_of_warp(), groups = k_warp / cut.lanes;
    for (uint32_t piece = 0; piece < cut.per_row.d; piece += groups) {
        const uint32_t mine = piece + lane / cut.lanes;
        const uint32_t begin[1] = {mine * cut.width + 4 * (lane % cut.lanes)};
        float4 v[1][R];
#pragma unroll
        for (int j = 0; j < R; ++j) {
            v[0][j] = load4(x, begin[0] + 4 * cut.lanes * j, cut.d, cut.d % 4 == 0);
        }
        rotate(v, cut, begin, back);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            store4(x, begin[0] + 4 * cut.lanes * j, cut.d, cut.d % 4 == 0, v[0][j]);
        }
    }
}

/// y = R x on a row of shared memory by one warp: its pieces (hadamard.cuh) pass through registers.
__device__ inline void rotate_row(float* x, const Pieces& cut, bool back) {
    if (!cut.on) return;
    __syncwarp();  // other lanes have written
    if (cut.registers == 1) rotate_pieces<1>(x, cut, back);
    if (cut.registers == 2) rotate_pieces<2>(x, cut, back);
    if (cut.registers == 4) rotate_pieces<4>(x, cut, back);
    if (cut.registers == 8) rotate_pieces<8>(x, cut, back);
    __syncwarp();
}

/// A block's heads, one after another to each of its warps: first, step.
__device__ inline uint32_t first_head() { return threadIdx.x / k_warp; }
__device__ inline uint32_t head_step() { return blockDim.x / k_warp; }

/// Asks for the queries of all heads, [heads][d_k], as a group of copies.
__device__ inline void ask_for_queries(const Task& task, const Place& at, float* q) {
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        const std::byte* row = task.q + at.t * task.q_token + (at.first_head + g) * task.q_head;
        for (uint32_t i = lane_of_warp(); i < task.d_k; i += k_warp) {
            copy_float(q + g * task.d_k + i, reinterpret_cast<const float*>(row) + i);
        }
    }
    close_group();
}

/// 1 rotate the query: in place, once it is there.
__device__ inline void rotate_queries(const Task& task, const Place& at, float* q) {
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        rotate_row(q + g * task.d_k, task.k_cut, false);
    }
    __syncthreads();
}

/// A block's part, in shared memory. Nothing seen: most = -FLT_MAX or near it, total = 0.
struct Part {
    float* sums;  // [heads][d_v]
    float *most, *total;
    float* weights;  // [heads][splits], for the merge alone
};

__device__ inline int64_t part_index(const Task& task, const Place& at, uint32_t g) {
    return int64_t(at.t * task.all_heads + at.first_head + g) * task.parts.splits;
}

/// This block's part of head g, for the others.
__device__ inline void publish(const Task& task, const Place& at, const Part& part, uint32_t g) {
    const Parts& parts = task.parts;
    const int64_t index = part_index(task, at, g) + at.split;
    for (uint32_t four = lane_of_warp(); four < parts.fours; four += k_warp) {
        parts.sums[index * parts.fours + four] =
            load4(part.sums + g * task.d_v, 4 * four, task.d_v, task.d_v % 4 == 0);
    }
    if (lane_of_warp() == 0) parts.softmax[index] = {part.most[g], part.total[g]};
}

/// True in the block that ends last: it sees what all have published.
__device__ inline bool is_last(const Task& task, const Place& at) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();  // what the block has stored comes before the count
        last = atomicAdd(task.parts.arrived + at.column, 1u) == task.parts.splits - 1;
        if (last) task.parts.arrived[at.column] = 0;  // for the next launch
        __threadfence();
    }
    __syncthreads();
    return last;
}

/// The parts of all splits of head g become this block's. Loads from the L2 cache take long: many
/// are under way at a time.
__device__ inline void merge(const Task& task, const Place& at, const Part& part, uint32_t g) {
    const Parts& parts = task.parts;
    const unsigned lane = lane_of_warp();
    const int64_t index = part_index(task, at, g);
    float* const weights = part.weights + g * parts.splits;
    float top = -FLT_MAX, total = 0.0f;  // of the lane's splits
    for (uint32_t s = lane; s < parts.splits; s += k_warp) {
        const float2 one = __ldcg(parts.softmax + index + s);
        const float larger = fmaxf(top, one.x);
        total = fmaf(total, expf(top - larger), one.y * expf(one.x - larger));
        top = larger;
        weights[s] = one.x;
    }
    const float most = warp_max(top);
    total = warp_sum(total * expf(top - most));
    for (uint32_t s = lane; s < parts.splits; s += k_warp) weights[s] = expf(weights[s] - most);
    if (lane == 0) part.most[g] = most;
    if (lane == 0) part.total[g] = total;
    __syncwarp();
    for (uint32_t four = lane; four < parts.fours; four += k_warp) {
        constexpr uint32_t batch = 12;
        const float4* sums = parts.sums + index * parts.fours + four;
        float4 sum = {0, 0, 0, 0}, one[batch];
        for (uint32_t first = 0; first < parts.splits; first += batch) {
            const uint32_t count = min(batch, parts.splits - first);
#pragma unroll
            for (uint32_t s = 0; s < batch; ++s) {
                if (s < count) one[s] = __ldcg(sums + (first + s) * parts.fours);
            }
#pragma unroll
            for (uint32_t s = 0; s < batch; ++s) {
                if (s < count) add_scaled(sum, weights[first + s], one[s]);
            }
        }
        store4(part.sums + g * task.d_v, 4 * four, task.d_v, task.d_v % 4 == 0, sum);
    }
    __syncwarp();
}

/// 3 the softmax's denominator, where the sink counts, 5 rotate back, store.
__device__ inline void finish(const Task& task, const Place& at, const Part& part, uint32_t g) {
    const float sink = task.sinks != nullptr ? task.sinks[at.first_head + g] : -INFINITY;
    const float most = fmaxf(part.most[g], sink), weight = expf(part.most[g] - most);
    const float total = fmaf(part.total[g], weight, expf(sink - most));
    float* const row = part.sums + g * task.d_v;
    for (uint32_t i = lane_of_warp(); i < task.d_v; i += k_warp) {
        row[i] = total == 0 ? 0.0f : row[i] * weight / total;  // 0: nothing was seen
    }
    rotate_row(row, task.v_cut, true);
    std::byte* dst = task.dst + at.t * task.dst_token + (at.first_head + g) * task.dst_head;
    for (uint32_t i = lane_of_warp(); i < task.d_v; i += k_warp) {
        reinterpret_cast<float*>(dst)[i] = row[i];
    }
}

/// What follows when a block has seen its cells: a warp owns a head, whose part lies ready for it.
__device__ inline void end(const Task& task, const Place& at, const Part& part) {
    const bool is_split = task.parts.splits > 1;
    if (is_split) {
        for (uint32_t g = first_head(); g < at.heads; g += head_step()) publish(task, at, part, g);
        if (!is_last(task, at)) return;
    }
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        if (is_split) merge(task, at, part, g);
        finish(task, at, part, g);
    }
}

}  // namespace rotkv::cuda
