#pragma once
// What surrounds the products of prefill: which rows a block of threads owns and which cells they
// see, queries on their way in and outputs on their way out.
// Docs: docs/05-attention.md

#include "cuda/attention_plain.cuh"
#include "cuda/prefill_job.cuh"
#include "cuda/window.cuh"

namespace rotkv::cuda::prefill {

constexpr uint32_t k_section = 512;  // tiles that are surveyed at once

/// Sizes of a block of threads for heads of at most D channels. A warp owns 16 rows.
template <int D>
struct Shape {
    static constexpr uint32_t rows = D <= 128 ? 128 : 64;
    static constexpr uint32_t cells = D <= 128 ? 64 : 32;  // of a tile
    static constexpr uint32_t group_threads = rows / 16 * k_warp;
    static constexpr uint32_t groups = 2;  // at most
    static constexpr uint32_t tile_bytes = cells * D * 2;
    static constexpr uint32_t out_pitch = D + 8;  // floats: eight lanes' pairs in all the banks
    static constexpr uint32_t sums = D / 2 + 4;   // floats of a lane
};

// The rows of this block of threads. Those past the last repeat it, and are not stored.
struct Place {
    uint32_t kv, first, last, split;
    const uint16_t* order = nullptr;  // of all tokens, stream after stream; null: as they come

    // Blocks start in the order of their numbers: the end of the batch, which sees most, first.
    __device__ Place(const Job& job, uint32_t rows) {
        const uint32_t tile = gridDim.x - 1 - blockIdx.x;
        kv = tile % job.kv_heads;
        first = tile / job.kv_heads * rows;
        last = min(first + rows, job.rows) - 1;
        split = blockIdx.y;
    }
    __device__ uint32_t token(const Job& job, uint32_t row) const {
        const uint32_t t = job.group.of(min(first + row, last));
        return order == nullptr ? t : order[t];
    }
    __device__ uint32_t head(const Job& job, uint32_t row) const {
        const uint32_t of_all = min(first + row, last);
        return kv * job.group.d + of_all - job.group.of(of_all) * job.group.d;
    }
};

// The positions that a row sees, or none.
struct Limits {
    int32_t after, upto;
    __device__ bool sees(int32_t position) const { return position > after && position <= upto; }
};

// A block's share of a stream's tiles: every splits-th, so that blocks have as much to do wherever
// a window lies.
struct Share {
    uint32_t split, splits;
    __device__ int64_t of(int64_t tiles) const { return (tiles - split + splits - 1) / splits; }
    __device__ int64_t tile(int64_t i) const { return split + i * splits; }
};

// The limits of all rows of a block together: what some of them see, what each of them sees.
struct Span {
    Limits some, each;
};

// A tile that some row sees: its number in the section, and whether each row sees all of it.
struct Mark {
    uint16_t bits;  // 2 * number + whole
    __device__ int64_t tile() const { return bits / 2; }
    __device__ bool whole() const { return bits % 2 != 0; }
};

// Where this block's part of a row lies.
__device__ inline int64_t Job::part(const Place& at, uint32_t row) const {
    const int64_t of_all = int64_t(at.token(*this, row)) * args.q.n[2] + at.head(*this, row);
    return of_all * parts.splits + at.split;
}

// Shared memory: marks, their count, limits, q [rows], then of each group K and V. When all is
// walked, `sums` takes the place of q and what follows.
template <int D>
struct Memory {
    using S = Shape<D>;
    static constexpr uint32_t k_head = (k_section * 2 + 16 + S::rows * 8 + 1023) / 1024 * 1024;
    static constexpr uint32_t k_q = S::rows * D * 2;
    Mark* marks;
    uint32_t* count;
    Limits* limits;
    std::byte* q;
    float* sums;

    __device__ explicit Memory(std::byte* memory)
        : marks(reinterpret_cast<Mark*>(memory)),
          count(reinterpret_cast<uint32_t*>(memory + k_section * 2)),
          limits(reinterpret_cast<Limits*>(memory + k_section * 2 + 16)),
          q(memory + k_head),
          sums(reinterpret_cast<float*>(q)) {}
    static __host__ __device__ uint32_t group_bytes(const Job& job) {
        return job.k.bytes(S::cells, S::tile_bytes) + job.v.bytes(S::cells, S::tile_bytes);
    }
    static uint32_t bytes(const Job& job) {
        const uint32_t warps = job.groups * S::group_threads / k_warp;
        const uint32_t in_the_end =
            std::max(S::rows * S::out_pitch + warps * plain_floats(D), S::sums * S::group_threads);
        return k_head + std::max(k_q + job.groups * group_bytes(job), 4 * in_the_end);
    }
    __device__ Mark mark(uint32_t i) const { return Mark{uint16_t(uniform(marks[i].bits))}; }
    __device__ std::byte* k(const Job& job, uint32_t group) const {
        return q + k_q + group * group_bytes(job);
    }
    __device__ std::byte* v(const Job& job, uint32_t group) const {
        return k(job, group) + job.k.bytes(S::cells, S::tile_bytes);
    }
};

// 1 rotate the query: a warp takes rows row .. row + U - 1, a lane channels 4 lane + 128 j.
template <int U, int R>
__device__ void load_rotated(const Job& job, const Place& at, uint32_t row, float4 (&x)[U][R]) {
    const TensorView& q = job.args.q;
    const uint32_t channel = 4 * lane_of_warp();
    uint32_t begin[U];
#pragma unroll
    for (uint32_t i = 0; i < U * R; ++i) {
        const std::byte* from = q.data + at.token(job, row + i / R) * q.stride[1] +
                                at.head(job, row + i / R) * q.stride[2];
        begin[i / R] = channel;
        x[i / R][i % R] = load4(reinterpret_cast<const float*>(from), channel + i % R * 128,
                                job.k.d, job.q_vectors);
    }
    rotate(x, job.k_cut, begin, false);
}

// 5 rotate back: the same rows of the output, as far as there are so many, go to dst.
template <int U, int R>
__device__ void store_rotated_back(const Job& job, const Place& at, uint32_t row,
                                   float4 (&x)[U][R]) {
    const TensorView& dst = job.args.dst;
    const uint32_t channel = 4 * lane_of_warp();
    uint32_t begin[U];
#pragma unroll
    for (int i = 0; i < U; ++i) begin[i] = channel;
    rotate(x, job.v_cut, begin, true);
#pragma unroll
    for (uint32_t i = 0; i < U * R; ++i) {
        if (at.first + row + i / R > at.last) continue;
        std::byte* to = dst.data + at.token(job, row + i / R) * dst.stride[1] +
                        at.head(job, row + i / R) * dst.stride[2];
        store4(reinterpret_cast<float*>(to), channel + i % R * 128, job.v.d, job.dst_vectors,
               x[i / R][i % R]);
    }
}

// Two numbers as halves, a NaN for what f16 does not hold: all scores of the row are marked then,
// as mark_infinite() does those of a key.
__device__ inline uint32_t marked_halves(float x, float y) {
    const uint32_t pair = halves_of(x, y);
    const __half2& halves = reinterpret_cast<const __half2&>(pair);
    const __half2 marked = __hfma2(halves, __half2{0, 0}, halves);
    return reinterpret_cast<const uint32_t&>(marked);
}

// The lane's channels of a row of q, D of them, in a tile of so many rows. The scale goes into
// them.
template <int D, int R>
__device__ void store_query(const Job& job, std::byte* tile, uint32_t rows, uint32_t row,
                            const float4 (&x)[R]) {
#pragma unroll
    for (uint32_t j = 0; j < R; ++j) {
        const uint32_t at = 4 * lane_of_warp() + j * 128;  // half a piece
        if (at >= D) continue;
        std::byte* to = tile + place_of(rows, row, at / 8) + at % 8 * 2;
        *reinterpret_cast<uint2*>(to) = {marked_halves(x[j].x * job.q_scale, x[j].y * job.q_scale),
                                         marked_halves(x[j].z * job.q_scale, x[j].w * job.q_scale)};
    }
}

template <int D>
__device__ void load_queries(const Job& job, const Place& at, const Memory<D>& memory) {
    using S = Shape<D>;
    constexpr int R = D > 128 ? 2 : 1;
    for (uint32_t row = threadIdx.x / k_warp * 4; row < S::rows; row += blockDim.x / k_warp * 4) {
        float4 x[4][R];
        load_rotated(job, at, row, x);
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) store_query<D>(job, memory.q, S::rows, row + i, x[i]);
    }
}

template <int D>
__device__ void store_outputs(const Job& job, const Place& at, const Memory<D>& memory) {
    using S = Shape<D>;
    constexpr int R = D > 128 ? 2 : 1;
    for (uint32_t row = threadIdx.x / k_warp * 4; row < S::rows; row += blockDim.x / k_warp * 4) {
        float4 x[4][R];
#pragma unroll
        for (uint32_t i = 0; i < 4 * R; ++i) {
            const float* from = memory.sums + (row + i / R) * S::out_pitch;
            x[i / R][i % R] = load4(from, 4 * lane_of_warp() + i % R * 128, D, true);
        }
        store_rotated_back(job, at, row, x);
    }
}

// Rows that are not finite once more, cell by cell, a warp one at a time.
template <int D>
__device__ void repair_rows(const Job& job, const Place& at, const Memory<D>& memory) {
    using S = Shape<D>;
    const uint32_t warp = threadIdx.x / k_warp, lane = lane_of_warp(), d = job.task.d_v;
    float* const room = memory.sums + S::rows * S::out_pitch + warp * plain_floats(D);
    for (uint32_t row = warp; row <= at.last - at.first; row += blockDim.x / k_warp) {
        float* const sums = memory.sums + row * S::out_pitch;
        bool is_good = true;
        for (uint32_t i = lane; i < d; i += k_warp) is_good = is_good && is_finite(sums[i]);
        if (__all_sync(k_all_lanes, is_good)) continue;
        const float* const out =
            attend_row_apart(job.task, at.token(job, row), at.head(job, row), 0, d, room);
        for (uint32_t i = lane; i < d; i += k_warp) sums[i] = out[i];
    }
    __syncthreads();
}

// Of blocks that share their cells: rows of sums as they are. Their softmax is there already.
template <int D>
__device__ void store_parts(const Job& job, const Place& at, const Memory<D>& memory) {
    using S = Shape<D>;
    const uint32_t fours = job.parts.fours, count = at.last - at.first + 1;
    for (uint32_t row = threadIdx.x / k_warp; row < count; row += blockDim.x / k_warp) {
        float4* const to = job.parts.sums + job.part(at, row) * fours;
        const float* from = memory.sums + row * S::out_pitch;
        for (uint32_t four = lane_of_warp(); four < fours; four += k_warp) {
            to[four] = load4(from, 4 * four, job.v.d, true);
        }
    }
}

// Tiles of heads of fewer than D channels: zeros behind them, that nothing overwrites.
template <int D>
__device__ void clear_tiles(const Job& job, const Memory<D>& memory) {
    uint4* tiles = reinterpret_cast<uint4*>(memory.k(job, 0));
    const uint32_t count = job.groups * Memory<D>::group_bytes(job) / 16;
    if (job.k.d == D && job.v.d == D) return;
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) tiles[i] = {0, 0, 0, 0};
}

// The streams of the block's tokens, one after the other; -1 after the last.
__device__ inline int32_t next_stream(const Job& job, const Place& at, int32_t before) {
    uint32_t next = UINT32_MAX;
    for (uint32_t row = lane_of_warp(); row <= at.last - at.first; row += k_warp) {
        const int32_t stream = job.q_stream(at.token(job, row));
        if (stream > before) next = min(next, uint32_t(stream));
    }
    return int32_t(__reduce_min_sync(k_all_lanes, next));
}

// What a token sees of a stream: empty limits, if nothing.
__device__ inline Limits limits_of(const Job& job, uint32_t t, int32_t stream) {
    const Seen seen = Sight(job.args).of(job.q_stream(t) == stream ? job.q_position(t) : -1);
    return {seen.last < 0 ? INT32_MAX : seen.first - 1, seen.last};
}

// Of the rows that count, whose limits the function knows.
template <class Counts, class LimitsOf>
__device__ Span span_of(uint32_t rows, const Counts& counts, const LimitsOf& limits_of_row) {
    Span span{{INT32_MAX, -1}, {-1, INT32_MAX}};
    for (uint32_t row = lane_of_warp(); row < rows; row += k_warp) {
        if (!counts(row)) continue;
        const Limits limits = limits_of_row(row);
        span.some = {min(span.some.after, limits.after), max(span.some.upto, limits.upto)};
        span.each = {max(span.each.after, limits.after), min(span.each.upto, limits.upto)};
    }
    return {{__reduce_min_sync(k_all_lanes, span.some.after),
             __reduce_max_sync(k_all_lanes, span.some.upto)},
            {__reduce_max_sync(k_all_lanes, span.each.after),
             __reduce_min_sync(k_all_lanes, span.each.upto)}};
}

// What each row sees of a stream, to memory.limits.
template <int D>
__device__ Span set_limits(const Job& job, const Place& at, const Memory<D>& memory,
                           int32_t stream) {
    __syncthreads();  // the limits of the stream before have been read
    for (uint32_t row = threadIdx.x; row < Shape<D>::rows; row += blockDim.x) {
        memory.limits[row] = limits_of(job, at.token(job, row), stream);
    }
    __syncthreads();
    return span_of(
        Shape<D>::rows, [](uint32_t) { return true; },
        [&](uint32_t row) { return memory.limits[row]; });
}

// Marks of the share's tiles from `first` to `end` that some row sees, in order; at most k_section
// of them are looked at. A warp looks at a tile, then one warp moves the marks together.
template <int D>
__device__ uint32_t survey(const Span& span, const Memory<D>& memory, const Strip& strip,
                           const Share& share, int64_t first, int64_t end) {
    constexpr uint32_t k_cells = Shape<D>::cells, k_none = 2 * k_section;
    const uint32_t tiles = uint32_t(min(end - first, int64_t(k_section))), lane = lane_of_warp();
    uint16_t* const found = reinterpret_cast<uint16_t*>(memory.marks);
    __syncthreads();  // the marks of the section before have been read
#pragma unroll 4
    for (uint32_t i = threadIdx.x / k_warp; i < tiles; i += blockDim.x / k_warp) {
        bool some = false, each = true;
#pragma unroll
        for (uint32_t c = lane; c < k_cells; c += k_warp) {
            const int32_t position = strip.at(share.tile(first + i) * k_cells + c);
            some = some || span.some.sees(position);
            each = each && span.each.sees(position);
        }
        some = __any_sync(k_all_lanes, some);
        each = __all_sync(k_all_lanes, each);
        if (lane == 0) found[i] = some ? uint16_t(2 * i + each) : k_none;
    }
    __syncthreads();
    uint32_t count = 0;
    for (uint32_t i = lane; threadIdx.x < k_warp && i - lane < tiles; i += k_warp) {
        const uint16_t mark = i < tiles ? found[i] : k_none;
        const unsigned seen = __ballot_sync(k_all_lanes, mark != k_none);
        if (mark != k_none) found[count + __popc(seen & ((1u << lane) - 1))] = mark;
        count += __popc(seen);
        if (lane == 0) *memory.count = count;
    }
    __syncthreads();
    return *memory.count;
}

}  // namespace rotkv::cuda::prefill
