// Attention of few rows over blocks of codes, in f16 precision, on the tensor cores of 9.0, which
// multiply numbers in a warp's registers with what lies in shared memory.
//
// A block of threads takes up to 64 rows of a KV head and some of the cells; its warpgroups share
// out tiles of 64 cells, each at its own pace (decode_warpgroup_tiles.cuh). A tile's codes become
// numbers once, in the registers from which they are multiplied, whether there are 8 rows or 64
// (decode_warpgroup.cuh). What becomes of parts is as in decode.cu.
//
// Cost: K and V of the visible cells once. Agrees with ref::attention within f16's bound.
#include "cuda/decode_scores.cuh"
#include "cuda/decode_warpgroup.cuh"
#include "cuda/decode_warpgroup.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

#ifndef ROTKV_X_G8
#define ROTKV_X_G8 2
#endif
constexpr int k_head = 128;  // channels
#ifdef ROTKV_X_CLOCK
__device__ unsigned long long phase_cycles[16];
#endif

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// A warpgroup's sums.
struct GroupPart {
    float *sums, *most, *totals;  // [rows][D + 4], [rows], [rows][4]
    __device__ GroupPart(const WarpgroupJob& job, std::byte* memory, uint32_t slice)
        : sums(reinterpret_cast<float*>(memory) + slice * job.part_floats()),
          most(sums + job.columns * (k_head + 4)),
          totals(most + job.columns) {}
};

template <int Columns>
__device__ void store_state(const GroupPart& part, const GroupState<Columns>& state,
                            const GroupExchange<Columns>& exchange, const DecodePlace& at) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
    float2 limit[Columns];
#pragma unroll
    for (int c = 0; c < Columns; ++c) limit[c] = exchange.limit(c);
    __syncthreads();  // what lies there has been read
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = state.total[c][i];
            for (unsigned h = 4; h < k_warp; h *= 2) sum += partner(sum, h);
            const uint32_t row = c * 8 + 2 * t + i;
            if (g == 0) {
                part.totals[row * 4 + at.member] = sum;
                part.most[row] = (i == 0 ? limit[c].x : limit[c].y) - state.k_room - k_headroom<1>;
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const uint32_t channel = at.member * 32 + half * 16 + 2 * g;
                *reinterpret_cast<float2*>(part.sums + row * (k_head + 4) + channel) = {
                    state.o[half][c][i], state.o[half][c][i + 2]};
            }
        }
    }
    __syncthreads();
}

// The end of a block: the sums of its warpgroups become its part, for combine_kernel.
__device__ void merge_groups(const WarpgroupJob& job, const DecodePlace& at, std::byte* memory) {
    for (uint32_t i = threadIdx.x; i < at.heads * (k_head / 4); i += blockDim.x) {
        const uint32_t row = i / (k_head / 4), four = i % (k_head / 4);
        float most = -FLT_MAX, all = 0;
        float4 sum = {0, 0, 0, 0};
        for (uint32_t s = 0; s < job.slices; ++s) {
            most = fmaxf(most, GroupPart(job, memory, s).most[row]);
        }
        for (uint32_t s = 0; s < job.slices; ++s) {
            const GroupPart part(job, memory, s);
            const float weight = power_of_two(part.most[row] - most);
            const float4 total = reinterpret_cast<const float4*>(part.totals)[row];
            all = fmaf(weight, total.x + total.y + (total.z + total.w), all);
            cuda::add_scaled(
                sum, weight,
                reinterpret_cast<const float4*>(part.sums + row * (k_head + 4))[four]);
        }
        const RowOf of = at.row(job, at.kv, row);
        const int64_t index = int64_t(of.t * job.all_heads + of.h) * job.parts.splits + at.split;
        job.parts.sums[index * job.parts.fours + four] = sum;
        if (four == 0) job.parts.softmax[index] = {most, all};
    }
}

#ifdef ROTKV_X_CLOCK
struct Clock {
    unsigned last = clock();
    __device__ void lap(int phase) {
        const unsigned now = clock();
        if (lane_of_warp() == 0) atomicAdd(&phase_cycles[phase], (unsigned long long)(now - last));
        last = clock();
    }
};
#else
struct Clock {
    __device__ void lap(int) {}
};
#endif

// A tile.
template <int Columns>
__device__ void take_tile(GroupTiles& tiles, const Operand& q, const Operand& p_operand,
                          uint32_t p, uint32_t q_address, const GroupExchange<Columns>& exchange,
                          GroupState<Columns>& state, Clock& clock) {
    constexpr float unit[2] = {1, 1};
    const uint32_t member = tiles.at.member;
    float s[Columns][4];
    visit_blocks(tiles.job.k.type, [&](const auto& block) {
        using Block = std::decay_t<decltype(block)>;
        score_for_group<Block>(s, q, tiles.k_rows(), q_address);
        
    });
    clock.lap(1);
    finish_scores(tiles, unit, s);
    const bool exceed = state.is_exceeded_by(s, exchange);
    if (exceed) state.ask(s, exchange);
    clock.lap(2);
    const bool rise = exchange.any(exceed);
    clock.lap(3);
    tiles.ask_next();
    if (rise) state.raise(exchange, member);
    state.take(s, exchange);
    store_p(s, p, member);
    clock.lap(4);
    tiles.wait(1);
    clock.lap(5);
    if (tiles.seen() != 0xFFFFu) clear_unseen(tiles);
    publish_stores();
    exchange.wait();
    clock.lap(6);
    visit_blocks(tiles.job.v.type, [&](const auto& block) {
        using Block = std::decay_t<decltype(block)>;
        add_for_group<Block>(state, p_operand, tiles.v_rows(), tiles.job.v_rows.pitch, member, p);
    });
    clock.lap(7);
}

#endif

// Warpgroups of a block for so many columns: as many as have registers.
constexpr uint32_t groups_for(int columns) { return columns <= 4 ? 4 : ROTKV_X_G8; }

template <int Columns>
__global__ void __maxnreg__(registers_beside_combine(int(groups_for(Columns) * k_group_warps)))
    decode_warpgroup_kernel(const __grid_constant__ WarpgroupJob job) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint4 shared[];
    std::byte* const memory = reinterpret_cast<std::byte*>(shared);
#ifdef ROTKV_X_CLOCK
    const unsigned began = ::clock();
#endif
    DecodePlace at(job);
    GroupTiles tiles(job, at, memory);
    const GroupExchange<Columns> exchange(job, at, memory);
    begin<2, 1, 1>(job, at, tiles, memory + job.rest_offset(), SwizzledQueries(job, memory));
    publish_stores();
    __syncthreads();
    tiles.find_rows();
    const uint32_t p = shared_address(memory + job.p_offset() + at.slice * job.p_bytes());
    const Operand q_operand(shared_address(memory), 0), p_operand(p, 0);
    GroupState<Columns> state;
    Clock clock;
#ifdef ROTKV_X_CLOCK
    if (lane_of_warp() == 0) atomicAdd(&phase_cycles[9], (unsigned long long)(::clock() - began)), atomicAdd(&phase_cycles[15], 1ull);
#endif
    for (; tiles.is_more(); tiles.advance()) {
        tiles.look_ahead();
        clock.lap(8);
        tiles.wait(0);
        clock.lap(0);
        if (tiles.is_of_use()) {
            take_tile(tiles, q_operand, p_operand, p, shared_address(memory), exchange, state, clock);
        } else {
            tiles.wait(1);
            exchange.wait();
            tiles.ask_next();
        }
    }
    clock.lap(12);
    store_state(GroupPart(job, memory, at.slice), state, exchange, at);
    clock.lap(10);
    merge_groups(job, DecodePlace(job), memory);
    clock.lap(11);
#else
    __trap();  // never launched: decode_warpgroup_plan asks which code there is
#endif
}

template <int Columns>
void launch(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    WarpgroupJob job(args, groups_for(Columns), Columns * 8);
    job.split(workspace, 1);
    const uint32_t bytes = job.all_bytes();
    const auto kernel = decode_warpgroup_kernel<Columns>;
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "attention");
    launch_dependent(kernel, dim3(job.blocks(), job.parts.splits), dim3(job.warps() * k_warp),
                     bytes, stream, job);
    combine_parts(args, job.parts, stream);
}

struct Kernel {
    int64_t rows;
    uint32_t groups;
    void (*launch)(const AttentionArgs& args, const Workspace& workspace, Stream stream);

    template <int Columns>
    static constexpr Kernel of() {
        return {Columns * 8, groups_for(Columns), rotkv::cuda::launch<Columns>};
    }
};
constexpr Kernel k_kernels[] = {Kernel::of<2>(), Kernel::of<2>(), Kernel::of<4>(),
                                Kernel::of<8>()};

bool is_in_blocks(DType type) { return code_units(type).constant[0] != 0; }

const Kernel* kernel_for(const AttentionArgs& args) {
    if (!is_in_blocks(args.k_cache.type) || !is_in_blocks(args.v_cache.type)) return nullptr;
    const int64_t streams = args.k_cache.n[0], tokens = args.q.n[1];
    if (!has_room_for_parts(args) || (streams > 1 && tokens > streams)) return nullptr;
    if (args.q.n[3] != k_head || args.dst.n[3] != k_head) return nullptr;
    const int64_t rows = DecodeJob::rows_of(args);
    const char* least = getenv("ROTKV_X_LEAST");
    const char* most = getenv("ROTKV_X_MOST");
    const char* force = getenv("ROTKV_X_N");
    if (rows < (least ? atoi(least) : 9) || rows > (most ? atoi(most) : 64)) return nullptr;
    for (const Kernel& kernel : k_kernels) {
        if (force ? kernel.rows == atoi(force) : rows <= kernel.rows) return &kernel;
    }
    return &k_kernels[3];
}

}  // namespace

KernelPlan decode_warpgroup_plan(const AttentionArgs& args, const DeviceLimits& device) {
    const Kernel* const kernel = device.has_wgmma ? kernel_for(args) : nullptr;
    if (kernel == nullptr) return {};
    const WarpgroupJob job(args, kernel->groups, uint32_t(kernel->rows));
    if (!job.has_maps || job.all_bytes() > device.most_shared_bytes) return {};
    return {"decode_warpgroup.cu", job.warps(), k_group_stages, job.all_bytes()};
}

void decode_warpgroup(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    const Kernel* const kernel = kernel_for(args);
    in_turns(args, workspace,
             [&](const AttentionArgs& some) { kernel->launch(some, workspace, stream); });
}

}  // namespace rotkv::cuda
