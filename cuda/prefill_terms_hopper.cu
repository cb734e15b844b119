// Attention of many tokens in f32 precision on 9.0, over halves and blocks that the copy engine can
// take; prefill_terms.cu says what is computed. A block of threads owns up to 128 rows, and its
// warps have roles as in prefill_hopper.cuh:
//
//   4 warps   make tiles of 64 cells ready (prefill_terms_ring.cuh)
//   4 warps   multiply, rows 0 .. 63 (prefill_terms_consumer.cuh)
//   4 warps   multiply, rows 64 .. 127; where there are none, they end at once
//
#include "cuda/prefill_hopper.cuh"
#include "cuda/prefill_terms.h"
#include "cuda/prefill_terms_consumer.cuh"

namespace rotkv::cuda {
namespace prefill {
namespace {

constexpr uint32_t k_terms_block = 3 * k_warpgroup;  // threads

template <int D>
__global__ void __launch_bounds__(k_terms_block, 1)
    terms_kernel(const __grid_constant__ TermsRingJob job) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint4 shared[];
    const TermsRing<D> memory(reinterpret_cast<std::byte*>(shared), job);
    Place at(job, job.block_rows);
    const bool both_multiply = at.last - at.first >= k_tile_rows;
    if (threadIdx.x == 0) create_ring(job, memory, both_multiply ? 8 : 4);
    if (job.is_ordered) {
        order_tokens(job, uint32_t(job.args.q.n[1]), memory.state);
        at.order = memory.state.order;
    }
    __syncthreads();
    const uint32_t four_warps = uniform(threadIdx.x / k_warpgroup);
    if (four_warps == 0) {
        give_registers<56>();
        produce_terms<D>(job, at, memory);
    } else {
        take_registers<224>();
        if (four_warps == 1 || both_multiply) {
            TermsConsumer<D>(job, at, memory, four_warps - 1).run();
        } else {
            wait_for_earlier();
        }
    }
#else
    __trap();  // never launched: the host asks which code there is
#endif
}

// Would the second group have nothing to do, and the warps that expand blocks wait for the first?
// Two blocks of threads of prefill_terms.cu share a processor, and are faster then.
bool are_too_few(const TermsRingJob& job) {
    return (job.k_blocks || job.v_blocks) && std::min(job.rows, job.block_rows) <= k_tile_rows;
}

// Can the engine take a side's rows?
bool map_side(Side& side, RowMap& map, const TensorView& cache) {
    if (!is_block_type(side.type)) {
        return side.is_ready && map_rows(map, cache, 64, k_term_cells, true);
    }
    side.slot = slot_of(cache, side.row_bytes);
    const uint64_t begins = reinterpret_cast<uintptr_t>(cache.data) | uint64_t(side.of_head);
    return begins % 4 == 0 && map_rows(map, cache, side.slot / 2, k_term_cells, false);
}

/// With maps and raw slots; false where they cannot be.
template <int D>
bool fit_terms(TermsRingJob& job, int64_t most_bytes) {
    job.has_maps = !are_too_few(job) && map_side(job.k, job.map[0], job.args.k_cache) &&
                   map_side(job.v, job.map[1], job.args.v_cache);
    if (!job.has_maps) return false;
    if (!job.k_blocks) job.k.slot = 0;
    if (!job.v_blocks) job.v.slot = 0;
    job.raw_bytes = k_term_cells * (job.k.slot + job.v.slot);
    job.slots = 0;
    const int64_t fixed = TermsRing<D>::bytes(job);
    if (fixed + job.raw_bytes > most_bytes) return false;
    if (job.raw_bytes > 0) {
        job.slots = std::min(k_most_slots / 2, uint32_t(most_bytes - fixed) / job.raw_bytes);
    }
    return true;
}

// Of a code, counted from a center.
float most_code(DType type) {
    const bool is_bytes = type == DType::q8_0 || type == DType::iq4_nl;
    return is_bytes ? 128 : type == DType::q4_0 || type == DType::q4_1 ? 16 : 32;
}

TermsRingJob terms_job_of(const AttentionArgs& args) {
    const TermsJob terms(args);
    const int64_t streams = args.k_cache.n[0];
    const bool is_ordered =
        streams > 1 && streams <= k_most_ordered_streams && args.q.n[1] <= k_most_ordered;
    return {{terms, {}, false, is_ordered, block_rows_of(args), 0, 0, 0},
            terms.k_blocks,
            terms.v_blocks,
            terms.k_offsets,
            terms.v_offsets,
            most_code(args.v_cache.type)};
}

template <int D>
bool launch_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    TermsRingJob job = terms_job_of(args);
    if (!fit_terms<D>(job, workspace.most_shared_bytes)) return false;
    const uint32_t bytes = TermsRing<D>::bytes(job);
    const uint32_t blocks = blocks_for(job.rows, job.block_rows) * job.kv_heads;
    const int64_t splits = choose_splits(args, workspace, blocks, k_term_cells);
    if (splits > 1) {
        job.parts = parts_in(workspace, args.q.n[1] * args.q.n[2], args.dst.n[3], splits);
    }
    require_success(cudaFuncSetAttribute(terms_kernel<D>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
                    "attention");
    launch_dependent(terms_kernel<D>, dim3(blocks, job.parts.splits), dim3(k_terms_block), bytes,
                     stream, job);
    if (splits > 1) combine_parts(args, job.parts, stream);
    return true;
}

}  // namespace
}  // namespace prefill

using namespace prefill;

KernelPlan prefill_terms_hopper_plan(const AttentionArgs& args, const DeviceLimits& device) {
    if (!device.has_wgmma) return {};
    TermsRingJob job = terms_job_of(args);
    const bool fits = args.q.n[3] == 64 ? fit_terms<64>(job, device.most_shared_bytes)
                                        : fit_terms<128>(job, device.most_shared_bytes);
    if (!fits) return {};
    return {"prefill_terms_hopper.cu", k_terms_block / k_warp, k_stages,
            args.q.n[3] == 64 ? TermsRing<64>::bytes(job) : TermsRing<128>::bytes(job)};
}

bool attention_terms_hopper(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (!workspace.has_wgmma) return false;
    return args.q.n[3] == 64 ? launch_terms<64>(args, workspace, stream)
                             : launch_terms<128>(args, workspace, stream);
}

}  // namespace rotkv::cuda
