// Attention over the cache in f32, simple and correct: what a later, faster version is held to.
//   1 rotate the query        q~ = R_k q
//   2 score the visible cells s_c = scale * q~ . k~_c
//   3 softmax                 p_c = exp(s_c) / (exp(sink) + sum_c exp(s_c))
//   4 sum the values          o~ = sum_c p_c v~_c
//   5 rotate back             o = R_v^T o~
//
// A block of threads owns a token and up to 8 query heads of one KV head, which share each read of
// the cache, and walks the stream's cells in tiles of 64 with a running maximum (online softmax:
// Milakov, Gimelshein 2018). Within a tile
//   scores   a group of lanes owns a cell: each lane its channels, then a sum over the group
//   softmax  a warp owns a query head
//   values   a thread owns four channels, for every slices-th cell of the tile
// The order of all sums is fixed, so that a second run gives the same bits.
// Cost: K and V of the visible cells once per block; decoding one token keeps only as many blocks
// busy as there are KV heads. Agrees with ref::attention within the table's rounding.
#include "cuda/dequant.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

constexpr unsigned k_block_threads = 128;
constexpr uint32_t k_tile = 64;  // cells: two to a lane of the warp that takes the softmax

// The arguments and what follows from their shapes.
struct Job {
    AttentionArgs args;
    Pieces k_cut, v_cut;
    uint32_t d_k, d_v, fours_v;     // fours_v: groups of four channels of a value
    uint32_t lanes;                 // of the group that scores a cell
    uint32_t slices;                // of a tile's cells, when values are summed
    uint32_t heads, group, chunks;  // query heads of a block, of a KV head; blocks for a KV head
    const float* sinks;             // null: none
};

// In shared memory: q [heads][d_k] and then, when the scores are done, the outputs [heads][d_v];
// sums [slices][heads][4 fours_v]; p [heads][k_tile] and the running state of the softmax.
struct Memory {
    float *q, *sums, *p, *most, *total, *shrink;
    uint8_t* seen;

    static __host__ __device__ uint32_t q_floats(const Job& job) {
        return (job.heads * (job.d_k > job.d_v ? job.d_k : job.d_v) + 3) / 4 * 4;
    }
    static __host__ __device__ uint32_t sums_floats(const Job& job) {
        return job.slices * job.heads * job.fours_v * 4;
    }
    static __host__ uint32_t bytes(const Job& job) {
        return (q_floats(job) + sums_floats(job) + job.heads * (k_tile + 3)) * 4 + k_tile;
    }
    __device__ Memory(float* memory, const Job& job)
        : q(memory),
          sums(q + q_floats(job)),
          p(sums + sums_floats(job)),
          most(p + job.heads * k_tile),
          total(most + job.heads),
          shrink(total + job.heads),
          seen(reinterpret_cast<uint8_t*>(shrink + job.heads)) {}
};

// What this block of threads works on.
struct Place {
    int64_t t, kv, first_head, stream;
    int32_t q_position;
    uint32_t heads;  // fewer than job.heads in the last chunk
};

__device__ Place place_of(const Job& job) {
    const AttentionArgs& args = job.args;
    Place at;
    at.t = blockIdx.x;
    at.kv = blockIdx.y / job.chunks;
    const uint32_t first = blockIdx.y % job.chunks * job.heads;
    at.heads = min(job.heads, job.group - first);
    at.first_head = at.kv * job.group + first;
    at.stream = reinterpret_cast<const int32_t*>(args.q_stream.data)[at.t];
    at.q_position = reinterpret_cast<const int32_t*>(args.q_position.data)[at.t];
    return at;
}

// y = R x on `count` rows of shared memory by all threads, stage by stage.
__device__ void rotate_rows(float* x, uint32_t count, const Pieces& cut, bool back) {
    const uint32_t channels = count * cut.d;
    if (!cut.on) return;
    for (uint32_t i = threadIdx.x; i < channels; i += k_block_threads) {
        const float with_sign =
            cut.signs && !back ? flipped(x[i], cut.seed, cut.first + i % cut.d) : x[i];
        x[i] = with_sign * cut.scale;
    }
    for (uint32_t h = 1; h < cut.n; h *= 2) {
        __syncthreads();  // partners of this stage are results of others in the last
        for (uint32_t i = threadIdx.x; i < channels / 2; i += k_block_threads) {
            const uint32_t j = (i & ~(h - 1)) * 2 + (i & (h - 1));
            butterfly(x[j], x[j + h]);
        }
    }
    __syncthreads();
    if (!cut.signs || !back) return;
    for (uint32_t i = threadIdx.x; i < channels; i += k_block_threads) {
        x[i] = flipped(x[i], cut.seed, cut.first + i % cut.d);
    }
    __syncthreads();
}

// 1 rotate the query; and the softmax before any cell: of the sink alone.
__device__ void begin(const Job& job, const Place& at, const Memory& memory) {
    const AttentionArgs& args = job.args;
    for (uint32_t i = threadIdx.x; i < at.heads * job.d_k; i += k_block_threads) {
        const uint32_t g = i / job.d_k;
        const std::byte* row =
            args.q.data + at.t * args.q.stride[1] + (at.first_head + g) * args.q.stride[2];
        memory.q[i] = reinterpret_cast<const float*>(row)[i - g * job.d_k];
    }
    for (uint32_t i = threadIdx.x; i < Memory::sums_floats(job); i += k_block_threads) {
        memory.sums[i] = 0.0f;
    }
    for (uint32_t g = threadIdx.x; g < at.heads; g += k_block_threads) {
        memory.most[g] = job.sinks != nullptr ? job.sinks[at.first_head + g] : -INFINITY;
        memory.total[g] = memory.most[g] > -INFINITY ? 1.0f : 0.0f;
    }
    __syncthreads();
    rotate_rows(memory.q, at.heads, job.k_cut, false);
}

__device__ bool is_visible(const Job& job, const Place& at, int64_t cell) {
    const std::byte* strip = job.args.position.data + at.stream * job.args.position.stride[2];
    const int32_t position = reinterpret_cast<const int32_t*>(strip)[cell];
    if (position < 0 || position > at.q_position) return false;  // empty, or the future
    return job.args.window == 0 || int64_t(at.q_position) - position < job.args.window;
}

__device__ const std::byte* row_of(const TensorView& cache, const Place& at, int64_t cell) {
    return cache.data + at.stream * cache.stride[0] + cell * cache.stride[1] +
           at.kv * cache.stride[2];
}

__device__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// 2 score the visible cells: p[g][c] = s_c, -inf for cells that are not seen.
__device__ void score_tile(const Job& job, const Place& at, const Memory& memory, int64_t first,
                           int64_t used) {
    const TensorView& cache = job.args.k_cache;
    const uint32_t lane = threadIdx.x % job.lanes;
    for (uint32_t c = threadIdx.x / job.lanes; c < k_tile; c += k_block_threads / job.lanes) {
        const bool seen = first + c < used && is_visible(job, at, first + c);
        const std::byte* row = row_of(cache, at, first + c);
        float s[k_most_heads] = {};
        for (uint32_t i = 4 * lane; seen && i < job.d_k; i += 4 * job.lanes) {
            const float4 k = dequantize4(cache.type, row, i, job.d_k);
#pragma unroll
            for (uint32_t g = 0; g < k_most_heads; ++g) {
                if (g >= at.heads) break;
                s[g] = dot(load4(memory.q + g * job.d_k, i, job.d_k, job.d_k % 4 == 0), k, s[g]);
            }
        }
#pragma unroll
        for (uint32_t g = 0; g < k_most_heads; ++g) {
            if (g >= at.heads) break;
            for (uint32_t h = job.lanes / 2; h > 0; h /= 2) s[g] += partner(s[g], h);
            const float cap = job.args.softcap;
            float score = job.args.scale * s[g];
            if (cap > 0) score = cap * tanhf(score / cap);
            if (lane == 0) memory.p[g * k_tile + c] = seen ? score : -INFINITY;
        }
        if (lane == 0) memory.seen[c] = seen;
    }
}

__device__ float warp_max(float x) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) x = fmaxf(x, partner(x, h));
    return x;
}
__device__ float warp_sum(float x) {
    for (unsigned h = k_warp / 2; h > 0; h /= 2) x += partner(x, h);
    return x;
}

// 3 softmax of one tile: p[g][c] = exp(s_c - most), and what earlier sums shrink by.
__device__ void softmax_tile(const Place& at, const Memory& memory) {
    const unsigned lane = lane_of_warp();
    for (uint32_t g = threadIdx.x / k_warp; g < at.heads; g += k_block_threads / k_warp) {
        float* p = memory.p + g * k_tile;
        const float before = memory.most[g], a = p[lane], b = p[lane + k_warp];
        const float most = fmaxf(before, warp_max(fmaxf(a, b)));
        const bool any = most > -INFINITY;  // otherwise exp(-inf + inf) would be a NaN
        const float p_a = any ? expf(a - most) : 0.0f, p_b = any ? expf(b - most) : 0.0f;
        const float sum = warp_sum(p_a + p_b), shrink = any ? expf(before - most) : 1.0f;
        p[lane] = p_a;
        p[lane + k_warp] = p_b;
        __syncwarp();  // all have read what lane 0 writes now
        if (lane != 0) continue;
        memory.most[g] = most;
        memory.shrink[g] = shrink;
        memory.total[g] = fmaf(memory.total[g], shrink, sum);
    }
}

__device__ void add_scaled(float4& sum, float p, const float4& v) {
    sum = {fmaf(p, v.x, sum.x), fmaf(p, v.y, sum.y), fmaf(p, v.z, sum.z), fmaf(p, v.w, sum.w)};
}

// 4 sum the values of one tile.
__device__ void add_values(const Job& job, const Place& at, const Memory& memory, int64_t first) {
    const TensorView& cache = job.args.v_cache;
    for (uint32_t item = threadIdx.x; item < job.slices * job.fours_v; item += k_block_threads) {
        const uint32_t slice = item / job.fours_v, i = item % job.fours_v * 4;
        float4 sum[k_most_heads] = {};
        for (uint32_t c = slice; c < k_tile; c += job.slices) {
            if (memory.seen[c] == 0) continue;  // what lies there may be a NaN
            const float4 v = dequantize4(cache.type, row_of(cache, at, first + c), i, job.d_v);
#pragma unroll
            for (uint32_t g = 0; g < k_most_heads; ++g) {
                if (g >= at.heads) break;
                add_scaled(sum[g], memory.p[g * k_tile + c], v);
            }
        }
        float4* sums = reinterpret_cast<float4*>(memory.sums) + slice * job.heads * job.fours_v;
#pragma unroll
        for (uint32_t g = 0; g < k_most_heads; ++g) {
            if (g >= at.heads) break;
            float4& all = sums[g * job.fours_v + i / 4];
            add_scaled(sum[g], memory.shrink[g], all);
            all = sum[g];
        }
    }
}

// The slices' sums over the softmax's denominator, then 5 rotate back.
__device__ void finish(const Job& job, const Place& at, const Memory& memory) {
    const uint32_t width = 4 * job.fours_v, outputs = at.heads * job.d_v;
    for (uint32_t i = threadIdx.x; i < outputs; i += k_block_threads) {
        const uint32_t g = i / job.d_v, channel = i - g * job.d_v;
        float sum = 0.0f;
        for (uint32_t slice = 0; slice < job.slices; ++slice) {
            sum += memory.sums[(slice * job.heads + g) * width + channel];
        }
        memory.q[i] = memory.total[g] > 0 ? sum / memory.total[g] : 0.0f;  // 0: nothing was seen
    }
    __syncthreads();
    rotate_rows(memory.q, at.heads, job.v_cut, true);
    const TensorView& dst = job.args.dst;
    for (uint32_t i = threadIdx.x; i < outputs; i += k_block_threads) {
        const uint32_t g = i / job.d_v;
        std::byte* row = dst.data + at.t * dst.stride[1] + (at.first_head + g) * dst.stride[2];
        reinterpret_cast<float*>(row)[i - g * job.d_v] = memory.q[i];
    }
}

__global__ void __launch_bounds__(k_block_threads)
    attention_kernel(const __grid_constant__ Job job) {
    extern __shared__ float4 shared[];
    const Memory memory(reinterpret_cast<float*>(shared), job);
    const Place at = place_of(job);
    begin(job, at, memory);
    const int32_t* all_used = reinterpret_cast<const int32_t*>(job.args.used.data);
    const int64_t used = at.q_position < 0 ? 0 : all_used[at.stream];
    for (int64_t first = 0; first < used; first += k_tile) {
        __syncthreads();  // the queries are there, the last tile's p has been read
        score_tile(job, at, memory, first, used);
        __syncthreads();
        softmax_tile(at, memory);
        __syncthreads();
        add_values(job, at, memory, first);
    }
    __syncthreads();
    finish(job, at, memory);
}

uint32_t lanes_for(uint32_t d) {  // a lane takes four channels; a group lies within a warp
    uint32_t lanes = 8;
    while (lanes < k_warp && lanes * 4 < d) lanes *= 2;
    return lanes;
}

Job job_of(const AttentionArgs& args) {
    const uint32_t d_k = uint32_t(args.q.n[3]), d_v = uint32_t(args.dst.n[3]);
    const uint32_t kv_heads = uint32_t(args.k_cache.n[2]), fours_v = (d_v + 3) / 4;
    const uint32_t group = uint32_t(args.q.n[2]) / kv_heads, heads = std::min(group, k_most_heads);
    return {args,
            Pieces(args.k_rotation, d_k),
            Pieces(args.v_rotation, d_v),
            d_k,
            d_v,
            fours_v,
            lanes_for(d_k),
            std::max(1u, k_block_threads / std::max(1u, fours_v)),
            heads,
            group,
            heads == 0 ? 0 : (group + heads - 1) / heads,
            args.sinks.empty() ? nullptr : args.sinks.row<const float>(0)};
}

}  // namespace

int64_t attention_memory(const AttentionArgs& args) { return Memory::bytes(job_of(args)); }

void attention(const AttentionArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    if (args.precision == Precision::f16) return attention_prefill(args, stream);
    if (prefill_f32_takes(args)) return attention_prefill_f32(args, stream);
    const Job job = job_of(args);
    const dim3 blocks(unsigned(args.q.n[1]), unsigned(args.k_cache.n[2]) * job.chunks);
    attention_kernel<<<blocks, k_block_threads, Memory::bytes(job), stream>>>(job);
    require_launched("attention");
}

}  // namespace rotkv::cuda
