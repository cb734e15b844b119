// Attention of many tokens in f32 precision on tensor cores, over what f16 holds exactly: halves
// and blocks. Steps and rows as in prefill.cu; the products are prefill_terms.cuh's.
//
// A block of threads owns 64 rows, four warps 16 each, and walks over tiles of 64 cells, which all
// of its threads make ready: halves are copied into one of two tiles in turn, blocks to a stage,
// from which they are expanded. Two blocks share a processor: one expands while the other
// multiplies. On 9.0 it is left with few rows over blocks, and with rows that the copy engine
// cannot take: all others are prefill_terms_hopper.cu's.
//
// Rows that are not finite are computed once more (attention_plain.cuh). Where rows are few, blocks
// share out the cells, and combine_kernel makes outputs of their parts (attention_combine.cu).
#include "cuda/prefill_terms.cuh"
#include "cuda/prefill_terms.h"
#include "cuda/prefill_terms_values.cuh"

namespace rotkv::cuda {
namespace prefill {
namespace {

// Blocks of threads that a processor holds.
constexpr uint32_t term_blocks(int d) { return d <= 64 ? 3 : 2; }
__device__ uint32_t row_of_thread() { return threadIdx.x / k_warp * 16 + lane_of_warp() / 4; }

// 1 rotate the query: a warp its own rows. The scale goes into them.
template <int D>
__device__ void load_terms(const TermsJob& job, const Place& at, const TermsMemory<D>& memory) {
    constexpr uint32_t U = 4;
    const uint32_t warp_row = threadIdx.x / k_warp * 16;
#pragma unroll 1
    for (uint32_t first = warp_row; first < warp_row + 16; first += U) {
        float4 x[U][1];
        load_rotated(job, at, first, x);
#pragma unroll
        for (uint32_t i = 0; i < U; ++i) {
            const uint32_t row = first + i;
            store_two_terms<D>(memory.q, TermsMemory<D>::k_query, row, scaled(x[i][0], job.q_scale),
                               memory.units + row,
                               job.k_offsets ? memory.sums_of_q + row * (D / 32) : nullptr);
        }
    }
}

// ---- A tile, for the warp's rows ----

template <int D>
__device__ void score_tile(const TermsJob& job, const TermsMemory<D>& memory, uint32_t turn,
                           TermScores& s) {
    const uint32_t q = shared_address(memory.q),
                   k = shared_address(TermsMemory<D>::tile(job.k, memory.k, turn));
    if (!job.k_blocks) return score_halves<D>(s, q, k);
    const float* const sums = memory.sums_of_q + row_of_thread() * (D / 32);
    score_codes<D>(s, q, k, memory.k_scale, job.k_offsets ? sums : nullptr);
}

// Is it so for some of those that multiply together?
__device__ bool of_some_that_multiply(bool x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    return __syncthreads_or(x);
#else
    return __any_sync(k_all_lanes, x);
#endif
}

// Where all p and p d are large enough, or 0.
template <int D>
__device__ void add_at_once(const TermsJob& job, TermSums<D>& sums, const TermScores& p, uint32_t v,
                            const Scales& scales, const BlockScales<D>& of_blocks,
                            const float (&down)[2]) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    job.v_blocks ? add_codes_on_wgmma<D>(sums, p, v, scales, of_blocks, down, 0)
                 : add_halves_on_wgmma<D>(sums, p, v, down, 0);
#else
    job.v_blocks ? add_terms<D, true, false>(sums, p, v, scales, of_blocks, down, 1)
                 : add_terms<D, false, false>(sums, p, v, scales, of_blocks, down, 1);
#endif
}

template <int D>
__device__ void add_tile(const TermsJob& job, const TermsMemory<D>& memory, uint32_t turn,
                         bool is_large, const TermScores& p, const float (&down)[2],
                         TermSums<D>& sums) {
    const uint32_t v = shared_address(TermsMemory<D>::tile(job.v, memory.v, turn));
    const Scales& scales = memory.v_scale;
    BlockScales<D> of_blocks;
    if (job.v_blocks) of_blocks.find(scales);
    const bool careful =
        of_some_that_multiply(is_large || of_blocks.least < 0x1p-14f ||  // subnormal in f16
                              least_of(p) * fminf(of_blocks.least, 1) < k_least_term);
    if (job.v_offsets) sums.offsets.add(p, scales, down);
    const float times = job.v_blocks || is_large ? 1 : 1 / k_v_times;
    const float of_rows[2] = {down[0] * times, down[1] * times};
    if (!careful) return add_at_once(job, sums, p, v, scales, of_blocks, of_rows);
    job.v_blocks
        ? add_terms<D, true, true>(sums, p, v, scales, of_blocks, of_rows, 1)
        : add_terms<D, false, true>(sums, p, v, scales, of_blocks, of_rows, is_large ? 2 : 1);
}

template <int D>
__device__ void take_tile(const TermsJob& job, const TermsMemory<D>& memory, uint32_t turn,
                          bool is_large, bool whole, const Strip& strip, int64_t first,
                          TermSums<D>& sums) {
    TermScores s;
    score_tile(job, memory, turn, s);
    float units[2] = {sums.units[0], sums.units[1]};
    cap_terms(s, job.cap, units);
    if (!whole) {
        const int64_t cell = first + lane_of_warp() % 4 * 2;
        const Limits* const limits = memory.rows.limits + row_of_thread();
        mask_scores(s, limits[0], limits[8], [&](int n) {
            return int2{strip.at(cell + n * 8), strip.at(cell + n * 8 + 1)};
        });
    }
    float down[2];
    softmax_terms(s, units, sums, down);
    add_tile(job, memory, turn, is_large, s, down, sums);
}

// The tiles of a section that some row sees.
template <int D>
__device__ void walk_terms(const TermsJob& job, const Place& at, const TermsMemory<D>& memory,
                           const Strip& strip, const Share& share, int64_t stream, int64_t section,
                           uint32_t count, uint32_t& turn, TermSums<D>& sums) {
    const Walk<D> walk{job,
                       memory,
                       strip,
                       job.k.row(stream, at.kv, 0),
                       job.v.row(stream, at.kv, 0),
                       {threadIdx.x, k_term_threads}};
    const auto first_of = [&](const Mark& mark) {
        return share.tile(section + mark.tile()) * k_term_cells;
    };
    const auto start = [&](uint32_t i) {
        const Mark mark = memory.rows.mark(i);
        walk.start(turn + i, first_of(mark), mark.whole());
    };
    if (count > 0) start(0);
    for (uint32_t i = 0; i < count; ++i) {
        const Mark mark = memory.rows.mark(i);
        const bool is_large = walk.finish(turn + i, first_of(mark));
        if (i + 1 < count) start(i + 1);
        take_tile(job, memory, turn + i, is_large, mark.whole(), strip, first_of(mark), sums);
    }
    turn += count;
}

// For the second kernel: sums as they are, a row's in 32 bytes of four lanes.
template <int D>
__device__ void store_terms(const TermsJob& job, const Place& at, TermSums<D>& sums) {
    if (job.v_offsets) sums.offsets.add_to(sums);
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
        const uint32_t row = row_of_thread() + 8 * j;
        const float total = sum_of_four_lanes(sums.total[j]);
        if (at.first + row > at.last) continue;
        const int64_t part = job.part(at, row);
        float2* const to =
            reinterpret_cast<float2*>(job.parts.sums + part * job.parts.fours) + lane_of_warp() % 4;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) to[n * 4] = {sums.o[n][2 * j], sums.o[n][2 * j + 1]};
        if (lane_of_warp() % 4 == 0) job.parts.softmax[part] = {sums.most[j], total};
    }
}

// Where nobody shares the cells: outputs, by way of shared memory. A row whose total is not above 0
// is marked, to be computed once more (attention_plain.cuh).
template <int D>
__device__ void finish_terms(const TermsJob& job, const Place& at, const Memory<D>& memory,
                             TermSums<D>& sums) {
    if (job.v_offsets) sums.offsets.add_to(sums);
    __syncthreads();  // tiles have been read
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
        const uint32_t row = row_of_thread() + 8 * j, h = at.head(job, row);
        const float total = sum_of_four_lanes(sums.total[j]);
        const RowEnd end(job, h, sums.most[j], total);
        if (lane_of_warp() % 4 == 0 && at.first + row <= at.last) {
            store_lse(job.task, at.token(job, row), h, end.most / k_log2_e, end.all);
        }
        float* const to = memory.sums + row * Shape<D>::out_pitch + lane_of_warp() % 4 * 2;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            const float(&o)[4] = sums.o[n];
            *reinterpret_cast<float2*>(to + n * 8) = {o[2 * j] * end.factor,
                                                      o[2 * j + 1] * end.factor};
        }
    }
    __syncthreads();
    repair_rows<D>(job, at, memory);
    store_outputs<D>(job, at, memory);  // rows behind this block's are none
}

template <int D>
__global__ void __launch_bounds__(k_term_threads, term_blocks(D))
    prefill_terms_kernel(const __grid_constant__ TermsJob job) {
    extern __shared__ __align__(1024) uint4 shared_terms[];
    const TermsMemory<D> memory(job, reinterpret_cast<std::byte*>(shared_terms));
    const Place at(job, k_term_rows);
    load_terms<D>(job, at, memory);
    TermSums<D> sums;
    begin<D>(job, at, row_of_thread(), false, sums);
    __syncwarp();  // a warp reads its own rows
    sums.units[0] = memory.units[row_of_thread()];
    sums.units[1] = memory.units[row_of_thread() + 8];
    uint32_t turn = 0;  // tiles so far
    for (int32_t stream = next_stream(job, at, -1); stream >= 0;
         stream = next_stream(job, at, stream)) {
        const Strip strip = job.strip(stream);
        const Span span = set_limits<D>(job, at, memory.rows, stream);
        const Share share{at.split, job.parts.splits};
        const int64_t tiles = share.of((strip.used + k_term_cells - 1) / k_term_cells);
        for (int64_t section = 0; section < tiles; section += k_section) {
            const uint32_t count = survey<D>(span, memory.rows, strip, share, section, tiles);
            walk_terms(job, at, memory, strip, share, stream, section, count, turn, sums);
        }
    }
    if (job.parts.are_used()) return store_terms(job, at, sums);
    finish_terms(job, at, memory.rows, sums);
}

template <int D>
void launch_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    TermsJob job(args);
    const uint32_t bytes = TermsMemory<D>::bytes(job);
    const auto kernel = prefill_terms_kernel<D>;
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "attention");
    const unsigned blocks = blocks_for(job.rows, k_term_rows) * job.kv_heads;
    const int64_t splits =
        choose_splits(args, workspace, blocks_for(blocks, term_blocks(D)), k_term_cells);
    if (splits > 1) {
        job.parts = parts_in(workspace, args.q.n[1] * args.q.n[2], args.dst.n[3], splits);
    }
    kernel<<<dim3(blocks, job.parts.splits), k_term_threads, bytes, stream>>>(job);
    require_launched("attention");
    if (splits > 1) combine_parts(args, job.parts, stream);
}

// Does f16 hold what is stored?
bool is_exact(DType type) { return type != DType::f32 && type != DType::bf16; }

bool takes_terms(const AttentionArgs& args) {
    const int64_t d = args.q.n[3];
    return (d == 64 || d == 128) && args.dst.n[3] == d && is_exact(args.k_cache.type) &&
           is_exact(args.v_cache.type) && strides_fit(args);
}

}  // namespace
}  // namespace prefill

using namespace prefill;

KernelPlan prefill_terms_plan(const AttentionArgs& args, const DeviceLimits& device) {
    if (!takes_terms(args)) return {};
    if (const KernelPlan fast = prefill_terms_hopper_plan(args, device)) return fast;
    const TermsJob job(args);
    const uint32_t bytes =
        args.q.n[3] == 64 ? TermsMemory<64>::bytes(job) : TermsMemory<128>::bytes(job);
    if (bytes > device.most_shared_bytes) return {};
    return {"prefill_terms.cu", k_term_threads / k_warp, std::min(job.k.tiles, job.v.tiles), bytes};
}

void attention_prefill_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (attention_terms_hopper(args, workspace, stream)) return;
    args.q.n[3] == 64 ? launch_terms<64>(args, workspace, stream)
                      : launch_terms<128>(args, workspace, stream);
}

}  // namespace rotkv::cuda
