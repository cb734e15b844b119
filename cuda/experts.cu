// Products with the matrices of chosen experts, and their sum.
//   expert_matmul  y[t, a, o] = sum_i w[id[t, a], o, i] x[t, a, i] + bias[id[t, a], o]
//     The weight stays packed until it is in registers (matvec.cuh). A block of threads has some
//     rows of one expert and a chunk of uses, a use being a token and a place a. As long as experts
//     are more than uses, a chunk is one use. From there on uses are sorted by expert on the
//     device, and a chunk is up to eight of one expert. Blocks of the same rows of an expert are
//     neighbours: its weights come from memory once, and from L2 for all further chunks.
//     Which use meets which others changes no bit of it.
//   expert_sum     y[t, i] = sum_a weight[t, a] x[t, a, i]
//     A thread owns four neighbouring channels of one token. Must equal ref::expert_sum bit for
//     bit. Cost: 4 bytes for each element of x, 4 for one of y.
#include "cuda/dependent.cuh"
#include "cuda/matvec.cuh"
#include "cuda/products.h"

#include <algorithm>

namespace rotkv::cuda {
namespace {

constexpr unsigned k_sorters = unsigned(k_most_experts);  // a thread an expert

// Uses first .. first + count in the order of their experts.
struct Chunk {
    int32_t expert;
    uint32_t first, count;
};

// Uses sorted by expert, in memory of the device.
struct Sorted {
    uint32_t* order;   // [uses]: t A + a
    Chunk* chunks;     // [most_chunks]
    uint32_t* filled;  // [1]: so many of them are there
};

struct Ids {
    const std::byte* data;
    int64_t stride;
    Divisor per_token;  // A

    __device__ int32_t of(uint32_t use) const {
        const uint32_t t = per_token.of(use);
        return reinterpret_cast<const int32_t*>(data + t * stride)[use - t * per_token.d];
    }
};

// Adds to each thread's numbers those of all threads before it; x and y of block-wide memory.
__device__ void running_sums(uint32_t (&x)[k_sorters], uint32_t (&y)[k_sorters]) {
    const uint32_t e = threadIdx.x;
    for (uint32_t step = 1; step < k_sorters; step *= 2) {
        const uint32_t more_x = e >= step ? x[e - step] : 0, more_y = e >= step ? y[e - step] : 0;
        __syncthreads();
        x[e] += more_x;
        y[e] += more_y;
        __syncthreads();
    }
}

__global__ void __launch_bounds__(k_sorters)
    sort_kernel(Ids ids, uint32_t uses, uint32_t experts, uint32_t most, Sorted to) {
    __shared__ uint32_t uses_to[k_sorters], chunks_to[k_sorters], next[k_sorters];
    const uint32_t e = threadIdx.x;
    wait_for_earlier();
    let_next_come();
    next[e] = 0;
    __syncthreads();
    for (uint32_t use = e; use < uses; use += k_sorters) atomicAdd(&next[ids.of(use)], 1u);
    __syncthreads();
    const uint32_t count = next[e], chunks = (count + most - 1) / most;
    uses_to[e] = count;
    chunks_to[e] = chunks;
    __syncthreads();
    running_sums(uses_to, chunks_to);
    const uint32_t first = uses_to[e] - count;
    next[e] = first;
    if (e + 1 == k_sorters) *to.filled = chunks_to[e];
    for (uint32_t i = 0; i < chunks && e < experts; ++i) {
        to.chunks[chunks_to[e] - chunks + i] = {int32_t(e), first + i * most,
                                                min(most, count - i * most)};
    }
    __syncthreads();
    for (uint32_t use = e; use < uses; use += k_sorters) {
        to.order[atomicAdd(&next[ids.of(use)], 1u)] = use;
    }
}

struct ExpertJob {
    TensorView dst, weight, src, bias;
    Ids ids;
    Sorted sorted;  // order null: a use a block
    uint32_t in, out, split;
    bool vectors;  // do the activations begin on 16 bytes?
};

// blockIdx: chunk, rows. threadIdx: lane, warp of the block.
template <DType type, uint32_t most>
__global__ void __launch_bounds__(k_warps* k_warp, most == 1 ? 2 * k_resident : 1)
    expert_matvec_kernel(const __grid_constant__ ExpertJob job) {
    __shared__ float of_warp[k_warps][most];
    const uint32_t lane = threadIdx.x, warp = threadIdx.y, parts = 1u << job.split;
    const Place place{(blockIdx.y * k_warps + warp) >> job.split, warp % parts, parts};
    wait_for_earlier();
    let_next_come();
    Chunk chunk{0, blockIdx.x, 1};
    if constexpr (most == 1) {
        chunk.expert = job.ids.of(blockIdx.x);
    } else {
        if (blockIdx.x >= *job.sorted.filled) return;
        chunk = job.sorted.chunks[blockIdx.x];
    }
    const auto use = [&](uint32_t i) {
        return most == 1 ? chunk.first : job.sorted.order[chunk.first + i];
    };
    const float* tokens[most];
#pragma unroll
    for (uint32_t i = 0; i < most; ++i) {
        const uint32_t u = use(min(i, chunk.count - 1)), t = job.ids.per_token.of(u);
        tokens[i] =
            reinterpret_cast<const float*>(job.src.data + t * job.src.stride[1] +
                                           (u - t * job.ids.per_token.d) * job.src.stride[2]);
    }
    const std::byte* w =
        job.weight.data + chunk.expert * job.weight.stride[1] + place.o * job.weight.stride[2];
    const bool there = place.o < job.out;
    float sum[most] = {};
    if (there) {
        multiply<type>(
            sum, w, job.in, chunk.count, [&](uint32_t i) { return tokens[i]; }, job.vectors, place);
    }
    share_sums(of_warp, sum, chunk.count);
    __syncthreads();
    if (place.part != 0 || lane >= chunk.count || !there) return;
    float y = total(of_warp, warp, parts, lane);
    if (job.bias.data != nullptr) {
        y += reinterpret_cast<const float*>(job.bias.data +
                                            chunk.expert * job.bias.stride[2])[place.o];
    }
    const uint32_t u = use(lane), t = job.ids.per_token.of(u);
    reinterpret_cast<float*>(job.dst.data + t * job.dst.stride[1] +
                             (u - t * job.ids.per_token.d) * job.dst.stride[2])[place.o] = y;
}

__global__ void __launch_bounds__(k_threads)
    expert_sum_kernel(Rows dst, TensorView src, bool vectors, TensorView weight, uint32_t tokens,
                      Divisor per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * k_threads + threadIdx.x, t = per_row.of(thread);
    wait_for_earlier();
    let_next_come();
    if (t >= tokens) return;
    const uint32_t i = (thread - t * per_row.d) * 4, uses = uint32_t(src.n[2]);
    const float* w = reinterpret_cast<const float*>(weight.data + t * weight.stride[2]);
    double sum[4] = {};
    for (uint32_t a = 0; a < uses; ++a) {
        const float4 x =
            load4(reinterpret_cast<const float*>(src.data + t * src.stride[1] + a * src.stride[2]),
                  i, d, vectors);
        const double by = double(w[a]);
        sum[0] += by * double(x.x);
        sum[1] += by * double(x.y);
        sum[2] += by * double(x.z);
        sum[3] += by * double(x.w);
    }
    store4(dst.row<float>(t), i, d, dst.vectors,
           {float(sum[0]), float(sum[1]), float(sum[2]), float(sum[3])});
}

template <DType type, uint32_t most>
void launch(const ExpertJob& job, int64_t chunks, Stream stream) {
    const dim3 blocks(unsigned(chunks), blocks_for(int64_t(job.out) << job.split, k_warps));
    launch_dependent(expert_matvec_kernel<type, most>, blocks, dim3(k_warp, k_warps), 0, stream,
                     job);
}

// Sorts uses by expert; how many chunks there may be.
int64_t sort_uses(ExpertJob& job, int64_t uses, int64_t experts, Products& products) {
    const int64_t most_chunks = uses / k_matvec_tokens + std::min(uses, experts);
    const int64_t of_order = room_for(uses, DType::i32);
    std::byte* const room = products.reserve(of_order + 256 + most_chunks * sizeof(Chunk));
    job.sorted = {reinterpret_cast<uint32_t*>(room),
                  reinterpret_cast<Chunk*>(room + of_order + 256),
                  reinterpret_cast<uint32_t*>(room + of_order)};
    launch_dependent(sort_kernel, 1, k_sorters, 0, products.stream(), job.ids, uint32_t(uses),
                     uint32_t(experts), uint32_t(k_matvec_tokens), job.sorted);
    return most_chunks;
}

}  // namespace

void expert_matmul(const ExpertMatmulArgs& args, Products& products) {
    if (args.dst.empty()) return;
    const int64_t uses = args.dst.n[1] * args.dst.n[2], experts = args.weight.n[1];
    ExpertJob job{args.dst,
                  args.weight,
                  args.src,
                  args.bias,
                  {args.id.data, args.id.stride[2], Divisor(args.id.n[3])},
                  {},
                  uint32_t(args.src.n[3]),
                  uint32_t(args.weight.n[2]),
                  0,
                  rows_on_16_bytes(args.src)};
    if (args.bias.empty()) job.bias.data = nullptr;
    const bool sorted = uses > experts;
    const int64_t chunks = sorted ? sort_uses(job, uses, experts, products) : uses;
    job.split = split_of(args.weight.n[2] * std::min(chunks, experts), args.src.n[3]);
    with_weight_type(args.weight.type, [&]<DType type>() {
        if (sorted) {
            launch<type, uint32_t(k_matvec_tokens)>(job, chunks, products.stream());
        } else {
            launch<type, 1>(job, chunks, products.stream());
        }
    });
}

void expert_sum(const ExpertSumArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t tokens = args.dst.n[2], d = args.dst.n[3], per_row = (d + 3) / 4;
    launch_dependent(expert_sum_kernel, blocks_for(tokens * per_row, k_threads), k_threads, 0,
                     stream, Rows(args.dst), args.src, rows_on_16_bytes(args.src), args.weight,
                     uint32_t(tokens), Divisor(per_row), uint32_t(d));
}

}  // namespace rotkv::cuda
