// Attention of many tokens in f32, within the table's rounding. Steps as in ref/attention.cpp. What
// prefill_terms.cu takes is its, on tensor cores: here is what is left, caches of f32 and bf16 and
// other heads than 64 and 128.
//
// ROWS are pairs (token, query head) of one KV head, as in prefill.cu. A block of 16 x 16 threads
// owns 64 of them and walks over tiles of 64 cells (fewer of large heads where shared memory is
// short: what is said of 64 and 16 j is then of 32 or 16), which it expands to f32 in shared memory
// once for all its rows: first K, then V in the same place. Thread (y, x) owns rows 4 y .. 4 y + 3,
// of the scores cells x + 16 j, and of the sums channels 4 (x + 16 j) .. + 3; all threads of a row
// are half a warp, which takes its softmax. The order of all sums is fixed.
//
// A block's sums are a part of its rows': combine_kernel counts the sink, divides, rotates back,
// and computes rows that are not finite once more. Where there are few rows, several blocks share
// out the tiles of their cells.
#include "cuda/attention_plain.cuh"
#include "cuda/dequant.cuh"
#include "cuda/kernels.h"
#include "cuda/prefill_rows.cuh"
#include "cuda/prefill_terms.h"

namespace rotkv::cuda {
namespace prefill {
namespace {

constexpr uint32_t k_rows = 64, k_side = 16, k_block_threads = k_side * k_side;
constexpr uint32_t k_occupancy = 2;  // blocks of threads that a processor holds

// A tile: C cells of each thread. Fewer than four only where shared memory is short.
template <int C>
constexpr uint32_t k_cells = C* k_side;
template <int C>
constexpr uint32_t k_p_pitch = k_cells<C> + 4;

// Shared memory in floats: q [rows][pitch], the tile [cells][pitch], p [rows][cells]; limits and
// positions. A pitch is an odd number of 16-byte pieces: 16 cells lie in different banks.
struct Layout {
    uint32_t pitch;
    explicit Layout(const AttentionArgs& args)
        : pitch((uint32_t(std::max(args.q.n[3], args.dst.n[3])) + 7) / 8 * 8 + 4) {}
    template <int C>
    uint32_t bytes() const {
        return ((k_rows + k_cells<C>)*pitch + k_rows * (k_p_pitch<C> + 2) + k_cells<C>)*4;
    }
};

template <int C>
struct Memory32 {
    float *q, *tile, *p;
    Limits* limits;
    int32_t* positions;
    __device__ Memory32(float* memory, uint32_t pitch)
        : q(memory),
          tile(q + k_rows * pitch),
          p(tile + k_cells<C> * pitch),
          limits(reinterpret_cast<Limits*>(p + k_rows * k_p_pitch<C>)),
          positions(reinterpret_cast<int32_t*>(limits + k_rows)) {}
};

// J groups of 64 channels.
template <int J>
struct Sums32 {
    float4 o[4][J];
    float most[4], total[4];
};

__device__ uint32_t thread_x() { return threadIdx.x % k_side; }
__device__ uint32_t thread_y() { return threadIdx.x / k_side; }

// 1 rotate the query: a warp takes a row at a time.
__device__ void load_rows(const Job& job, const Place& at, float* rows, uint32_t pitch) {
    for (uint32_t row = threadIdx.x / k_warp; row < k_rows; row += k_block_threads / k_warp) {
        float4 x[1][2];
        load_rotated(job, at, row, x);
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            store4(rows + row * pitch, 4 * lane_of_warp() + 128 * j, pitch, true, x[0][j]);
        }
    }
}

// Expands the rows of one side, with zeros behind a row's end and for empty cells.
template <int C>
__device__ void load_tile(const Side& side, const std::byte* rows, const int32_t* positions,
                          float* tile, uint32_t pitch) {
    const uint32_t fours = pitch / 4;
    for (uint32_t i = threadIdx.x; i < k_cells<C> * fours; i += k_block_threads) {
        const uint32_t cell = i / fours, channel = i % fours * 4;
        const std::byte* row = rows + uint64_t(cell) * side.of_cell;
        float4 x{0, 0, 0, 0};
        if (positions[cell] >= 0) x = dequantize4(side.type, row, channel, side.d);
        *reinterpret_cast<float4*>(tile + cell * pitch + channel) = x;
    }
}

// 2 score: s[i][j] of row 4 y + i and cell x + 16 j; -inf for cells that are not seen.
template <int C>
__device__ void score32(const Job& job, const Memory32<C>& memory, uint32_t pitch,
                        float (&s)[4][C]) {
    const float* q = memory.q + 4 * thread_y() * pitch;
    const float* k = memory.tile + thread_x() * pitch;
    for (uint32_t d = 0; d < job.k.d; d += 4) {
        float4 a[4], b[C];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const float4*>(q + i * pitch + d);
#pragma unroll
        for (uint32_t i = 0; i < C; ++i) {
            b[i] = *reinterpret_cast<const float4*>(k + i * k_side * pitch + d);
        }
#pragma unroll
        for (uint32_t i = 0; i < 4 * C; ++i) {
            float& sum = s[i / C][i % C];
            const float4 &x = a[i / C], &y = b[i % C];
            sum = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, sum))));
        }
    }
    const float cap = job.args.softcap;
#pragma unroll
    for (uint32_t i = 0; i < 4 * C; ++i) {
        float& x = s[i / C][i % C];
        x *= job.args.scale;
        if (cap > 0) x = cap * tanhf(x / cap);
        const int32_t position = memory.positions[thread_x() + i % C * k_side];
        if (!memory.limits[4 * thread_y() + i / C].sees(position)) x = -INFINITY;
    }
}

__device__ float max_of_row(float x) {
    for (unsigned h = 1; h < k_side; h *= 2) x = fmaxf(x, partner(x, h));
    return x;
}
__device__ float sum_of_row(float x) {
    for (unsigned h = 1; h < k_side; h *= 2) x += partner(x, h);
    return x;
}

// 3 softmax of one tile; sums shrink where the maximum has grown.
template <int J, int C>
__device__ void softmax32(const float (&s)[4][C], Sums32<J>& sums, float* p) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        float most = s[i][0];
#pragma unroll
        for (uint32_t j = 1; j < C; ++j) most = fmaxf(most, s[i][j]);
        const float all = fmaxf(max_of_row(most), sums.most[i]);
        const float base = all == -INFINITY ? 0.0f : all;
        const float shrink = expf(sums.most[i] - base);
        float total = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < C; ++j) {
            const float x = expf(s[i][j] - base);
            p[(4 * thread_y() + i) * k_p_pitch<C> + thread_x() + j * k_side] = x;
            total += x;
        }
        sums.most[i] = all;
        sums.total[i] = fmaf(sums.total[i], shrink, total);
#pragma unroll
        for (float4& o : sums.o[i]) {
            o = {o.x * shrink, o.y * shrink, o.z * shrink, o.w * shrink};
        }
    }
}

// 4 sum the values.
template <int J, int C>
__device__ void add_values32(const Memory32<C>& memory, uint32_t pitch, Sums32<J>& sums) {
    const float* p = memory.p + 4 * thread_y() * k_p_pitch<C>;
    for (uint32_t c = 0; c < k_cells<C>; c += 4) {
        float4 of_row[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            of_row[i] = *reinterpret_cast<const float4*>(p + i * k_p_pitch<C> + c);
        }
#pragma unroll
        for (uint32_t n = 0; n < 4; ++n) {
#pragma unroll
            for (uint32_t j = 0; j < J; ++j) {
                const uint32_t channel = 4 * (thread_x() + j * k_side);
                if (channel >= pitch) continue;
                const float4 v =
                    *reinterpret_cast<const float4*>(memory.tile + (c + n) * pitch + channel);
#pragma unroll
                for (uint32_t i = 0; i < 4; ++i) {
                    const float4& x = of_row[i];
                    add_scaled(sums.o[i][j], n == 0 ? x.x : n == 1 ? x.y : n == 2 ? x.z : x.w, v);
                }
            }
        }
    }
}

// What the block's rows see of one stream.
template <int J, int C>
__device__ void walk32(const Job& job, const Place& at, const Memory32<C>& memory, uint32_t pitch,
                       int32_t stream, Sums32<J>& sums) {
    constexpr uint32_t cells = k_cells<C>, sharing = k_block_threads / cells;
    const Strip strip = job.strip(stream);
    __syncthreads();  // limits have been read
    for (uint32_t row = threadIdx.x; row < k_rows; row += k_block_threads) {
        memory.limits[row] = limits_of(job, at.token(job, row), stream);
    }
    const int64_t step = int64_t(job.parts.splits) * cells;
    for (int64_t first = blockIdx.y * cells; first < strip.used; first += step) {
        __syncthreads();  // limits are there; positions, the tile and p have been read
        const uint32_t cell = threadIdx.x % cells;
        const int32_t position = strip.at(first + cell);
        memory.positions[cell] = position;  // the same by several threads
        bool seen = false;
        for (uint32_t row = threadIdx.x / cells; row < k_rows; row += sharing) {
            seen = seen || memory.limits[row].sees(position);
        }
        if (!__syncthreads_or(seen)) continue;
        load_tile<C>(job.k, job.k.row(stream, at.kv, first), memory.positions, memory.tile, pitch);
        __syncthreads();
        float s[4][C] = {};
        score32(job, memory, pitch, s);
        softmax32(s, sums, memory.p);
        __syncthreads();
        load_tile<C>(job.v, job.v.row(stream, at.kv, first), memory.positions, memory.tile, pitch);
        __syncthreads();
        add_values32(memory, pitch, sums);
    }
}

// This block's part of its rows, for combine_kernel.
template <int J>
__device__ void publish32(const Job& job, const Place& at, const Sums32<J>& sums) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = 4 * thread_y() + i;
        const float total = sum_of_row(sums.total[i]);
        if (at.first + row > at.last) continue;
        const int64_t of_all = int64_t(at.token(job, row)) * job.task.all_heads + at.head(job, row);
        const int64_t index = of_all * job.parts.splits + blockIdx.y;
        if (thread_x() == 0) job.parts.softmax[index] = {sums.most[i] * k_log2_e, total};
#pragma unroll
        for (uint32_t j = 0; j < J; ++j) {
            const uint32_t four = thread_x() + j * k_side;
            if (four < job.parts.fours) {
                job.parts.sums[index * job.parts.fours + four] = sums.o[i][j];
            }
        }
    }
}

template <int J, int C>
__global__ void __launch_bounds__(k_block_threads)
    prefill_f32_kernel(const __grid_constant__ Job job, uint32_t pitch) {
    extern __shared__ __align__(16) float shared_floats[];
    const Memory32<C> memory(shared_floats, pitch);
    const Place at(job, k_rows);
    load_rows(job, at, memory.q, pitch);
    Sums32<J> sums = {};
#pragma unroll
    for (float& most : sums.most) most = -INFINITY;
    for (int32_t stream = next_stream(job, at, -1); stream >= 0;
         stream = next_stream(job, at, stream)) {
        walk32(job, at, memory, pitch, stream, sums);
    }
    publish32<J>(job, at, sums);
}

template <int J, int C>
void launch32(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    Job job = job_of(args, 1, 1);
    const Layout layout(args);
    const uint32_t bytes = layout.bytes<C>();
    const auto kernel = prefill_f32_kernel<J, C>;
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "attention");
    const unsigned blocks = blocks_for(job.rows, k_rows) * job.kv_heads;
    const int64_t splits =
        choose_splits(args, workspace, blocks_for(blocks, k_occupancy), k_cells<C>);
    job.parts = parts_in(workspace, args.q.n[1] * args.q.n[2], args.dst.n[3], splits);
    const dim3 grid(blocks, job.parts.splits);
    kernel<<<grid, k_block_threads, bytes, stream>>>(job, layout.pitch);
    require_launched("attention");
    combine_parts(args, job.parts, stream);
}

// A kernel's cells a thread and what it takes, the first that has room. Heads of at most 128
// channels have room for four everywhere.
struct TileSize {
    int cells;
    uint32_t bytes;
};
TileSize tile_within(const AttentionArgs& args, int64_t most_bytes) {
    const Layout layout(args);
    const TileSize tiles[] = {
        {4, layout.bytes<4>()}, {2, layout.bytes<2>()}, {1, layout.bytes<1>()}};
    for (const TileSize& tile : tiles) {
        if (tile.bytes <= most_bytes) return tile;
    }
    return {0, 0};
}

}  // namespace
}  // namespace prefill

using namespace prefill;

KernelPlan prefill_f32_plan(const AttentionArgs& args, const DeviceLimits& device) {
    if (const KernelPlan terms = prefill_terms_plan(args, device)) return terms;
    const bool has_kernel = std::max(args.q.n[3], args.dst.n[3]) <= 256;
    if (!has_kernel || !strides_fit(args) || !has_room_for_parts(args)) return {};
    const TileSize tile = tile_within(args, device.most_shared_bytes);
    if (tile.cells == 0) return {};
    return {"prefill_f32.cu", k_block_threads / k_warp, 1, tile.bytes};
}

void attention_prefill_f32(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (prefill_terms_plan(args, workspace)) {
        return attention_prefill_terms(args, workspace, stream);
    }
    const int cells = tile_within(args, workspace.most_shared_bytes).cells;
    in_turns(args, workspace, [&](const AttentionArgs& some) {
        const int64_t d_v = some.dst.n[3];
        if (cells == 4 && d_v <= 64) return launch32<1, 4>(some, workspace, stream);
        if (cells == 4 && d_v <= 128) return launch32<2, 4>(some, workspace, stream);
        if (cells == 4) return launch32<4, 4>(some, workspace, stream);
        if (cells == 2) return launch32<4, 2>(some, workspace, stream);
        launch32<4, 1>(some, workspace, stream);
    });
}

}  // namespace rotkv::cuda
