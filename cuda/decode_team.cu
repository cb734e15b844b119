// Attention of 9 to 16 rows (a group's heads, of several tokens if they share a stream) over blocks
// of codes, in f16 precision, on tensor cores: decode.cu for more rows than one product has
// columns.
//
// There a warp expands a cell's codes for 8 rows. For 16 it would do so twice, or hold twice as
// many sums as it has registers for. So two warps, a team, attend for a KV head together
// (decode_team.cuh): 16 cells' scores each, then half of the channels of all their cells' values.
// How cells and queries come, and what becomes of parts, is as there.
//
// Cost: K and V of the visible cells once. Agrees with ref::attention within f16's bound.
#include "cuda/decode_scores.cuh"
#include "cuda/decode_team.cuh"
#include "cuda/decode_team.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

constexpr int k_team = 2;              // warps, and times 8 rows
constexpr uint32_t k_team_warps = 16;  // of all teams of a processor

// Scores of a warp's cells.
template <int D_k, int Team>
__device__ void score(const Tiles<Team>& tiles, const TeamQueries<D_k>& q,
                      const CodeConstants& constants, float (&s)[Team][4]) {
    constexpr float unit[2] = {1, 1};
    visit_blocks(tiles.job.k.type, [&](const auto& block) {
        using Block = std::decay_t<decltype(block)>;
        score_for_team<Block, D_k, Team>(s, q, constants, tiles.k_rows());
    });
    finish_scores(tiles, unit, s);
}

template <int Team>
__device__ void see_nothing(float (&s)[Team][4]) {
#pragma unroll
    for (int c = 0; c < Team; ++c) s[c][0] = s[c][1] = s[c][2] = s[c][3] = -INFINITY;
}

// They become p, for the team.
template <int D_v, int Team>
__device__ void weigh(float (&s)[Team][4], const Exchange<Team>& exchange, uint32_t member,
                      TeamState<D_v, Team>& state) {
    const bool exceed = state.is_exceeded_by(s);
    if (exceed) state.tell_limits(s, exchange, member);
    if (exchange.any(exceed)) state.raise(exchange);
    state.take(s);
#pragma unroll
    for (int c = 0; c < Team; ++c) {
        Weights<1> p;
        p.set(s[c]);
        exchange.weights(member, c) = {p.x[0], p.x[1]};
    }
    exchange.wait();
}

// All members' cells, the warp's channels.
template <int D_v, int Team>
__device__ void add(const Tiles<Team>& tiles, const Exchange<Team>& exchange, uint32_t member,
                    TeamState<D_v, Team>& state) {
    visit_blocks(tiles.job.v.type, [&](const auto& block) {
        using Block = std::decay_t<decltype(block)>;
        FourRows rows = tiles.v_rows();
        const uint32_t apart = k_cells * tiles.job.v_rows.pitch;
#pragma unroll
        for (int m = 0; m < Team; ++m) {
            uint2 p[Team];
#pragma unroll
            for (int c = 0; c < Team; ++c) p[c] = exchange.weights(m, c);
            add_for_team<Block, D_v, Team>(state, p, rows, member * (D_v / 32 / Team));
            rows = {rows.x + apart, rows.y + apart, rows.z + apart, rows.w + apart};
        }
    });
}

// A team's state in shared memory. It fits into a ring, as WarpPart does. 4: lanes of other rows
// meet in no bank.
template <int D_v, int Team>
struct alignas(16) TeamPart {
    static constexpr uint32_t k_rows = k_most_heads * Team;
    float sums[k_rows][D_v + 4];
    float most[k_rows];
    float totals[k_rows][Team];
};

template <int D_v, int Team>
__device__ void store_state(TeamPart<D_v, Team>& part, const TeamState<D_v, Team>& state,
                            const DecodePlace& at) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int c = 0; c < Team; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum = state.total[c][i];
            for (unsigned h = 4; h < k_warp; h *= 2) sum += partner(sum, h);
            const uint32_t row = c * k_most_heads + 2 * t + i;
            if (row >= at.heads) continue;
            if (g == 0) part.totals[row][at.member] = sum;
            if (g == 0) part.most[row] = state.limit[c][i] - state.k_room - k_headroom<1>;
#pragma unroll
            for (int step = 0; step < state.k_steps; ++step) {
                const uint32_t channel = (at.member * state.k_steps + step) * 16 + 2 * g;
                *reinterpret_cast<float2*>(&part.sums[row][channel]) = {state.o[step][c][i],
                                                                        state.o[step][c][i + 2]};
            }
        }
    }
}

// The end of a block: the states of a KV head's teams become the block's part of it, for
// combine_kernel. The threads of the KV head take four channels of a row each.
template <int D_v, int Team>
__device__ void merge_teams(const DecodeJob& job, const DecodePlace& at, std::byte* rings,
                            const TeamState<D_v, Team>& state) {
    const auto part = [&](uint32_t slice) -> TeamPart<D_v, Team>& {
        std::byte* const ring = rings + slice * job.ring_bytes();
        return reinterpret_cast<TeamPart<D_v, Team>*>(ring)[at.head_of_band];
    };
    store_state(part(at.slice), state, at);
    __syncthreads();
    const uint32_t warp = at.slice * Team + at.member;
    for (uint32_t i = warp * k_warp + lane_of_warp(); i < at.heads * (D_v / 4);
         i += job.slices * Team * k_warp) {
        const uint32_t g = i / (D_v / 4), four = i % (D_v / 4);
        float most = -FLT_MAX, all = 0;
        float4 sum = {0, 0, 0, 0};
        for (uint32_t s = 0; s < job.slices; ++s) most = fmaxf(most, part(s).most[g]);
        for (uint32_t s = 0; s < job.slices; ++s) {
            const float weight = power_of_two(part(s).most[g] - most);
#pragma unroll
            for (int m = 0; m < Team; ++m) all = fmaf(weight, part(s).totals[g][m], all);
            cuda::add_scaled(sum, weight, reinterpret_cast<const float4*>(part(s).sums[g])[four]);
        }
        const RowOf of = at.row(job, at.kv, g);
        const int64_t index = int64_t(of.t * job.all_heads + of.h) * job.parts.splits + at.split;
        job.parts.sums[index * job.parts.fours + four] = sum;
        if (four == 0) job.parts.softmax[index] = {most, all};
    }
}

template <int D_k, int D_v, int Team>
__global__ void __maxnreg__(registers_beside_combine(k_team_warps))
    decode_team_kernel(const __grid_constant__ DecodeJob job) {
    extern __shared__ float4 shared[];
    std::byte* const memory = reinterpret_cast<std::byte*>(shared);
    DecodePlace at(job);
    Tiles<Team> tiles(job, at, memory);
    begin<2 * Team, 1, 1>(job, at, tiles, memory);  // pieces of at most 128 channels
    tiles.find_rows();
    const TeamQueries<D_k> q(job, at, memory);
    const CodeConstants constants(job, at.head_of_band, memory);
    const Exchange<Team> exchange(job, at, memory);
    exchange.clear_limits(at.member);
    TeamState<D_v, Team> state;
    for (; tiles.is_more(); tiles.advance()) {
        tiles.wait();
        if (!tiles.is_of_use() || at.is_idle) continue;
        float s[Team][4] = {};
        if (tiles.seen() != 0) score(tiles, q, constants, s);
        if (tiles.seen() != 0xFFFFu) clear_unseen(tiles);
        if (tiles.seen() == 0) see_nothing(s);
        weigh(s, exchange, at.member, state);
        add(tiles, exchange, at.member, state);
    }
    tiles.end();
    merge_teams(job, DecodePlace(job), memory + job.ring_offset(), state);
}

template <int D>
void launch(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    DecodeJob job(args, k_team_warps, 1, k_team);
    job.split(workspace, 1);
    decode::launch(decode_team_kernel<D, D, k_team>, job, args, stream);
}

// A warp takes whole blocks of a value: heads of 64 have two.
struct Kernel {
    int64_t d;
    void (*launch)(const AttentionArgs& args, const Workspace& workspace, Stream stream);
};
constexpr Kernel k_kernels[] = {
    {64, launch<64>},
    {128, launch<128>},
};

bool is_in_blocks(DType type) { return code_units(type).constant[0] != 0; }

// Null where a read has no more rows than decode.cu's, or more than twice as many; and where tokens
// might share a stream among several.
const Kernel* kernel_for(const AttentionArgs& args) {
    if (!is_in_blocks(args.k_cache.type) || !is_in_blocks(args.v_cache.type)) return nullptr;
    const int64_t streams = args.k_cache.n[0], tokens = args.q.n[1];
    if (!has_room_for_parts(args) || (streams > 1 && tokens > streams)) return nullptr;
    const int64_t rows = DecodeJob::rows_of(args);
    if (rows <= k_most_heads || rows > k_team * k_most_heads) return nullptr;
    for (const Kernel& kernel : k_kernels) {
        if (args.q.n[3] == kernel.d && args.dst.n[3] == kernel.d) return &kernel;
    }
    return nullptr;
}

}  // namespace

KernelPlan decode_team_plan(const AttentionArgs& args, const DeviceLimits& device) {
    if (kernel_for(args) == nullptr) return {};
    const DecodeJob job(args, k_team_warps, 1, k_team);
    if (job.bytes() > device.most_shared_bytes) return {};
    return {"decode_team.cu", job.warps(), job.stages(), job.bytes()};
}

void decode_team(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    const Kernel* const kernel = kernel_for(args);
    in_turns(args, workspace,
             [&](const AttentionArgs& some) { kernel->launch(some, workspace, stream); });
}

}  // namespace rotkv::cuda
