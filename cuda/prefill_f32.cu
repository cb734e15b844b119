// Attention of many tokens in f32, within the table's rounding. Steps as in ref/attention.cpp.
//
// ROWS are pairs (token, query head) of one KV head, as in prefill.cu. A block of 16 x 16 threads
// owns 64 of them and walks over tiles of 64 cells, which it expands to f32 in shared memory once
// for all its rows: first K, then V in the same place. Thread (y, x) owns rows 4 y .. 4 y + 3, of
// the scores cells x + 16 j, and of the sums channels 4 (x + 16 j) .. + 3; all threads of a row are
// half a warp, which takes its softmax. The order of all sums is fixed.
//
// A block's sums are a part of its rows': combine_kernel counts the sink, divides, rotates back,
// and computes rows that are not finite once more. Where there are few rows, several blocks share
// out the tiles of their cells.
#include "cuda/attention_plain.cuh"
#include "cuda/dequant.cuh"
#include "cuda/kernels.h"
#include "cuda/prefill_rows.cuh"

namespace rotkv::cuda {
namespace prefill {
namespace {

constexpr uint32_t k_rows = 64, k_cells = 64, k_side = 16, k_block_threads = k_side * k_side;
constexpr uint32_t k_p_pitch = k_cells + 4;
constexpr uint32_t k_occupancy = 2;  // blocks of threads that a processor holds

// Shared memory in floats: q [rows][pitch], the tile [cells][pitch], p [rows][cells]; limits and
// positions. A pitch is an odd number of 16-byte pieces: 16 cells lie in different banks.
struct Layout {
    uint32_t pitch;
    explicit Layout(const AttentionArgs& args)
        : pitch((uint32_t(std::max(args.q.n[3], args.dst.n[3])) + 7) / 8 * 8 + 4) {}
    uint32_t bytes() const {
        return ((k_rows + k_cells) * pitch + k_rows * (k_p_pitch + 2) + k_cells) * 4;
    }
};

struct Memory32 {
    float *q, *tile, *p;
    Limits* limits;
    int32_t* positions;
    __device__ Memory32(float* memory, uint32_t pitch)
        : q(memory),
          tile(q + k_rows * pitch),
          p(tile + k_cells * pitch),
          limits(reinterpret_cast<Limits*>(p + k_rows * k_p_pitch)),
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

__device__ void add_product(float4& sum, float p, const float4& v) {
    sum = {fmaf(p, v.x, sum.x), fmaf(p, v.y, sum.y), fmaf(p, v.z, sum.z), fmaf(p, v.w, sum.w)};
}

// 1 rotate the query: a warp takes a row at a time.
__device__ void load_rows(const Job& job, const Place& at, float* rows, uint32_t pitch) {
    const uint32_t channel = 4 * lane_of_warp(), begin[1] = {channel};
    for (uint32_t row = threadIdx.x / k_warp; row < k_rows; row += k_block_threads / k_warp) {
        const TensorView& q = job.args.q;
        const std::byte* from =
            q.data + at.token(job, row) * q.stride[1] + at.head(job, row) * q.stride[2];
        float4 x[1][2];
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            x[0][j] = load4(reinterpret_cast<const float*>(from), channel + 128 * j, job.k.d,
                            job.q_vectors);
        }
        rotate(x, job.k_cut, begin, false);
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            store4(rows + row * pitch, channel + 128 * j, pitch, true, x[0][j]);
        }
    }
}

// Expands the rows of one side, with zeros behind a row's end and for empty cells.
__device__ void load_tile(const Side& side, const std::byte* rows, const int32_t* positions,
                          float* tile, uint32_t pitch) {
    const uint32_t fours = pitch / 4;
    for (uint32_t i = threadIdx.x; i < k_cells * fours; i += k_block_threads) {
        const uint32_t cell = i / fours, channel = i % fours * 4;
        const std::byte* row = rows + uint64_t(cell) * side.of_cell;
        float4 x{0, 0, 0, 0};
        if (positions[cell] >= 0) x = dequantize4(side.type, row, channel, side.d);
        *reinterpret_cast<float4*>(tile + cell * pitch + channel) = x;
    }
}

// 2 score: s[i][j] of row 4 y + i and cell x + 16 j; -inf for cells that are not seen.
__device__ void score32(const Job& job, const Memory32& memory, uint32_t pitch, float (&s)[4][4]) {
    const float* q = memory.q + 4 * thread_y() * pitch;
    const float* k = memory.tile + thread_x() * pitch;
    for (uint32_t d = 0; d < job.k.d; d += 4) {
        float4 a[4], b[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            a[i] = *reinterpret_cast<const float4*>(q + i * pitch + d);
            b[i] = *reinterpret_cast<const float4*>(k + i * k_side * pitch + d);
        }
#pragma unroll
        for (uint32_t i = 0; i < 16; ++i) {
            float& sum = s[i / 4][i % 4];
            const float4 &x = a[i / 4], &y = b[i % 4];
            sum = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, sum))));
        }
    }
    const float cap = job.args.softcap;
#pragma unroll
    for (uint32_t i = 0; i < 16; ++i) {
        float& x = s[i / 4][i % 4];
        x *= job.args.scale;
        if (cap > 0) x = cap * tanhf(x / cap);
        const int32_t position = memory.positions[thread_x() + i % 4 * k_side];
        if (!memory.limits[4 * thread_y() + i / 4].sees(position)) x = -INFINITY;
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
template <int J>
__device__ void softmax32(const float (&s)[4][4], Sums32<J>& sums, float* p) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        const float most = max_of_row(fmaxf(fmaxf(s[i][0], s[i][1]), fmaxf(s[i][2], s[i][3])));
        const float all = fmaxf(most, sums.most[i]), base = all == -INFINITY ? 0.0f : all;
        const float shrink = expf(sums.most[i] - base);
        float total = 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
            const float x = expf(s[i][j] - base);
            p[(4 * thread_y() + i) * k_p_pitch + thread_x() + j * k_side] = x;
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
template <int J>
__device__ void add_values32(const Memory32& memory, uint32_t pitch, Sums32<J>& sums) {
    const float* p = memory.p + 4 * thread_y() * k_p_pitch;
    for (uint32_t c = 0; c < k_cells; c += 4) {
        float4 of_row[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            of_row[i] = *reinterpret_cast<const float4*>(p + i * k_p_pitch + c);
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
                    add_product(sums.o[i][j], n == 0 ? x.x : n == 1 ? x.y : n == 2 ? x.z : x.w, v);
                }
            }
        }
    }
}

// What the block's rows see of one stream.
template <int J>
__device__ void walk32(const Job& job, const Place& at, const Memory32& memory, uint32_t pitch,
                       int32_t stream, Sums32<J>& sums) {
    const Strip strip = job.strip(stream);
    __syncthreads();  // limits have been read
    for (uint32_t row = threadIdx.x; row < k_rows; row += k_block_threads) {
        memory.limits[row] = limits_of(job, at.token(job, row), stream);
    }
    const int64_t step = int64_t(job.parts.splits) * k_cells;
    for (int64_t first = blockIdx.y * k_cells; first < strip.used; first += step) {
        __syncthreads();  // limits are there; positions, the tile and p have been read
        const uint32_t cell = threadIdx.x % k_cells;
        const int32_t position = strip.at(first + cell);
        memory.positions[cell] = position;  // the same by several threads
        bool seen = false;
        for (uint32_t row = threadIdx.x / k_cells; row < k_rows; row += 4) {
            seen = seen || memory.limits[row].sees(position);
        }
        if (!__syncthreads_or(seen)) continue;
        load_tile(job.k, job.k.row(stream, at.kv, first), memory.positions, memory.tile, pitch);
        __syncthreads();
        float s[4][4] = {};
        score32(job, memory, pitch, s);
        softmax32<J>(s, sums, memory.p);
        __syncthreads();
        load_tile(job.v, job.v.row(stream, at.kv, first), memory.positions, memory.tile, pitch);
        __syncthreads();
        add_values32<J>(memory, pitch, sums);
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

template <int J>
__global__ void __launch_bounds__(k_block_threads)
    prefill_f32_kernel(const __grid_constant__ Job job, uint32_t pitch) {
    extern __shared__ __align__(16) float shared_floats[];
    const Memory32 memory(shared_floats, pitch);
    const Place at(job, k_rows);
    load_rows(job, at, memory.q, pitch);
    Sums32<J> sums = {};
#pragma unroll
    for (float& most : sums.most) most = -INFINITY;
    for (int32_t stream = next_stream(job, at, -1); stream >= 0;
         stream = next_stream(job, at, stream)) {
        walk32<J>(job, at, memory, pitch, stream, sums);
    }
    publish32<J>(job, at, sums);
}

template <int J>
void launch32(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    Job job = job_of(args, 1, 1);
    const Layout layout(args);
    require_success(
        cudaFuncSetAttribute(prefill_f32_kernel<J>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             int(layout.bytes())),
        "attention");
    const unsigned blocks = blocks_for(job.rows, k_rows) * job.kv_heads;
    const int64_t splits = choose_splits(args, workspace, blocks_for(blocks, k_occupancy), k_cells);
    job.parts = parts_in(workspace, args.q.n[1] * args.q.n[2], args.dst.n[3], splits);
    prefill_f32_kernel<J>
        <<<dim3(blocks, job.parts.splits), k_block_threads, layout.bytes(), stream>>>(job,
                                                                                      layout.pitch);
    require_launched("attention");
    combine_parts(args, job.parts, stream);
}

}  // namespace
}  // namespace prefill

using namespace prefill;

bool prefill_f32_takes(const AttentionArgs& args) {
    return std::max(args.q.n[3], args.dst.n[3]) <= 256 && strides_fit(args) &&
           Layout(args).bytes() <= device_shared_bytes();
}

void attention_prefill_f32(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    const int64_t d_v = args.dst.n[3];
    if (d_v <= 64) return launch32<1>(args, workspace, stream);
    if (d_v <= 128) return launch32<2>(args, workspace, stream);
    launch32<4>(args, workspace, stream);
}

}  // namespace rotkv::cuda
