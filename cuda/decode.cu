// Attention of few tokens on tensor cores, at the speed of memory: version 3 of the ladder.
//
// A block of threads owns a token, up to 8 query heads of one KV head, and every splits-th share of
// the cells, as in attention.cu. Its warps work alone: each walks over its own tiles of 16 cells
// with its own running maximum, and keeps two tiles on their way into a ring in shared memory while
// it works on a third. For a tile, fragments.cuh says which lane holds what:
//
//   scores   C[cell][head] = K q~              a block of 32 channels is two products
//   softmax  in C's registers: a lane has two cells of two heads. A largest score moves rarely, so
//            that the lanes are asked first whether any has found a larger one
//   values   C[channel][head] += V^T p         p in f16, transposed by one instruction
//
// In the end the warps' states are put together, as parts in attention.cuh, and so are the splits'.
// The group's heads are the 8 columns of a product: a cell is read and its codes are expanded once,
// whether there are 1 or 8. q~ and p are rounded to f16, codes are exact, sums are in f32.
// Cost: K and V of the visible cells once; cells that are not seen are not read. Agrees with
// ref::attention within the table's bound for precision f16.
#include "cuda/decode_cells.cuh"
#include "cuda/decode_tiles.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

constexpr float k_headroom = 6;  // p = 2^(s - top + 6): small ones stay normal in f16, times d too

struct Memory {
    float *rows, *most, *total;
    std::byte* rings;

    __device__ Memory(float* memory, const DecodeJob& job)
        : rows(memory),
          most(rows + k_most_heads * job.width),
          total(most + k_most_heads),
          rings(reinterpret_cast<std::byte*>(total + k_most_heads)) {}
};

// ---- A warp's state ----

__device__ float power_of_two(float x) {  // 0 instead of what is no normal number
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <int D_v>
struct State {
    float o[D_v / 16][4] = {};                           // C of 16 channels each
    float top[2] = {-FLT_MAX, -FLT_MAX}, total[2] = {};  // of heads 2t and 2t + 1

    __device__ void raise(float a, float b) {
#pragma unroll
        for (unsigned h = 4; h < k_warp; h *= 2) {  // lanes of the same heads
            a = fmaxf(a, partner(a, h));
            b = fmaxf(b, partner(b, h));
        }
        const float most[2] = {fmaxf(a, top[0]), fmaxf(b, top[1])};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float shrink = power_of_two(top[i] - most[i]);
            top[i] = most[i];
            total[i] *= shrink;
#pragma unroll
            for (int step = 0; step < D_v / 16; ++step) {
                o[step][i] *= shrink;
                o[step][i + 2] *= shrink;
            }
        }
    }

    // 3 softmax: scores, as powers of two, become p.
    __device__ void take(float (&s)[4]) {
        const float a = fmaxf(s[0], s[2]), b = fmaxf(s[1], s[3]);
        if (__any_sync(k_all_lanes, a > top[0] || b > top[1])) raise(a, b);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            s[i] = power_of_two(s[i] - (top[i % 2] - k_headroom));
            total[i % 2] += s[i];
        }
    }
};

// q~ as B: the lane's four channels of every 16, of head g; heads that are none are 0.
template <int Steps>
__device__ void load_fragments(uint32_t (&q)[Steps][2], const float* rows, uint32_t heads) {
    const uint32_t g = lane_of_warp() / 4, i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        float4 x = {0, 0, 0, 0};
        if (g < heads) {
            x = *reinterpret_cast<const float4*>(rows + (g * Steps + step) * 16 + i);
        }
        q[step][0] = rounded(x.x, x.z);
        q[step][1] = rounded(x.y, x.w);
    }
}

// A score in units of log 2, so that p is a power of two.
__device__ float capped(const DecodeJob& job, float s) {
    const float cap = job.softcap;
    return cap > 0 ? cap * k_log2_e * tanhf(s * job.to_power) : s * job.to_power;
}

// One tile.
template <int D_k, int D_v>
__device__ void attend(const Tiles& tiles, const uint32_t (&q)[D_k / 16][2], State<D_v>& state) {
    const DecodeJob& job = tiles.job;
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
    float s[4] = {};
    score_cells(job.k.type, s, q, tiles.k_row(g), tiles.k_row(g + 8));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        s[i] = tiles.is_seen(g + i / 2 * 8) ? capped(job, s[i]) : -INFINITY;
    }
    state.take(s);
    const uint32_t p[2] = {transposed(rounded(s[0], s[1])), transposed(rounded(s[2], s[3]))};
    const FourRows rows = {{tiles.v_row(2 * t), tiles.v_row(2 * t + 1), tiles.v_row(2 * t + 8),
                            tiles.v_row(2 * t + 9)}};
    add_cells(job.v.type, state.o, p, rows);
}

// ---- The warps' states become the block's part ----

template <int D_v>
struct WarpPart {
    float sums[k_most_heads][D_v + 4];  // 4: lanes of other heads meet in no bank
    float most[k_most_heads], total[k_most_heads];
};

template <int D_v>
__device__ void store_state(WarpPart<D_v>& part, State<D_v>& state) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        for (unsigned h = 4; h < k_warp; h *= 2) state.total[i] += partner(state.total[i], h);
        if (g == 0) part.most[2 * t + i] = state.top[i] - k_headroom;
        if (g == 0) part.total[2 * t + i] = state.total[i];
#pragma unroll
        for (int step = 0; step < D_v / 16; ++step) {
            *reinterpret_cast<float2*>(&part.sums[2 * t + i][16 * step + 2 * g]) = {
                state.o[step][i], state.o[step][i + 2]};
        }
    }
}

// A warp for each head, as in attention.cuh.
template <int D_v>
__device__ Part merge_warps(const DecodeJob& job, const Place& at, const Memory& memory,
                            State<D_v>& state) {
    const auto part = [&](uint32_t warp) -> WarpPart<D_v>& {
        std::byte* const ring = memory.rings + warp * k_stages * job.stage_bytes;
        return *reinterpret_cast<WarpPart<D_v>*>(ring);
    };
    const uint32_t lane = lane_of_warp();
    wait_for_groups<0>();
    __syncwarp();  // the ring is used no more
    store_state(part(threadIdx.x / k_warp), state);
    __syncthreads();
    for (uint32_t g = first_head(); g < at.heads; g += head_step()) {
        const bool is_warp = lane < job.warps;  // a lane looks after a warp's softmax
        const float top = is_warp ? part(lane).most[g] : -FLT_MAX, most = warp_max(top);
        const float weight = power_of_two(top - most);
        const float total = warp_sum(is_warp ? part(lane).total[g] * weight : 0.0f);
        if (lane == 0) memory.most[g] = most / k_log2_e;  // from here on in powers of e
        if (lane == 0) memory.total[g] = total;
        float4 sum[(D_v + 127) / 128] = {};
        for (uint32_t w = 0; w < job.warps; ++w) {
            const float x = __shfl_sync(k_all_lanes, weight, int(w));
#pragma unroll
            for (int j = 0; j < (D_v + 127) / 128; ++j) {
                const uint32_t i = 4 * lane + 128 * j;
                if (i < D_v) add_scaled(sum[j], x, load4(part(w).sums[g], i, D_v, true));
            }
        }
#pragma unroll
        for (int j = 0; j < (D_v + 127) / 128; ++j) {
            store4(memory.rows + g * D_v, 4 * lane + 128 * j, D_v, true, sum[j]);
        }
    }
    __syncthreads();  // weights take the place of the warps' parts
    return {memory.rows, memory.most, memory.total, reinterpret_cast<float*>(memory.rings)};
}

// Registers for 16 warps on a processor up to heads of 128, for 8 beyond.
constexpr uint32_t blocks_by_registers(int d) { return d <= 128 ? 2 : 1; }

template <int D_k, int D_v>
__global__ void __launch_bounds__(k_most_warps* k_warp, blocks_by_registers(D_k))
    decode_kernel(const __grid_constant__ DecodeJob job) {
    extern __shared__ float4 shared[];
    const Memory memory(reinterpret_cast<float*>(shared), job);
    const Place at = place_of(job);
    // Everything is asked for at once: positions, then queries, then the first tiles.
    Tiles tiles(job, at, memory.rings);
    ask_for_queries(job, at, memory.rows);
#pragma unroll 1
    for (int i = 0; i < k_stages - 1; ++i) tiles.copy();
    wait_for_groups<k_stages - 1>();
    rotate_queries<2>(job, at, memory.rows);
    uint32_t q[D_k / 16][2];
    load_fragments(q, memory.rows, at.heads);
    State<D_v> state;
    while (tiles.first + tiles.step < at.used) {
        tiles.advance();
        if (tiles.seen[0] != 0) attend<D_k, D_v>(tiles, q, state);
    }
    end<2>(job, at, merge_warps(job, at, memory, state));
}

template <int D_k, int D_v>
void launch(DecodeJob& job, const Workspace& workspace, Stream stream) {
    const uint32_t by_registers = blocks_by_registers(D_k) * k_most_warps / job.warps;
    const uint32_t by_memory = uint32_t(workspace.shared_bytes) / (job.bytes() + 1024);
    const uint32_t blocks = std::min(by_registers, by_memory) * uint32_t(workspace.processors);
    const uint32_t share = k_cells * job.warps;
    job.parts = parts_for(job, workspace, blocks, (job.cells + share - 1) / share);
    const auto kernel = decode_kernel<D_k, D_v>;
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(job.bytes())),
        "attention");
    kernel<<<job.grid(), job.warps * k_warp, job.bytes(), stream>>>(job);
    require_launched("attention");
}

struct Kernel {
    int64_t d_k, d_v;
    void (*launch)(DecodeJob& job, const Workspace& workspace, Stream stream);
};
constexpr Kernel k_kernels[] = {
    {64, 64, launch<64, 64>},     {80, 80, launch<80, 80>},     {96, 96, launch<96, 96>},
    {112, 112, launch<112, 112>}, {128, 128, launch<128, 128>}, {192, 192, launch<192, 192>},
    {192, 128, launch<192, 128>}, {256, 256, launch<256, 256>},
};

const Kernel* kernel_for(const AttentionArgs& args) {
    for (const Kernel& kernel : k_kernels) {
        if (kernel.d_k == args.q.n[3] && kernel.d_v == args.dst.n[3]) return &kernel;
    }
    return nullptr;
}

}  // namespace

bool has_tensor_kernel(const AttentionArgs& args) { return kernel_for(args) != nullptr; }

int64_t tensor_memory(const AttentionArgs& args) { return DecodeJob(args, 0).bytes(); }

void decode_3_tensor(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    DecodeJob job(args, workspace.most_shared_bytes);
    kernel_for(args)->launch(job, workspace, stream);
}

}  // namespace rotkv::cuda
