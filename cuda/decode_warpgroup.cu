// Attention of 9 to 32 rows over blocks of codes, in f16 precision, on the tensor cores of 9.0,
// which multiply numbers in registers with what lies in shared memory.
//
// A block of threads takes up to 32 rows of a KV head and some of the cells; its four warpgroups
// share out tiles of 64 cells, each at its own pace (decode_warpgroup_tiles.cuh). A tile's codes
// become numbers once, in the registers from which they are multiplied with all rows
// (decode_warpgroup.cuh): they are not stored again, as prefill's are, and no warp waits for
// another to expand them. What becomes of parts is as in decode.cu.
//
// Cost: K and V of the visible cells once. Agrees with ref::attention within f16's bound.
#include "cuda/decode_scores.cuh"
#include "cuda/decode_warpgroup.cuh"
#include "cuda/decode_warpgroup.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// The sums of a warpgroup in shared memory. 4: lanes of other rows meet in few banks.
struct GroupPart {
    float *sums, *most, *totals;  // [rows][D + 4], [rows], [rows][warps]
    __device__ GroupPart(const WarpgroupJob& job, std::byte* memory, uint32_t group)
        : sums(reinterpret_cast<float*>(memory) + group * job.part_floats()),
          most(sums + job.columns * k_pitch),
          totals(most + job.columns) {}
    __device__ float* row(uint32_t i) const { return sums + i * k_pitch; }

    static constexpr uint32_t k_pitch = k_group_head + 4;
};

template <int Columns>
__device__ void store_state(const GroupPart& part, const GroupState<Columns>& state,
                            const GroupExchange<Columns>& exchange, uint32_t member) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
    float2 limit[Columns];
#pragma unroll
    for (int c = 0; c < Columns; ++c) limit[c] = exchange.limit(c);
    __syncthreads();  // all that lay there has been read
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = state.total[c][i];
            for (unsigned h = 4; h < k_warp; h *= 2) sum += partner(sum, h);
            const uint32_t row = c * k_most_heads + 2 * t + i;
            if (g == 0) {
                part.totals[row * k_group_warps + member] = sum;
                part.most[row] = (i == 0 ? limit[c].x : limit[c].y) - GroupState<Columns>::k_above;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t channel = member * 32 + half * 16 + 2 * g;
                *reinterpret_cast<float2*>(part.row(row) + channel) = {state.o[half][c][i],
                                                                       state.o[half][c][i + 2]};
            }
        }
    }
    __syncthreads();
}

// The end of a block: the sums of its warpgroups become its part, for combine_kernel.
__device__ void merge_groups(const WarpgroupJob& job, const DecodePlace& at, std::byte* memory) {
    constexpr uint32_t k_fours = k_group_head / 4;
    for (uint32_t i = threadIdx.x; i < at.heads * k_fours; i += blockDim.x) {
        const uint32_t row = i / k_fours, four = i % k_fours;
        float most = -FLT_MAX, all = 0;
        float4 sum = {0, 0, 0, 0};
#pragma unroll
        for (uint32_t group = 0; group < k_groups; ++group) {
            most = fmaxf(most, GroupPart(job, memory, group).most[row]);
        }
#pragma unroll
        for (uint32_t group = 0; group < k_groups; ++group) {
            const GroupPart part(job, memory, group);
            const float weight = power_of_two(part.most[row] - most);
            const float4 total = reinterpret_cast<const float4*>(part.totals)[row];
            all = fmaf(weight, total.x + total.y + (total.z + total.w), all);
            cuda::add_scaled(sum, weight, reinterpret_cast<const float4*>(part.row(row))[four]);
        }
        const RowOf of = at.row(job, at.kv, row);
        const int64_t index = int64_t(of.t * job.all_heads + of.h) * job.parts.splits + at.split;
        job.parts.sums[index * job.parts.fours + four] = sum;
        if (four == 0) job.parts.softmax[index] = {most, all};
    }
}

// A tile that is there, with the queries at q, by way of p.
template <int Columns>
__device__ void take_tile(GroupTiles& tiles, uint32_t q, uint32_t p,
                          const GroupExchange<Columns>& exchange, GroupState<Columns>& state) {
    const uint32_t member = tiles.at.member;
    float s[Columns][4];
    visit_blocks(tiles.job.k.type, [&](const auto& block) {
        using Block = std::decay_t<decltype(block)>;
        score_for_group<Block>(s, SharedRows(q), tiles.k_rows());
    });
    finish_scores(tiles, s);
    const bool exceed = state.is_exceeded_by(s, exchange);
    if (exceed) state.ask(s, exchange);
    const bool rise = exchange.any(exceed);
    tiles.ask_next();
    if (rise) state.raise(exchange);
    state.take(s, exchange);
    store_p(s, p, member);
    tiles.wait(1);
    if (tiles.seen() != 0xFFFFu) clear_unseen(tiles);
    publish_stores();
    exchange.wait();
    visit_blocks(tiles.job.v.type, [&](const auto& block) {
        using Block = std::decay_t<decltype(block)>;
        add_for_group<Block>(state, SharedRows(p), tiles.v_rows(), tiles.job.v_rows.pitch, member);
    });
}

#endif

// All that a processor has: blocks of combine_kernel would find room beside 112 of them, but sums
// would be spilled.
constexpr int k_group_registers = 65536 / (k_groups * k_group_threads);

template <int Columns>
__global__ void __maxnreg__(k_group_registers)
    decode_warpgroup_kernel(const __grid_constant__ WarpgroupJob job) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint4 shared[];
    std::byte* const memory = reinterpret_cast<std::byte*>(shared);
    DecodePlace at(job);
    GroupTiles tiles(job, at, memory);
    const GroupExchange<Columns> exchange(job, at, memory);
    begin<2, 1, 1>(job, at, tiles, memory + job.rest_offset(), SwizzledQueries(job, memory));
    publish_stores();
    __syncthreads();
    tiles.find_rows();
    const uint32_t q = shared_address(memory);
    const uint32_t p = shared_address(memory + job.p_offset() + at.slice * job.p_bytes());
    GroupState<Columns> state;
    for (; tiles.is_more(); tiles.advance()) {
        tiles.look_ahead();
        tiles.wait(0);
        if (tiles.is_of_use()) {
            take_tile(tiles, q, p, exchange, state);
        } else {
            tiles.wait(1);
            exchange.wait();
            tiles.ask_next();
        }
    }
    store_state(GroupPart(job, memory, at.slice), state, exchange, at.member);
    merge_groups(job, DecodePlace(job), memory);
#else
    __trap();  // never launched: decode_warpgroup_plan asks which code there is
#endif
}

template <int Columns>
void launch(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    WarpgroupJob job(args, Columns);
    job.split(workspace, 1);
    const auto kernel = decode_warpgroup_kernel<Columns>;
    const uint32_t bytes = job.all_bytes();
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "attention");
    launch_dependent(kernel, dim3(job.blocks(), job.parts.splits), dim3(job.warps() * k_warp),
                     bytes, stream, job);
    combine_parts(args, job.parts, stream);
}

struct Kernel {
    uint32_t columns;  // times 8 rows
    void (*launch)(const AttentionArgs& args, const Workspace& workspace, Stream stream);
};
constexpr Kernel k_kernels[] = {{2, launch<2>}, {4, launch<4>}};

bool is_in_blocks(DType type) { return code_units(type).constant[0] != 0; }

// Null where a read has no more rows than decode.cu's, or more than there are columns for; and
// where tokens might share a stream among several.
const Kernel* kernel_for(const AttentionArgs& args) {
    if (!is_in_blocks(args.k_cache.type) || !is_in_blocks(args.v_cache.type)) return nullptr;
    const int64_t streams = args.k_cache.n[0], tokens = args.q.n[1];
    if (!has_room_for_parts(args) || (streams > 1 && tokens > streams)) return nullptr;
    if (args.q.n[3] != k_group_head || args.dst.n[3] != k_group_head) return nullptr;
    const int64_t rows = DecodeJob::rows_of(args);
    if (rows <= k_most_heads) return nullptr;
    for (const Kernel& kernel : k_kernels) {
        if (rows <= kernel.columns * k_most_heads) return &kernel;
    }
    return nullptr;
}

}  // namespace

KernelPlan decode_warpgroup_plan(const AttentionArgs& args, const DeviceLimits& device) {
    const Kernel* const kernel = device.has_wgmma ? kernel_for(args) : nullptr;
    if (kernel == nullptr) return {};
    const WarpgroupJob job(args, kernel->columns);
    if (!job.has_maps || job.all_bytes() > device.most_shared_bytes) return {};
    return {"decode_warpgroup.cu", job.warps(), k_group_stages, job.all_bytes()};
}

void decode_warpgroup(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    const Kernel* const kernel = kernel_for(args);
    in_turns(args, workspace,
             [&](const AttentionArgs& some) { kernel->launch(some, workspace, stream); });
}

}  // namespace rotkv::cuda
