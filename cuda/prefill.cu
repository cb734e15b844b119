// Attention of many tokens in f16 on tensor cores, over the cache as it is stored:
//   1 rotate the query        q~ = R_k q, in f32, then f16
//   2 score the visible cells s_c = scale * q~ . k~_c
//   3 softmax                 p_c = exp(s_c) / (exp(sink) + sum_c exp(s_c))
//   4 sum the values          o~ = sum_c p_c v~_c
//   5 rotate back             o = R_v^T o~, in f32
//
// ROWS are pairs (token, query head) of one KV head, row t * heads + head, so that a tile of K and
// V, once expanded to f16 in shared memory, serves all query heads of the KV head. A block of
// threads owns 128 rows (64 of large heads), and its two GROUPS of warps share out the tiles of
// cells: each takes every second one, at its own pace, so that one expands codes while the other
// multiplies. A warp owns 16 rows: scores, probabilities and sums stay in its registers
// (FlashAttention-2: Dao 2023), with a running maximum (Milakov, Gimelshein 2018). In the end the
// groups' sums are joined in shared memory, turned back and stored.
//
// Positions come in any order. Before the walk, 512 tiles at a time are surveyed: those that no row
// sees are not visited, and those that each row sees whole need no mask. Tokens of several streams
// in one block are taken stream by stream, rows of the others seeing nothing.
//
// Where rows are few, several blocks share a stream's tiles and publish parts of their rows, which
// a second kernel puts together (attention_combine.cu).
//
// Scores are in bits: with log2(e) in the scale, p = 2^(s - most). The order of all sums is fixed.
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"
#include "cuda/prefill_products.cuh"
#include "cuda/prefill_rows.cuh"

namespace rotkv::cuda {
namespace prefill {
namespace {

// A side of one group in shared memory: its tiles, and behind them the stage.
template <int D>
struct Buffers {
    const Side& side;
    std::byte* memory;
    const std::byte* rows;  // of the stream's first cell

    __device__ std::byte* tile(uint32_t turn) const {
        return memory + turn % 2 * (side.tiles - 1) * Shape<D>::tile_bytes;
    }
    __device__ std::byte* stage() const { return memory + side.tiles * Shape<D>::tile_bytes; }
    __device__ void start(const Member& me, uint32_t turn, const Strip& strip, int64_t first,
                          bool whole) const {
        const uint32_t to = shared_address(side.direct ? tile(turn) : stage());
        fetch(side, to, rows + first * side.of_cell, Shape<D>::cells, me, strip, first, whole);
    }
    __device__ void finish(const Member& me, uint32_t turn, int64_t first) const {
        if (side.is_ready) return;
        expand(side, tile(turn), Shape<D>::cells, stage(), rows + first * side.of_cell,
               Shape<D>::cells, me);
    }
};

// All that a group does with the tiles of a section that its block sees. Half of its warps make
// the tile of K ready, half that of V.
template <int D>
__device__ void walk(const Job& job, const Place& at, const Memory<D>& memory, const Strip& strip,
                     const Share& share, int64_t stream, int64_t section, uint32_t count,
                     Sums<D>& sums) {
    using S = Shape<D>;
    constexpr uint32_t k_half = S::group_threads / 2;
    const uint32_t group = uniform(threadIdx.x / S::group_threads), barrier = 1 + group;
    const bool has_k = uniform(threadIdx.x / k_half) % 2 == 0;
    const Member me{threadIdx.x % k_half, k_half};
    const Buffers<D> k{job.k, memory.k(job, group), job.k.row(stream, at.kv, 0)};
    const Buffers<D> v{job.v, memory.v(job, group), job.v.row(stream, at.kv, 0)};
    const auto first_of = [&](const Mark& mark) {
        return share.tile(section + mark.tile()) * S::cells;
    };
    const auto start = [&](uint32_t i, uint32_t turn) {
        const Mark mark = memory.mark(i);
        const int64_t first = first_of(mark);
        if (has_k) k.start(me, turn, strip, first, mark.whole());
        if (!has_k) v.start(me, turn, strip, first, mark.whole());
    };
    uint32_t turn = 0;
    if (group < count) start(group, turn);
    for (uint32_t i = group; i < count; i += job.groups, turn ^= 1) {
        const Mark mark = memory.mark(i);
        const int64_t first = first_of(mark);
        wait_for_copies();
        if (!job.k.is_ready || !job.v.is_ready) {
            wait_for_group(barrier, S::group_threads);  // the copies of all are there
            if (has_k) k.finish(me, turn, first);
            if (!has_k) v.finish(me, turn, first);
        }
        wait_for_group(barrier, S::group_threads);  // the tile is ready, the last one has been read
        if (i + job.groups < count) start(i + job.groups, turn ^ 1);
        Scores<D> s;
        score<D>(s, shared_address(memory.q), shared_address(k.tile(turn)));
        if (!job.k.is_ready) mark_infinite(s);
        if (job.cap > 0) cap_scores(s, job.cap);
        if (!mark.whole()) {
            const int64_t cell = first + lane_of_warp() % 4 * 2;
            mask_scores(s, memory.limits[row_of_lane<D>()], memory.limits[row_of_lane<D>() + 8],
                        [&](int n) {
                            return int2{strip.at(cell + n * 8), strip.at(cell + n * 8 + 1)};
                        });
        }
        shrink_sums(sums, softmax_tile(s, sums));
        add_values<D>(sums, s, shared_address(v.tile(turn)));
    }
}

// The sums of a lane in shared memory, one float of all lanes behind the other.
template <int D>
__device__ void publish(const Sums<D>& sums, float* to) {
    constexpr uint32_t k_threads_of_group = Shape<D>::group_threads;
    to += threadIdx.x % k_threads_of_group;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        to[2 * j * k_threads_of_group] = sums.most[j];
        to[(2 * j + 1) * k_threads_of_group] = sums.total[j];
    }
#pragma unroll
    for (int i = 0; i < D / 2; ++i) to[(4 + i) * k_threads_of_group] = sums.o[i / 4][i % 4];
}

// Adds what another group has published: two softmaxes become one.
template <int D>
__device__ void add_published(Sums<D>& sums, const float* from) {
    constexpr uint32_t k_threads_of_group = Shape<D>::group_threads;
    from += threadIdx.x % k_threads_of_group;
    float mine[2], theirs[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const float other = from[2 * j * k_threads_of_group], both = fmaxf(sums.most[j], other);
        const float base = both == -INFINITY ? 0.0f : both;
        mine[j] = power_of_two(sums.most[j] - base);
        theirs[j] = power_of_two(other - base);
        sums.most[j] = both;
        sums.total[j] =
            fmaf(sums.total[j], mine[j], from[(2 * j + 1) * k_threads_of_group] * theirs[j]);
    }
#pragma unroll
    for (int i = 0; i < D / 2; ++i) {
        float& o = sums.o[i / 4][i % 4];
        o = fmaf(o, mine[i / 2 % 2], from[(4 + i) * k_threads_of_group] * theirs[i / 2 % 2]);
    }
}

// Sums over their totals, as rows; 0 where nothing was seen. A part keeps its sums, and its softmax
// goes to the others.
template <int D>
__device__ void store_rows(const Job& job, const Place& at, const Sums<D>& sums, float* to) {
    const bool is_part = job.parts.are_used();
    to += row_of_lane<D>() * Shape<D>::out_pitch + lane_of_warp() % 4 * 2;
#pragma unroll
    for (int j = 0; j < 2; ++j, to += 8 * Shape<D>::out_pitch) {
        const uint32_t row = row_of_lane<D>() + 8 * j;
        const float total = sum_of_four_lanes(sums.total[j]);
        const float factor = is_part ? 1.0f : total > 0 ? 1.0f / total : 0.0f;
        if (is_part && lane_of_warp() % 4 == 0 && at.first + row <= at.last) {
            job.parts.softmax[job.part(at, row)] = {sums.most[j], total};
        }
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            const float(&o)[4] = sums.o[n];
            *reinterpret_cast<float2*>(to + n * 8) = {o[2 * j] * factor, o[2 * j + 1] * factor};
        }
    }
}

// The groups' sums, joined by group 0, as rows in shared memory.
template <int D>
__device__ void join(const Job& job, const Place& at, const Memory<D>& memory, Sums<D>& sums) {
    const uint32_t group = threadIdx.x / Shape<D>::group_threads;
    for (uint32_t other = 1; other < job.groups; ++other) {
        __syncthreads();  // tiles, or the sums of the group before, have been read
        if (group == other) publish<D>(sums, memory.sums);
        __syncthreads();
        if (group == 0) add_published<D>(sums, memory.sums);
    }
    __syncthreads();
    if (group == 0) store_rows<D>(job, at, sums, memory.sums);
    __syncthreads();
}

template <int D>
__global__ void __launch_bounds__(Shape<D>::groups* Shape<D>::group_threads, 1)
    prefill_kernel(const __grid_constant__ Job job) {
    extern __shared__ __align__(1024) uint4 shared[];
    const Memory<D> memory(reinterpret_cast<std::byte*>(shared));
    const Place at(job, Shape<D>::rows);
    clear_tiles<D>(job, memory);
    load_queries<D>(job, at, memory);
    Sums<D> sums;
    begin<D>(job, at, row_of_lane<D>(), threadIdx.x < Shape<D>::group_threads, sums);
    for (int32_t stream = next_stream(job, at, -1); stream >= 0;
         stream = next_stream(job, at, stream)) {
        const Strip strip = job.strip(stream);
        const Span span = set_limits<D>(job, at, memory, stream);
        const Share share{at.split, job.parts.splits};
        const int64_t tiles = share.of((strip.used + Shape<D>::cells - 1) / Shape<D>::cells);
        for (int64_t section = 0; section < tiles; section += k_section) {
            const uint32_t count = survey<D>(span, memory, strip, share, section, tiles);
            walk<D>(job, at, memory, strip, share, stream, section, count, sums);
        }
    }
    join<D>(job, at, memory, sums);
    if (job.parts.are_used()) return store_parts<D>(job, at, memory);
    repair_rows<D>(job, at, memory);
    store_outputs<D>(job, at, memory);
}

// With as many groups, and then tiles, as so much shared memory allows.
template <int D>
Job job_within(const AttentionArgs& args, int64_t most_bytes) {
    uint32_t choice = 3;  // bit 1: two groups, bit 0: two tiles
    const auto job = [&] { return job_of(args, 1 + choice / 2, 1 + choice % 2); };
    while (choice > 0 && Memory<D>::bytes(job()) > most_bytes) --choice;
    return job();
}

template <int D>
KernelPlan plan(const AttentionArgs& args, int64_t most_bytes) {
    const Job job = job_within<D>(args, most_bytes);
    return {"prefill.cu", job.groups * Shape<D>::group_threads / k_warp,
            std::min(job.k.tiles, job.v.tiles), Memory<D>::bytes(job)};
}

template <int D>
void launch(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    using S = Shape<D>;
    Job job = job_within<D>(args, workspace.most_shared_bytes);
    const unsigned blocks = blocks_for(job.rows, S::rows) * job.kv_heads;
    job.parts = choose_parts(args, workspace, blocks, S::cells * job.groups);
    const uint32_t bytes = Memory<D>::bytes(job);
    require_success(cudaFuncSetAttribute(prefill_kernel<D>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
                    "attention");
    const dim3 grid(blocks, job.parts.splits);
    prefill_kernel<D><<<grid, job.groups * S::group_threads, bytes, stream>>>(job);
    require_launched("attention");
    if (job.parts.are_used()) combine_parts(args, job.parts, stream);
}

int64_t largest_head(const AttentionArgs& args) { return std::max(args.q.n[3], args.dst.n[3]); }

bool are_copied(const AttentionArgs& args) {
    return Side(args.k_cache, 1).is_ready && Side(args.v_cache, 1).is_ready;
}

bool launch_on_wgmma(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (!workspace.has_wgmma) return false;
    return are_copied(args) ? attention_prefill_copied(args, workspace, stream)
                            : attention_prefill_packed(args, workspace, stream) ||
                                  attention_prefill_expanded(args, workspace, stream);
}

KernelPlan plan_on_wgmma(const AttentionArgs& args, const DeviceLimits& device) {
    if (!device.has_wgmma) return {};
    if (are_copied(args)) return prefill_copied_plan(args, device);
    const KernelPlan packed = prefill_packed_plan(args, device);
    return packed ? packed : prefill_expanded_plan(args, device);
}

std::string refusal_on(const AttentionArgs& args, int64_t most_bytes) {
    const int64_t d = largest_head(args);
    if (d > 256) return "f16: heads of at most 256 channels, found " + std::to_string(d);
    if (!strides_fit(args)) return "f16: cells at most 4 GiB apart";
    if (!args.lse.empty() && !has_room_for_parts(args)) {
        return "f16, lse: at most " + std::to_string(k_part_bytes / part_bytes(args.dst.n[3])) +
               " query heads, found " + std::to_string(args.q.n[2]);
    }
    const Job job = job_of(args, 1, 1);
    const int64_t bytes = d <= 64    ? Memory<64>::bytes(job)
                          : d <= 128 ? Memory<128>::bytes(job)
                                     : Memory<256>::bytes(job);
    if (bytes <= most_bytes) return "";
    return "f16: tiles that fit in " + std::to_string(most_bytes) +
           " bytes of shared memory, found " + std::to_string(bytes);
}

}  // namespace
}  // namespace prefill

using namespace prefill;

std::string prefill_refusal(const AttentionArgs& args) {
    return refusal_on(args, current_device().most_shared_bytes);
}

KernelPlan prefill_plan(const AttentionArgs& args, const DeviceLimits& device) {
    const int64_t d = largest_head(args), most = device.most_shared_bytes;
    if (!refusal_on(args, most).empty()) return {};
    if (const KernelPlan fast = plan_on_wgmma(args, device)) return fast;
    return d <= 64    ? plan<64>(args, most)
           : d <= 128 ? plan<128>(args, most)
                      : plan<256>(args, most);
}

void attention_prefill(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty() || launch_on_wgmma(args, workspace, stream)) return;
    const int64_t d = largest_head(args);
    if (d <= 64) return launch<64>(args, workspace, stream);
    if (d <= 128) return launch<128>(args, workspace, stream);
    launch<256>(args, workspace, stream);
}

}  // namespace rotkv::cuda
