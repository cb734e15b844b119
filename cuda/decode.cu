// Attention of few tokens on tensor cores, at the speed of memory: version 3 of the ladder.
//
// A block of threads takes a token, a band of KV heads and some tiles of the cells; the warps of a
// slice copy a tile together (decode_tiles.cuh). Then each attends alone, for up to 8 query heads
// of one KV head, with its own running maximum. fragments.cuh says which lane holds what:
//
//   scores   C[cell][head] = K q~              a block of 32 channels is two products
//   softmax  in C's registers: a lane has two cells of two heads. A largest score moves rarely, so
//            that the lanes are asked first whether any has found a larger one
//   values   C[channel][head] += V^T p         p in f16, transposed by one instruction
//
// The slices' states become one, the block's part. A second kernel, which begins to start while the
// first still runs, puts the parts together and rotates back (decode_combine.cuh). The group's
// heads are the 8 columns of a product: a cell is read and its codes are expanded once, whether
// there are 1 or 8. q~ and p are rounded to f16, codes are exact, sums are in f32.
//
// Cost: K and V of the visible cells once. A tile of which nothing is seen is not read, unless it
// is one of a slice's first two. Agrees with ref::attention within the bound for precision f16.
#include "cuda/decode_cells.cuh"
#include "cuda/decode_combine.cuh"
#include "cuda/decode_tiles.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

constexpr int64_t k_most_parts = 4096;  // whose weights lie in shared memory at the end
constexpr float k_headroom = 6;  // p = 2^(s - top + 6): small ones stay normal in f16, times d too

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

    // Another warp's state of the same heads, lane by lane.
    __device__ void add(const float4* theirs) {
        const float4 x = theirs[D_v / 16 * k_warp];
        const float their_top[2] = {x.x, x.y}, their_total[2] = {x.z, x.w};
        float mine[2], their[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float most = fmaxf(top[i], their_top[i]);
            mine[i] = power_of_two(top[i] - most);
            their[i] = power_of_two(their_top[i] - most);
            top[i] = most;
            total[i] = total[i] * mine[i] + their_total[i] * their[i];
        }
#pragma unroll
        for (int step = 0; step < D_v / 16; ++step) {
            const float4 y = theirs[step * k_warp];
            const float their_o[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                o[step][i] = fmaf(o[step][i], mine[i % 2], their_o[i] * their[i % 2]);
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

// The slices share the queries of a KV head: head g is rotated by slice g % slices.
struct Queries {
    const DecodeJob& job;
    const DecodePlace& at;
    std::byte* rings;

    // Of the heads that slice s rotates, [..][D], in its last stage.
    __device__ float* rows(uint32_t s) const {
        return reinterpret_cast<float*>(rings + s * job.ring_bytes() +
                                        (k_stages - 1) * job.stage_bytes +
                                        at.head_of_band * job.query_bytes());
    }
    __device__ uint32_t count() const {  // of this slice
        return (at.heads + job.slices - 1 - at.slice) / job.slices;
    }
    __device__ const float* row(uint32_t g) const {
        const uint32_t turn = g / job.slices;
        return rows(g - turn * job.slices) + turn * job.d_k;
    }
};

// On their way.
__device__ void ask_for(const Queries& queries) {
    const DecodeJob& job = queries.job;
    const DecodePlace& at = queries.at;
    for (uint32_t n = 0; n < queries.count(); ++n) {
        const uint32_t head = at.first_head + at.slice + n * job.slices;
        const float* q =
            reinterpret_cast<const float*>(job.q + at.t * job.q_token + head * job.q_head);
        float* const row = queries.rows(at.slice) + n * job.d_k;
        for (uint32_t i = lane_of_warp(); i < job.d_k; i += k_warp) copy_float(row + i, q + i);
    }
    close_group();
}

// 1 rotate the query: U pieces at a time, of all heads.
template <int U, int R>
__device__ void rotate_heads(const Pieces& cut, uint32_t heads, float* rows) {
    const uint32_t lane = lane_of_warp() % cut.lanes, groups = k_warp / cut.lanes;
    const uint32_t pieces = heads * cut.per_row.d;
    for (uint32_t first = 0; first < pieces; first += U * groups) {
        float4 v[U][R];
        uint32_t begin[U];
        float* row[U];
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const uint32_t mine = first + u * groups + lane_of_warp() / cut.lanes;
            const uint32_t head = cut.per_row.of(mine);
            row[u] = mine < pieces ? rows + head * cut.d : nullptr;
            begin[u] = cut.begin_of(mine, head) + 4 * lane;
#pragma unroll
            for (int j = 0; j < R; ++j) {
                v[u][j] = load4(row[u], begin[u] + 4 * cut.lanes * j, row[u] ? cut.d : 0, true);
            }
        }
        rotate(v, cut, begin, false);
#pragma unroll
        for (int i = 0; i < U * R; ++i) {
            const uint32_t channel = begin[i / R] + 4 * cut.lanes * (i % R);
            store4(row[i / R], channel, row[i / R] ? cut.d : 0, true, v[i / R][i % R]);
        }
    }
}

// q~ as B: the lane's four channels of every 16, of head g; heads that are none are 0.
template <int Steps>
__device__ void load_fragments(uint32_t (&q)[Steps][2], const Queries& queries) {
    const Pieces& cut = queries.job.k_cut;
    float* const rows = queries.rows(queries.at.slice);
    if (cut.on && cut.registers == 1) rotate_heads<2, 1>(cut, queries.count(), rows);
    if (cut.on && cut.registers == 2) rotate_heads<2, 2>(cut, queries.count(), rows);
    __syncthreads();  // all heads are there
    const uint32_t g = lane_of_warp() / 4, i = lane_of_warp() % 4 * 4;
    const float* const row = queries.row(g);
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        float4 x = {0, 0, 0, 0};
        if (g < queries.at.heads) x = *reinterpret_cast<const float4*>(row + 16 * step + i);
        q[step][0] = rounded(x.x, x.z);
        q[step][1] = rounded(x.y, x.w);
    }
    __syncthreads();  // tiles may take their place
}

// Scores in units of log 2, so that p is a power of two; nothing of cells that are not seen.
__device__ void finish_scores(const DecodeJob& job, float (&s)[4], uint32_t seen) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] *= job.to_power;
    if (job.softcap > 0) {
#pragma unroll
        for (float& x : s) x = job.softcap * k_log2_e * tanhf(x);
    }
    if (seen == 0xFFFFu) return;
    const uint32_t g = lane_of_warp() / 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        if ((seen >> (g + i / 2 * 8) & 1) == 0) s[i] = -INFINITY;
    }
}

// What lies in a cell that is not seen may be a NaN, which 0 times is not 0.
__device__ void clear_unseen(const Tiles& tiles) {
    for (uint32_t r = 0; r < k_cells; ++r) {
        if ((tiles.seen() >> r & 1) != 0) continue;
        uint16_t* row = reinterpret_cast<uint16_t*>(tiles.v_row(r));
        for (uint32_t i = lane_of_warp(); i < tiles.job.v_rows.row_bytes / 2; i += k_warp) {
            row[i] = 0;
        }
    }
    __syncwarp();
}

// A tile, for the warp's KV head.
template <int D_k, int D_v>
__device__ void attend(const Tiles& tiles, const uint32_t (&q)[D_k / 16][2], State<D_v>& state) {
    const DecodeJob& job = tiles.job;
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4, seen = tiles.seen();
    if (seen != 0xFFFFu) clear_unseen(tiles);
    float s[4] = {};
    score_cells(job.k.type, s, q, tiles.k_row(g), tiles.k_row(g + 8));
    finish_scores(job, s, seen);
    state.take(s);
    const uint32_t p[2] = {transposed(rounded(s[0], s[1])), transposed(rounded(s[2], s[3]))};
    const FourRows rows = {{tiles.v_row(2 * t), tiles.v_row(2 * t + 1), tiles.v_row(2 * t + 8),
                            tiles.v_row(2 * t + 9)}};
    add_cells(job.v.type, state.o, p, rows);
}

// The states of a head's warps become its first slice's: of two neighbours the second gives, the
// first takes, then of two that are two apart ... Lanes meet the lane of their own number.
template <int D_v>
__device__ void merge_slices(const DecodeJob& job, const DecodePlace& at, State<D_v>& state,
                             float4* memory) {
    constexpr uint32_t fours = D_v / 16 + 1;
    for (uint32_t apart = 1; apart < job.slices; apart *= 2) {
        const bool gives = at.slice % (2 * apart) == apart;
        const bool takes = at.slice % (2 * apart) == 0 && at.slice + apart < job.slices;
        const uint32_t from = (at.slice + (gives ? 0 : apart)) * job.band + at.head_of_band;
        float4* const theirs = memory + from * fours * k_warp + lane_of_warp();
        __syncthreads();  // the tiles, or what was given before, are used no more
        if (gives) {
#pragma unroll
            for (int step = 0; step < D_v / 16; ++step) {
                const float(&o)[4] = state.o[step];
                theirs[step * k_warp] = {o[0], o[1], o[2], o[3]};
            }
            theirs[D_v / 16 * k_warp] = {state.top[0], state.top[1], state.total[0],
                                         state.total[1]};
        }
        __syncthreads();
        if (takes) state.add(theirs);
    }
}

// The block's part of a head, for combine_kernel.
template <int D_v>
__device__ void publish(const DecodeJob& job, const DecodePlace& at, State<D_v>& state) {
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        for (unsigned h = 4; h < k_warp; h *= 2) state.total[i] += partner(state.total[i], h);
        if (2 * t + i >= at.heads) continue;
        const uint32_t row = at.t * job.all_heads + at.first_head + 2 * t + i;
        const int64_t index = int64_t(row) * job.parts.splits + at.split;
        if (g == 0) job.parts.softmax[index] = {state.top[i] - k_headroom, state.total[i]};
        float2* sums = reinterpret_cast<float2*>(job.parts.sums + index * job.parts.fours);
#pragma unroll
        for (int step = 0; step < D_v / 16; ++step) {
            sums[8 * step + g] = {state.o[step][i], state.o[step][i + 2]};
        }
    }
}

// A processor has registers for so many warps.
constexpr uint32_t most_warps(int d) { return d <= 128 ? 16 : 8; }

template <int D_k, int D_v>
__global__ void __launch_bounds__(most_warps(D_k) * k_warp, 1)
    decode_kernel(const __grid_constant__ DecodeJob job) {
    extern __shared__ float4 shared[];
    std::byte* const ring = reinterpret_cast<std::byte*>(shared);
    DecodePlace at(job);
    const Queries queries{job, at, ring};
    wait_for_earlier();
    // Everything is asked for at once: queries, positions, the first tiles.
    at.load(job);
    ask_for(queries);
    Tiles tiles(job, at, ring + at.slice * job.ring_bytes());
    wait_for_groups<k_stages - 1>();
    __syncwarp();
    uint32_t q[D_k / 16][2];
    load_fragments(q, queries);
    State<D_v> state;
    for (; tiles.is_more(); tiles.advance()) {
        tiles.wait();
        if (tiles.seen() != 0 && !at.is_idle) attend<D_k, D_v>(tiles, q, state);
    }
    wait_for_groups<0>();
    merge_slices(job, at, state, shared);
    if (at.slice == 0) publish(job, at, state);
}

// In memory, of one query head.
int64_t part_bytes(int64_t d_v) { return d_v * int64_t(sizeof(float)) + int64_t(sizeof(float2)); }

// As many splits as fill the device, no more than are of use or have room for parts.
void choose_splits(DecodeJob& job, const Workspace& workspace, uint32_t blocks_of_processor) {
    const int64_t rows = int64_t(job.tokens) * job.all_heads;
    const int64_t blocks = blocks_of_processor * workspace.processors;
    const int64_t cells = k_cells * job.slices;  // that a block looks at together
    job.parts.fours = job.d_v / 4;
    const int64_t most = std::min({blocks / job.blocks(), (job.cells + cells - 1) / cells,
                                   workspace.bytes / (rows * part_bytes(job.d_v)), k_most_parts});
    job.parts.splits = uint32_t(std::max<int64_t>(1, most));
    job.parts.sums = reinterpret_cast<float4*>(workspace.parts);
    job.parts.softmax =
        reinterpret_cast<float2*>(job.parts.sums + rows * job.parts.splits * job.parts.fours);
}

template <int D_k, int D_v>
void launch(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    uint32_t warps = most_warps(D_k);
    while (warps > 1 && DecodeJob(args, warps).bytes() > workspace.most_shared_bytes) warps /= 2;
    DecodeJob job(args, warps);
    const uint32_t by_registers = most_warps(D_k) / job.warps();
    const uint32_t by_memory = uint32_t(workspace.shared_bytes) / (job.bytes() + 1024);
    choose_splits(job, workspace, std::max(1u, std::min(by_registers, by_memory)));
    const auto kernel = decode_kernel<D_k, D_v>;
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(job.bytes())),
        "attention");
    launch_dependent(kernel, dim3(job.blocks(), job.parts.splits), dim3(job.warps() * k_warp),
                     job.bytes(), stream, job);
    const CombineJob combine{job.parts.softmax, job.parts.sums, job.parts.splits, job.parts.fours,
                             job.all_heads,     job.sinks,      job.v_cut,        job.dst,
                             job.dst_token,     job.dst_head};
    launch_dependent(combine.cut.registers == 1 ? combine_kernel<1> : combine_kernel<2>,
                     dim3(job.tokens * job.all_heads, combine.cut.per_row.d), dim3(k_threads),
                     combine.bytes(), stream, combine);
}

struct Kernel {
    int64_t d_k, d_v;
    void (*launch)(const AttentionArgs& args, const Workspace& workspace, Stream stream);
};
constexpr Kernel k_kernels[] = {
    {64, 64, launch<64, 64>},     {80, 80, launch<80, 80>},     {96, 96, launch<96, 96>},
    {112, 112, launch<112, 112>}, {128, 128, launch<128, 128>}, {192, 192, launch<192, 192>},
    {192, 128, launch<192, 128>}, {256, 256, launch<256, 256>},
};

// Null where there is none, or no room for a part of each head of one token.
const Kernel* kernel_for(const AttentionArgs& args) {
    if (args.q.n[2] * part_bytes(args.dst.n[3]) > k_part_bytes) return nullptr;
    for (const Kernel& kernel : k_kernels) {
        if (kernel.d_k == args.q.n[3] && kernel.d_v == args.dst.n[3]) return &kernel;
    }
    return nullptr;
}

}  // namespace

bool has_tensor_kernel(const AttentionArgs& args) { return kernel_for(args) != nullptr; }

int64_t tensor_memory(const AttentionArgs& args) { return DecodeJob(args, 1).bytes(); }

// So many tokens at a time as have room for a part each.
void decode_3_tensor(const AttentionArgs& args, const Workspace& workspace, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t tokens = args.q.n[1];
    const int64_t at_once = workspace.bytes / (args.q.n[2] * part_bytes(args.dst.n[3]));
    for (int64_t first = 0; first < tokens; first += at_once) {
        AttentionArgs some = args;
        some.q.n[1] = some.dst.n[1] = std::min(at_once, tokens - first);
        some.q.data += first * some.q.stride[1];
        some.dst.data += first * some.dst.stride[1];
        some.q_stream.data += first * int64_t(sizeof(int32_t));
        some.q_position.data += first * int64_t(sizeof(int32_t));
        kernel_for(args)->launch(some, workspace, stream);
    }
}

}  // namespace rotkv::cuda
