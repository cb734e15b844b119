// Attention of one token over a cache of few cells, or of one token of each of some streams, in one
// kernel and in f32: version 9 of the ladder. What such tokens cost is latencies, one after the
// other, and neither bytes nor products; so there are as few as possible, and sizes and types are
// known to the compiler.
//
// A cluster of up to 8 blocks of threads has up to 8 query heads of one KV head and token, and
// shares out the cells. A group of D / 4 lanes owns a cell at a time, each lane four of its
// channels, from the cache to the sums: nothing lies in shared memory between.
//   queries  every group rotates them for itself, in registers (hadamard.cuh has the same lanes)
//   scores   a sum over the group's lanes
//   softmax  each group by itself, as it runs
//   values   the lane's channels
// Then the groups of a warp become one, the warps of a block in shared memory, and the blocks of a
// cluster in each other's: a warp for each head reads the parts of all, rotates back and stores. No
// part lies in device memory, nobody counts who ends last, and no second kernel follows. The order
// of all sums is fixed.
//
// Cost: K and V of the cells in use once. Agrees with ref::attention within the bound for f32, also
// where f16 would do.
#include "cuda/attention_parts.cuh"
#include "cuda/cluster.cuh"
#include "cuda/dependent.cuh"
#include "cuda/dequant.cuh"
#include "cuda/ladder.h"

#include <algorithm>

namespace rotkv::cuda {
namespace {

constexpr uint32_t k_block_threads = 256, k_block_warps = k_block_threads / k_warp;
constexpr int64_t k_most_elements = 1 << 13;  // of K, of a block: beyond, decode.cu is faster
constexpr int k_at_once = 4;                  // cells of a group on their way, if one is not enough

// Blocks that a processor holds: a thread takes up to 194 registers for 8 heads, 128 for 4.
constexpr int64_t blocks_at_once(uint32_t heads) { return heads > 4 ? 1 : 2; }

struct Job : Task {
    uint32_t cluster;  // blocks

    // As many as have a cell for each group, and as are on the device at once.
    Job(const AttentionArgs& a, int64_t processors) : Task(a), cluster(k_most_cluster) {
        const uint32_t of_block = 4 * k_block_threads / std::max(1u, d_k);
        while (cluster > 1 && cluster / 2 * of_block >= cells) cluster /= 2;
        while (cluster > 1 && !is_at_once(processors)) cluster /= 2;
    }
    int64_t clusters() const { return int64_t(tokens) * columns; }
    bool is_at_once(int64_t processors) const {
        return clusters() * cluster <= blocks_at_once(heads) * processors;
    }
};

__device__ float exp_of(float x) { return power_of_two(x * k_log2_e); }

// What is known of some cells, in one lane: of each head, the largest score, what p adds up to, and
// the sums of the lane's four channels of values.
template <int G>
struct State {
    float most[G], total[G];
    float4 sum[G];

    __device__ State() {
#pragma unroll
        for (int g = 0; g < G; ++g) most[g] = -FLT_MAX, total[g] = 0, sum[g] = {0, 0, 0, 0};
    }

    // 3 softmax and 4 the sum of values of `U` cells more; s = -inf: not seen, v is then 0.
    template <int U>
    __device__ void take(const float (&s)[G][U], const float4 (&v)[U]) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
            float larger = most[g];
#pragma unroll
            for (int u = 0; u < U; ++u) larger = fmaxf(larger, s[g][u]);
            shrink(g, larger);
#pragma unroll
            for (int u = 0; u < U; ++u) {
                const float p = exp_of(s[g][u] - larger);
                total[g] += p;
                add_scaled(sum[g], p, v[u]);
            }
        }
    }
    // With that of the lane whose number differs in bit h.
    __device__ void meet(unsigned h) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
            shrink(g, fmaxf(most[g], partner(most[g], h)));
            total[g] += partner(total[g], h);
            sum[g] = {sum[g].x + partner(sum[g].x, h), sum[g].y + partner(sum[g].y, h),
                      sum[g].z + partner(sum[g].z, h), sum[g].w + partner(sum[g].w, h)};
        }
    }

  private:
    __device__ void shrink(int g, float larger) {
        const float by = exp_of(most[g] - larger);
        most[g] = larger;
        total[g] *= by;
        sum[g] = scaled(sum[g], by);
    }
};

// Parts in shared memory: the warps', and the block's, which the cluster reads.
template <int D, int G>
struct Memory {
    float4 of_warp[k_block_warps][G][D / 4];
    float2 softmax_of_warp[k_block_warps][G];  // {most, total}
    float4 of_block[G][D / 4];
    float2 softmax_of_block[G];
};

// Some parts become one: the larger most, and by what the sums of each are to be multiplied.
template <int count>
__device__ float2 join(const float2 (&parts)[count], float (&weights)[count], float most) {
#pragma unroll
    for (const float2& part : parts) most = fmaxf(most, part.x);
    float total = 0;
#pragma unroll
    for (int i = 0; i < count; ++i) {
        weights[i] = exp_of(parts[i].x - most);
        total = fmaf(weights[i], parts[i].y, total);
    }
    return {most, total};
}

// Four channels of a head to a thread.
template <int D, int G>
__device__ void merge_warps(Memory<D, G>& memory) {
    static_assert(G * (D / 4) <= k_block_threads);
    const uint32_t g = threadIdx.x / (D / 4), four = threadIdx.x % (D / 4);
    if (g >= G) return;
    float2 parts[k_block_warps];
    float weights[k_block_warps];
#pragma unroll
    for (uint32_t w = 0; w < k_block_warps; ++w) parts[w] = memory.softmax_of_warp[w][g];
    const float2 all = join(parts, weights, -FLT_MAX);
    float4 sum = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t w = 0; w < k_block_warps; ++w) {
        add_scaled(sum, weights[w], memory.of_warp[w][g][four]);
    }
    memory.of_block[g][four] = sum;
    if (four == 0) memory.softmax_of_block[g] = all;
}

// The blocks' parts of head g, by a warp, whose groups of lanes share out the blocks; 5 rotate
// back, store.
template <int D, int G>
__device__ void finish(const Job& job, const Place& at, const Memory<D, G>& memory, uint32_t g) {
    constexpr uint32_t lanes = D / 4, groups = k_warp / lanes, count = k_most_cluster / groups;
    const uint32_t lane = lane_of_warp(), four = lane % lanes, head = at.first_head + g;
    float2 parts[count];
    float weights[count];
    float4 sums[count], out[1][1] = {};
#pragma unroll
    for (uint32_t i = 0; i < count; ++i) {
        const uint32_t block = lane / lanes + i * groups;
        const bool is_there = block < job.cluster;
        parts[i] = is_there ? load2_in(block, &memory.softmax_of_block[g]) : float2{-FLT_MAX, 0};
        sums[i] = is_there ? load4_in(block, &memory.of_block[g][four]) : float4{0, 0, 0, 0};
    }
    const float sink = job.sinks != nullptr ? job.sinks[head] : -INFINITY;
    float most = fmaxf(sink, -FLT_MAX);
#pragma unroll
    for (const float2& part : parts) most = fmaxf(most, part.x);
    for (unsigned h = lanes; h < k_warp; h *= 2) most = fmaxf(most, partner(most, h));
    float total = join(parts, weights, most).y;
    float4& sum = out[0][0];
#pragma unroll
    for (uint32_t i = 0; i < count; ++i) add_scaled(sum, weights[i], sums[i]);
    for (unsigned h = lanes; h < k_warp; h *= 2) {
        total += partner(total, h);
        sum = {sum.x + partner(sum.x, h), sum.y + partner(sum.y, h), sum.z + partner(sum.z, h),
               sum.w + partner(sum.w, h)};
    }
    total += exp_of(sink - most);
    if (lane == 0) store_lse(job, at.t, head, most, total);
    sum = scaled(sum, total == 0 ? 0 : 1 / total);  // 0: nothing was seen
    const uint32_t begin[1] = {4 * four};
    rotate(out, job.v_cut, begin, true);
    if (lane >= lanes) return;
    float* const dst =
        reinterpret_cast<float*>(job.dst + at.t * job.dst_token + head * job.dst_head);
    store4(dst, 4 * four, D, reinterpret_cast<uintptr_t>(dst) % 16 == 0, sum);
}

// The cells of a group of lanes.
template <int D>
struct Walk {
    static constexpr uint32_t lanes = D / 4, of_block = k_block_threads / lanes;
    const std::byte *k, *v;
    const int32_t* position;
    uint32_t cell, step;

    __device__ Walk(const Job& job, const Place& at)
        : k(cells_of(job.k, at)),
          v(cells_of(job.v, at)),
          position(positions(job, at)),
          cell(at.split * of_block + threadIdx.x / lanes),
          step(job.cluster * of_block) {}

    // Of cell + u step: is it seen?
    template <int U>
    __device__ void look(const Place& at, bool (&seen)[U]) const {
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const uint32_t c = cell + u * step;
            seen[u] = c < at.used && at.seen.holds(position[c]);
        }
    }
};

// 1 rotate the queries: the lane's four channels of each head. Those behind the last repeat it.
template <int G>
struct Queries {
    float4 x[G][1];
    uint32_t begin[G];

    __device__ void load(const Job& job, const Place& at, uint32_t channel) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
            const uint32_t head = at.first_head + min(uint32_t(g), at.heads - 1);
            const auto* row =
                reinterpret_cast<const float*>(job.q + at.t * job.q_token + head * job.q_head);
            x[g][0] = load4(row, channel, job.d_k, reinterpret_cast<uintptr_t>(row) % 16 == 0);
            begin[g] = channel;
        }
    }
    __device__ void rotate(const Job& job) { cuda::rotate(x, job.k_cut, begin, false); }
};

// 2 score a cell: all lanes of the group learn it.
template <int D>
__device__ float score(const Job& job, const float4& q, const float4& k) {
    float s = fmaf(q.x, k.x, fmaf(q.y, k.y, fmaf(q.z, k.z, q.w * k.w)));
    for (unsigned h = D / 8; h > 0; h /= 2) s += partner(s, h);
    s *= job.scale;
    return job.softcap > 0 ? job.softcap * tanhf(s / job.softcap) : s;
}

template <int D, int G, int U>
__global__ void __launch_bounds__(k_block_threads)
    decode_cluster_kernel(const __grid_constant__ Job job) {
    __shared__ Memory<D, G> memory;
    fetch_arguments(job);
    const Place at = place_of(job, blockIdx.y, blockIdx.x);
    const uint32_t warp = threadIdx.x / k_warp, lane = lane_of_warp();
    const uint32_t channel = 4 * (threadIdx.x % Walk<D>::lanes);
    Walk<D> walk(job, at);
    bool seen[U];
    walk.look(at, seen);
    wait_for_earlier();
    let_next_come();
    Queries<G> q;
    q.load(job, at, channel);
    bool is_rotated = false;
    State<G> state;
#pragma unroll 1
    for (uint32_t first = at.split * Walk<D>::of_block; first < at.used; first += U * walk.step) {
        float4 k[U], v[U];
        with_type(job.k.type, [&](auto constant) {
            constexpr DType type = decltype(constant)::value;
#pragma unroll
            for (int u = 0; u < U; ++u) {  // cells behind the last are not seen
                const uint32_t c = min(walk.cell + u * walk.step, at.used - 1);
                k[u] = dequantize4(type, walk.k + c * job.k.cell, channel, D);
                v[u] = dequantize4(type, walk.v + c * job.v.cell, channel, D);
            }
        });
        if (!is_rotated) q.rotate(job);
        is_rotated = true;
        float s[G][U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
            if (!seen[u]) v[u] = {0, 0, 0, 0};  // what lies there may be a NaN
#pragma unroll
            for (int g = 0; g < G; ++g) {
                const float x = score<D>(job, q.x[g][0], k[u]);
                s[g][u] = seen[u] ? x : -INFINITY;
            }
        }
        walk.cell += U * walk.step;
        walk.look(at, seen);
        state.take(s, v);
    }
    for (unsigned h = Walk<D>::lanes; h < k_warp; h *= 2) state.meet(h);
    if (lane < Walk<D>::lanes) {
#pragma unroll
        for (int g = 0; g < G; ++g) {
            memory.of_warp[warp][g][lane] = state.sum[g];
            if (lane == 0) memory.softmax_of_warp[warp][g] = {state.most[g], state.total[g]};
        }
    }
    __syncthreads();
    merge_warps(memory);
    arrive_at_cluster();
    wait_for_cluster();  // all parts are there
    for (uint32_t g = at.split + warp * job.cluster; g < at.heads;
         g += k_block_warps * job.cluster) {
        finish(job, at, memory, g);
    }
    arrive_at_cluster();
    wait_for_cluster();  // until others have read this block's part
}

struct Kernel {
    int64_t d;
    uint32_t heads;
    void (*one)(Job);
    void (*some)(Job);
};
template <int D, int G>
constexpr Kernel kernel_of() {
    return {D, G, decode_cluster_kernel<D, G, 1>, decode_cluster_kernel<D, G, k_at_once>};
}
constexpr Kernel k_kernels[] = {
    kernel_of<64, 1>(),  kernel_of<64, 3>(),  kernel_of<64, 4>(),  kernel_of<64, 8>(),
    kernel_of<128, 1>(), kernel_of<128, 3>(), kernel_of<128, 4>(), kernel_of<128, 8>(),
};

// Null where there is none.
const Kernel* kernel_for(const AttentionArgs& args) {
    if (args.k_cache.n[1] * args.q.n[3] > k_most_elements * k_most_cluster) return nullptr;
    if (args.k_cache.type != args.v_cache.type || args.q.n[3] != args.dst.n[3]) return nullptr;
    const uint32_t heads = Task(args).heads;
    for (const Kernel& kernel : k_kernels) {
        if (kernel.d == args.q.n[3] && kernel.heads >= heads) return &kernel;
    }
    return nullptr;
}

}  // namespace

// Of more tokens than streams, of more clusters than the device holds at once, and of more cells
// for each of their blocks decode.cu makes better use.
KernelPlan decode_cluster_plan(const AttentionArgs& args, const DeviceLimits& device) {
    if (!device.has_wgmma || kernel_for(args) == nullptr) return {};
    if (args.q.n[1] > std::max<int64_t>(1, args.k_cache.n[0])) return {};
    const Job job(args, device.processors);
    const int64_t elements = args.k_cache.n[1] * args.q.n[3];
    if (!job.is_at_once(device.processors) || elements > k_most_elements * job.cluster) return {};
    return {"decode_cluster.cu", k_block_warps, 1, 0};
}

bool decode_9_takes(const AttentionArgs& args) {
    const bool is_grid = args.q.n[1] * args.q.n[2] <= k_most_blocks;
    return takes_f32(args) && is_grid && kernel_for(args) != nullptr;
}

void decode_9_cluster(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    if (!workspace.has_wgmma) return decode_8_terms(args, workspace, stream);
    const Job job(args, workspace.processors);
    const Kernel& kernel = *kernel_for(args);
    const bool is_one = job.cluster * (4 * k_block_threads / job.d_k) >= job.cells;
    const dim3 blocks(job.cluster, unsigned(job.clusters()));
    launch_cluster(is_one ? kernel.one : kernel.some, job.cluster, blocks, dim3(k_block_threads), 0,
                   stream, job);
}

}  // namespace rotkv::cuda
