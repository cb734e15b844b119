// Attention over the cache: who computes it, and the kernel in f32.
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
// Versions 1 and 2 of the ladder are this kernel:
//   1 simple  one block for all cells: a token being decoded keeps as many blocks busy as there are
//             KV heads
//   2 split   as many blocks for every KV head as fill the device, each with every splits-th tile
//             (Dao et al. 2023, flash-decoding); the one that ends last puts the parts together
// Versions 3 to 6 are decode_3_warp.cu and those behind it, versions 7 and 8 are decode.cu. Cost: K
// and V of the visible cells once per block of query heads. Agrees with ref::attention within the
// table's rounding.
#include "cuda/attention_parts.cuh"
#include "cuda/decode_team.h"
#include "cuda/decode_warpgroup.h"
#include "cuda/dequant.cuh"
#include "cuda/ladder.h"

#include <utility>

namespace rotkv::cuda {
namespace {

constexpr unsigned k_block_threads = 128;
constexpr uint32_t k_tile = 64;      // cells: two to a lane of the warp that takes the softmax
constexpr uint32_t k_occupancy = 4;  // blocks of threads that a processor holds at least

uint32_t lanes_for(uint32_t d) {  // a lane takes four channels; a group lies within a warp
    uint32_t lanes = 8;
    while (lanes < k_warp && lanes * 4 < d) lanes *= 2;
    return lanes;
}

struct Job : Task {
    uint32_t fours_v;  // groups of four channels of a value
    uint32_t lanes;    // of the group that scores a cell
    uint32_t slices;   // of a tile's cells, when values are summed

    explicit Job(const AttentionArgs& a)
        : Task(a),
          fours_v((d_v + 3) / 4),
          lanes(lanes_for(d_k)),
          slices(std::max(1u, k_block_threads / std::max(1u, fours_v))) {}
};

// In shared memory: q [heads][d_k] and then, when the scores are done, the outputs [heads][d_v];
// sums [slices][heads][4 fours_v], of which the merge's weights take [heads][splits] at the end;
// p [heads][k_tile] and the running state of the softmax.
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

// 1 rotate the query; and the softmax before any cell.
__device__ void begin(const Job& job, const Place& at, const Memory& memory) {
    for (uint32_t i = threadIdx.x; i < Memory::sums_floats(job); i += k_block_threads) {
        memory.sums[i] = 0.0f;
    }
    for (uint32_t g = threadIdx.x; g < at.heads; g += k_block_threads) {
        memory.most[g] = -FLT_MAX;
        memory.total[g] = 0.0f;
    }
    ask_for_queries(job, at, memory.q);
    wait_for_groups<0>();
    rotate_queries(job, at, memory.q);
}

__device__ float dot(const float4& a, const float4& b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

// 2 score the visible cells: p[g][c] = s_c, -inf for cells that are not seen.
__device__ void score_tile(const Job& job, const Place& at, const Memory& memory, int64_t first) {
    const std::byte* const cells = cells_of(job.k, at);
    const int32_t* position = positions(job, at) + first;
    const uint32_t lane = threadIdx.x % job.lanes;
    for (uint32_t c = threadIdx.x / job.lanes; c < k_tile; c += k_block_threads / job.lanes) {
        const bool seen = first + c < at.used && at.seen.holds(position[c]);
        const std::byte* row = cells + (first + c) * job.k.cell;
        float s[k_most_heads] = {};
        for (uint32_t i = 4 * lane; seen && i < job.d_k; i += 4 * job.lanes) {
            const float4 k = dequantize4(job.k.type, row, i, job.d_k);
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
            const float cap = job.softcap;
            float score = job.scale * s[g];
            if (cap > 0) score = cap * tanhf(score / cap);
            if (lane == 0) memory.p[g * k_tile + c] = seen ? score : -INFINITY;
        }
        if (lane == 0) memory.seen[c] = seen;
    }
}

// 3 softmax of one tile: p[g][c] = exp(s_c - most), and what earlier sums shrink by.
__device__ void softmax_tile(const Place& at, const Memory& memory) {
    const unsigned lane = lane_of_warp();
    for (uint32_t g = threadIdx.x / k_warp; g < at.heads; g += k_block_threads / k_warp) {
        float* p = memory.p + g * k_tile;
        const float before = memory.most[g], a = p[lane], b = p[lane + k_warp];
        const float most = fmaxf(before, warp_max(fmaxf(a, b)));
        const float p_a = expf(a - most), p_b = expf(b - most);
        const float sum = warp_sum(p_a + p_b), shrink = expf(before - most);
        p[lane] = p_a;
        p[lane + k_warp] = p_b;
        __syncwarp();  // all have read what lane 0 writes now
        if (lane != 0) continue;
        memory.most[g] = most;
        memory.shrink[g] = shrink;
        memory.total[g] = fmaf(memory.total[g], shrink, sum);
    }
}

// 4 sum the values of one tile.
__device__ void add_values(const Job& job, const Place& at, const Memory& memory, int64_t first) {
    const std::byte* const cells = cells_of(job.v, at);
    for (uint32_t item = threadIdx.x; item < job.slices * job.fours_v; item += k_block_threads) {
        const uint32_t slice = item / job.fours_v, i = item % job.fours_v * 4;
        float4 sum[k_most_heads] = {};
        for (uint32_t c = slice; c < k_tile; c += job.slices) {
            if (memory.seen[c] == 0) continue;  // what lies there may be a NaN
            const float4 v = dequantize4(job.v.type, cells + (first + c) * job.v.cell, i, job.d_v);
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

// The slices' sums are the block's.
__device__ Part part_of(const Job& job, const Place& at, const Memory& memory) {
    const uint32_t width = 4 * job.fours_v;
    for (uint32_t i = threadIdx.x; i < at.heads * job.d_v; i += k_block_threads) {
        const uint32_t g = i / job.d_v, channel = i - g * job.d_v;
        float sum = 0.0f;
        for (uint32_t slice = 0; slice < job.slices; ++slice) {
            sum += memory.sums[(slice * job.heads + g) * width + channel];
        }
        memory.q[i] = sum;
    }
    __syncthreads();
    return {memory.q, memory.most, memory.total, memory.sums};
}

__global__ void __launch_bounds__(k_block_threads)
    attention_kernel(const __grid_constant__ Job job) {
    extern __shared__ float4 shared[];
    const Memory memory(reinterpret_cast<float*>(shared), job);
    const Place at = place_of(job);
    begin(job, at, memory);
    const int64_t step = int64_t(job.parts.splits) * k_tile;
    for (int64_t first = int64_t(at.split) * k_tile; first < at.used; first += step) {
        __syncthreads();  // the queries are there, the last tile's p has been read
        score_tile(job, at, memory, first);
        __syncthreads();
        softmax_tile(at, memory);
        __syncthreads();
        add_values(job, at, memory, first);
    }
    __syncthreads();
    end(job, at, part_of(job, at, memory));
}

void launch(const Job& job, Stream stream) {
    attention_kernel<<<job.grid(), k_block_threads, Memory::bytes(job), stream>>>(job);
    require_launched("attention");
}

}  // namespace

DeviceLimits current_device() {
    int device = 0;
    require_success(cudaGetDevice(&device), "device");
    const auto read = [device](cudaDeviceAttr what) {
        int value = 0;
        require_success(cudaDeviceGetAttribute(&value, what, device), "device");
        return value;
    };
    const bool is_9_0 = read(cudaDevAttrComputeCapabilityMajor) == 9 &&
                        read(cudaDevAttrComputeCapabilityMinor) == 0;
    return {.has_wgmma = is_9_0 && has_wgmma_code(),
            .processors = read(cudaDevAttrMultiProcessorCount),
            .shared_bytes = read(cudaDevAttrMaxSharedMemoryPerMultiprocessor),
            .most_shared_bytes = read(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

void Workspace::create() {
    static_cast<DeviceLimits&>(*this) = current_device();
    bytes = k_part_bytes;
    const size_t counters = size_t(k_most_columns) * sizeof(unsigned);
    arrived = reinterpret_cast<unsigned*>(allocate(counters));
    // Not on the default stream: another thread's recording would end where that is used.
    require_success(cudaMemsetAsync(arrived, 0, counters, cudaStreamPerThread), "clear");
    require_success(cudaStreamSynchronize(cudaStreamPerThread), "clear");
    parts = allocate(size_t(bytes));
}

void Workspace::destroy() {
    DeviceMemory(reinterpret_cast<std::byte*>(std::exchange(arrived, nullptr)));
    DeviceMemory(std::exchange(parts, nullptr));
}

KernelPlan split_plan(const AttentionArgs& args) {
    return {"attention.cu", k_block_threads / k_warp, 1, Memory::bytes(Job(args))};
}

void decode_1_simple(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (!args.dst.empty()) launch(Job(args), stream);
}

void decode_2_split(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    Job job(args);
    const uint32_t tiles = (job.cells + k_tile - 1) / k_tile;
    job.parts = parts_for(job, workspace, k_occupancy * uint32_t(workspace.processors), tiles);
    launch(job, stream);
}

// Kernels whose parts of a row always meet in the workspace take as many tokens at a time as have
// room.
void attention(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    const auto prefill = [&](const AttentionArgs& some) {
        attention_prefill(some, workspace, stream);
    };
    switch (attention_path(args, workspace).kind) {
        case AttentionKind::split:
            return decode_2_split(args, workspace, stream);
        case AttentionKind::cluster:
            return decode_9_cluster(args, workspace, stream);
        case AttentionKind::tensor:
            if (decode_warpgroup_plan(args, workspace)) {
                return decode_warpgroup(args, workspace, stream);
            }
            if (decode_team_plan(args, workspace)) return decode_team(args, workspace, stream);
            return decode_7_bands(args, workspace, stream);
        case AttentionKind::terms:
            return decode_8_terms(args, workspace, stream);
        case AttentionKind::prefill:
            return args.lse.empty() ? prefill(args) : in_turns(args, workspace, prefill);
        case AttentionKind::prefill_f32:
            return attention_prefill_f32(args, workspace, stream);
    }
}

}  // namespace rotkv::cuda
