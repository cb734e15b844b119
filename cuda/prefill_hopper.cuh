#pragma once
// Attention of many tokens in f16 on the tensor cores of 9.0; prefill.cu says what is computed, in
// which order, and what rows and splits are. A block of threads owns up to 128 rows of a KV head:
//
//   4 or 8 warps   make tiles of 128 cells ready, 64 of large heads (prefill_producer.cuh)
//   4 warps        multiply, rows 0 .. 63 (prefill_consumer.cuh)
//   4 warps        multiply, rows 64 .. 127; where there are none, they end at once
//
// The first give registers to the others. They meet at barriers in shared memory only
// (prefill_ring.cuh), so that each goes on as far as tiles allow.
// Docs: docs/05-attention.md

#include "cuda/dependent.cuh"
#include "cuda/prefill_blocks.cuh"
#include "cuda/prefill_consumer.cuh"

namespace rotkv::cuda::prefill {

/// Rows of a block: as many as two groups multiply, unless those of one stream are so few that the
/// second group would have other streams' rows, and each would multiply tiles for both.
inline uint32_t block_rows_of(const AttentionArgs& args) {
    const int64_t streams = std::max<int64_t>(1, args.k_cache.n[0]);
    const int64_t rows = args.q.n[1] * args.q.n[2] / std::max<int64_t>(1, args.k_cache.n[2]);
    const bool are_few = streams > 1 && rows <= streams * k_tile_rows;
    return are_few ? k_tile_rows : 2 * k_tile_rows;
}

template <int D, Source source>
constexpr uint32_t k_producer_threads = source == Source::halves ? 2 * k_copiers : k_expanders<D>;
template <int D, Source source>
constexpr uint32_t k_block_threads = k_producer_threads<D, source> + 2 * k_warpgroup;

// A thread's registers, of 168 that each has at first, or of 128 where producers are eight warps:
// sums of small heads leave them more.
template <int D, Source source>
constexpr uint32_t k_producer_registers = source == Source::halves ? 56
                                          : D > 128                ? 88
                                          : D > 64                 ? 64
                                                                   : 80;
template <int D, Source source>
constexpr uint32_t k_consumer_registers = source == Source::halves ? 224
                                          : D > 128                ? 208
                                          : D > 64                 ? 192
                                                                   : 176;

template <int D_k, int D_v, Source source>
__device__ void produce(const RingJob& job, const Place& at, const RingMemory<D_k, D_v>& memory) {
    if constexpr (source == Source::blocks) {
        produce_blocks(job, at, memory);
    } else if constexpr (source == Source::others) {
        produce_expanded(job, at, memory);
    } else if (uniform(threadIdx.x / k_copiers) == 0) {
        produce_copies<D_k, 0>(job, at, memory);
    } else {
        produce_copies<D_v, 1>(job, at, memory);
    }
}

// How many say that a tile of one side is ready: threads, or the warps of those who expand blocks.
template <int D_k, int D_v, Source source>
constexpr uint32_t k_side_arrivals =
    source == Source::halves   ? k_copiers
    : source == Source::blocks ? RingShape<D_k, D_v>::cells / k_warp
                               : k_expanders<D_k>;

template <int D_k, int D_v, Source source>
__global__ void __launch_bounds__(k_block_threads<D_k, source>, 1)
    hopper_kernel(const __grid_constant__ RingJob job) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint4 shared[];
    const RingMemory<D_k, D_v> memory(reinterpret_cast<std::byte*>(shared), job);
    Place at(job, job.block_rows);
    const bool both_multiply = at.last - at.first >= k_tile_rows;
    if (threadIdx.x == 0) {
        memory.create(source, job.slots, k_side_arrivals<D_k, D_v, source>, both_multiply ? 8 : 4);
    }
    if (job.is_ordered) {
        order_tokens(job, uint32_t(job.args.q.n[1]), memory.state);
        at.order = memory.state.order;
    }
    __syncthreads();
    constexpr uint32_t k_first = k_producer_threads<D_k, source> / k_warpgroup;  // that multiply
    const uint32_t four_warps = uniform(threadIdx.x / k_warpgroup);
    if (four_warps < k_first) {
        give_registers<k_producer_registers<D_k, source>>();
        produce<D_k, D_v, source>(job, at, memory);
    } else {
        take_registers<k_consumer_registers<D_k, source>>();
        if (four_warps == k_first || both_multiply) {
            Consumer<D_k, D_v, source == Source::halves>(job, at, memory, four_warps - k_first,
                                                         both_multiply)
                .run();
        } else {
            wait_for_earlier();
        }
    }
#else
    __trap();  // never launched: launch_hopper asks which code there is
#endif
}

// Every real body has at least 128 registers a thread; compiled without the instructions of 9.0, or
// from code for another architecture, there is only the trap.
constexpr int k_least_registers = 64;

/// Rows that travel by way of raw slots: blocks of codes, f32, and plain rows that lie anyhow.
inline Side expanded_side(const TensorView& cache) {
    Side side(cache, 1);
    side.slot = slot_of(cache, side.row_bytes);
    if (is_block_type(side.type) || (side.type == DType::f32 && side.aligned)) return side;
    side.aligned = side.direct = side.is_ready = false;
    side.units = Divisor((side.d + 7) / 8);
    return side;
}

/// With the raw ring that fits into so many bytes; false if none does.
template <int D_k, int D_v>
bool fit_raw_ring(RingJob& job, uint32_t most_bytes) {
    using S = RingShape<D_k, D_v>;
    job.slots = 0;
    const uint32_t fixed = RingMemory<D_k, D_v>::bytes(job);
    job.k = expanded_side(job.args.k_cache);
    job.v = expanded_side(job.args.v_cache);
    for (job.raw_cells = S::cells; job.raw_cells >= 16; job.raw_cells /= 2) {
        job.raw_bytes = job.raw_cells * std::max(job.k.slot, job.v.slot);
        if (fixed + 3 * job.raw_bytes > most_bytes) continue;
        job.slots = std::min(k_most_slots, (most_bytes - fixed) / job.raw_bytes);
        return true;
    }
    return false;
}

/// With maps of blocks of codes and raw slots of their rows; false where something else lies there,
/// or where the engine cannot take it.
template <int D_k, int D_v>
bool fit_raw_rows(RingJob& job, uint32_t most_bytes) {
    using S = RingShape<D_k, D_v>;
    const auto map = [&](Side& side, RowMap& rows, const TensorView& cache) {
        side.slot = slot_of(cache, side.row_bytes);
        const uint64_t begins = reinterpret_cast<uintptr_t>(cache.data) | uint64_t(side.of_head);
        return is_block_type(side.type) && begins % 4 == 0 &&
               map_rows(rows, cache, side.slot / 2, S::cells, false);
    };
    job.has_maps =
        map(job.k, job.map[0], job.args.k_cache) && map(job.v, job.map[1], job.args.v_cache);
    job.slots = 0;
    job.raw_bytes = S::cells * (job.k.slot + job.v.slot);
    const uint32_t fixed = RingMemory<D_k, D_v>::bytes(job);
    if (!job.has_maps || fixed + job.raw_bytes > most_bytes) return false;
    job.slots = std::min(k_most_slots / 2, (most_bytes - fixed) / job.raw_bytes);
    return true;
}

/// What the source takes beside tiles.
template <int D_k, int D_v, Source source>
bool fit(RingJob& job, uint32_t most_bytes) {
    using S = RingShape<D_k, D_v>;
    job.has_maps = false;
    job.slots = job.raw_cells = job.raw_bytes = 0;
    if constexpr (source == Source::blocks) return fit_raw_rows<D_k, D_v>(job, most_bytes);
    if constexpr (source == Source::others) return fit_raw_ring<D_k, D_v>(job, most_bytes);
    job.has_maps = map_rows(job.map[0], job.args.k_cache, 64, S::cells, true) &&
                   map_rows(job.map[1], job.args.v_cache, 64, S::cells, true);
    return RingMemory<D_k, D_v>::bytes(job) <= most_bytes;
}

template <int D_k, int D_v, Source source>
bool launch_hopper(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    const int64_t streams = args.k_cache.n[0];
    const bool is_ordered =
        streams > 1 && streams <= k_most_ordered_streams && args.q.n[1] <= k_most_ordered;
    RingJob job{job_of(args, 1, 1), {}, false, is_ordered, block_rows_of(args), 0, 0, 0};
    if (!fit<D_k, D_v, source>(job, uint32_t(workspace.most_shared_bytes))) return false;
    const uint32_t bytes = RingMemory<D_k, D_v>::bytes(job);
    const uint32_t blocks = blocks_for(job.rows, job.block_rows) * job.kv_heads;
    job.parts = choose_parts(args, workspace, blocks, RingShape<D_k, D_v>::cells);
    const auto kernel = hopper_kernel<D_k, D_v, source>;
    cudaFuncAttributes code;
    require_success(cudaFuncGetAttributes(&code, kernel), "kernel");
    if (code.numRegs < k_least_registers) return false;
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "attention");
    launch_dependent(kernel, dim3(blocks, job.parts.splits), dim3(k_block_threads<D_k, source>),
                     bytes, stream, job);
    if (job.parts.are_used()) combine_parts(args, job.parts, stream);
    return true;
}

/// What it would launch.
template <int D_k, int D_v, Source source>
KernelPlan plan_hopper(const AttentionArgs& args, int64_t most_bytes) {
    RingJob job{job_of(args, 1, 1), {}, false, false, block_rows_of(args), 0, 0, 0};
    if (!fit<D_k, D_v, source>(job, uint32_t(most_bytes))) return {};
    return {"prefill_hopper.cuh", k_block_threads<D_k, source> / k_warp, k_stages,
            RingMemory<D_k, D_v>::bytes(job)};
}

/// The kernel of exactly these heads.
struct HopperKernel {
    int64_t d_k, d_v;
    bool (*launch)(const AttentionArgs& args, const Workspace& workspace, Stream stream);
    KernelPlan (*plan)(const AttentionArgs& args, int64_t most_bytes);

    template <int D_k, int D_v, Source source>
    static constexpr HopperKernel of() {
        return {D_k, D_v, launch_hopper<D_k, D_v, source>, plan_hopper<D_k, D_v, source>};
    }
};

/// Null: there is none.
template <Source source>
const HopperKernel* hopper_kernel_for(const AttentionArgs& args) {
    static constexpr HopperKernel k_kernels[] = {
        HopperKernel::of<64, 64, source>(),   HopperKernel::of<80, 80, source>(),
        HopperKernel::of<96, 96, source>(),   HopperKernel::of<112, 112, source>(),
        HopperKernel::of<128, 128, source>(), HopperKernel::of<192, 192, source>(),
        HopperKernel::of<192, 128, source>(), HopperKernel::of<256, 256, source>(),
    };
    for (const HopperKernel& kernel : k_kernels) {
        if (kernel.d_k == args.q.n[3] && kernel.d_v == args.dst.n[3]) return &kernel;
    }
    return nullptr;
}

/// If there is a kernel for these head sizes and it has room.
template <Source source>
bool attention_hopper(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    const HopperKernel* const kernel = hopper_kernel_for<source>(args);
    return kernel != nullptr && kernel->launch(args, workspace, stream);
}

template <Source source>
KernelPlan hopper_plan(const AttentionArgs& args, const DeviceLimits& device) {
    const HopperKernel* const kernel = hopper_kernel_for<source>(args);
    return kernel == nullptr ? KernelPlan{} : kernel->plan(args, device.most_shared_bytes);
}

}  // namespace rotkv::cuda::prefill
