// Version 6 of decode: fewer bytes. The cache holds blocks of 32 codes and a scale, q8_0 (34 bytes)
// or q4_0 (18 bytes, instead of 64 in f16). They are copied as they are and never become numbers:
// a code u in the place of an f16 is the number u 2^-24, which tensor cores multiply as any other
// (fragments.cuh, with one block written out lane by lane). With u = code + zero, for each block
//
//     s_c  += d_c (sum_i q_i u_ci - zero sum_i q_i)     the second sum: once a token, where a
//                                                       product begins instead of with 0
//     o_i  += sum_c (p_c d_c) (u_ci - zero)             d goes into p; -zero is a product more
//
// Units are put right at the end: 2^24, and for q4_0's higher 16 channels, whose four bits stay
// where they are in the byte, 2^24 / 16.
//
// Rows begin on any even address, and a copy on 16 bytes: it begins at the multiple of 16 before
// the row, `lead` bytes early, and ends at the one behind it. Everything else is as in version 5.
//
// Cost: half (q8_0) or a quarter (q4_0) of version 5's bytes, D / 16 products more for -zero, and
// about one instruction for each code of a lane. Where its time goes: those instructions, and as
// many requests as version 5 has: one warp is no faster with fewer bytes, nor with 4 bits than
// with 8.
#include "cuda/decode_copies.cuh"
#include "cuda/decode_rung.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

using namespace decode;

constexpr uint32_t k_ring = 8;

// Rows with what is copied before and behind them; an odd number of 16 bytes apart.
template <class Block, int D>
struct Stage {
    static constexpr uint32_t row_bytes = D / 32 * sizeof(Block);
    static constexpr uint32_t pitch = (row_bytes + 30) / 16 * 16 | 16;
    alignas(16) std::byte k[k_tile][pitch];
    alignas(16) std::byte v[k_tile][pitch];
    alignas(16) int32_t position[k_tile];

    static __device__ uint32_t lead_of(const std::byte* row) {
        return uint32_t(reinterpret_cast<uintptr_t>(row)) % 16;
    }
};

template <class Block, int D>
struct Ring {
    Stage<Block, D> stages[k_ring];
    uint64_t full[k_ring];
};

struct Cache {
    const std::byte *k, *v;
    const int32_t* position;
};

template <class Block, int D>
__device__ void ask(const Task& task, const Place& at, const Cache& cache, uint32_t first,
                    Stage<Block, D>& to, const CopyBarrier& full) {
    if (first >= at.used) return;
    const uint32_t lane = lane_of_warp(), r = lane % k_tile, cell = first + r;
    const uint32_t cells = min(k_tile, at.used - first), places = (cells * 4 + 15) / 16 * 16;
    const bool is_v = lane >= k_tile;
    const std::byte* const row = is_v ? cache.v + cell * task.v.cell : cache.k + cell * task.k.cell;
    const uint32_t bytes = (to.lead_of(row) + to.row_bytes + 15) / 16 * 16;
    const uint32_t all = __reduce_add_sync(k_all_lanes, r < cells ? bytes : 0);
    if (lane == 0) {
        full.expect(all + places);
        full.copy(reinterpret_cast<std::byte*>(to.position),
                  reinterpret_cast<const std::byte*>(cache.position + first), places);
    }
    __syncwarp();
    if (r < cells) full.copy(is_v ? to.v[r] : to.k[r], row - to.lead_of(row), bytes);
}

// q~ of head g as B, in the order of codes_of: channels 4t, 4t+2 | 4t+1, 4t+3 of each 16. And, of
// heads 2t and 2t + 1, -zero sum_i q_i of each block, in units of a code.
template <class Block, int D>
struct Queries {
    uint32_t b[D / 16][2];
    float zero[D / 32][2];

    __device__ Queries(const float* rows, const Place& at) {
        const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
#pragma unroll
        for (int step = 0; step < D / 16; ++step) {
            const float* const x = rows + g * D + 16 * step + 4 * t;
            b[step][0] = g < at.heads ? halves_of(x[0], x[2]) : 0;
            b[step][1] = g < at.heads ? halves_of(x[1], x[3]) : 0;
        }
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            const uint32_t head = 2 * t + i % 2;
            float sum = 0;
            for (int c = 0; head < at.heads && c < 32; ++c) {
                sum += f16_to_f32(f32_to_f16(rows[head * D + i / 2 * 32 + c]));
            }
            zero[i / 2][i % 2] = -k_zero<Block> * sum / k_code;
        }
    }
};

// s[cell][head] of cells g (row x) and g + 8 (row y).
template <class Block, int D>
__device__ void score_codes(float (&s)[4], const Queries<Block, D>& q, const Block* x,
                            const Block* y) {
    const uint32_t i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
        const Codes of_x = codes_of(x[b], i, x[b], i + 2), of_y = codes_of(y[b], i, y[b], i + 2);
        float low[4] = {q.zero[b][0], q.zero[b][1], q.zero[b][0], q.zero[b][1]}, high[4] = {};
        mma(low, {of_x.low.even, of_y.low.even, of_x.low.odd, of_y.low.odd}, q.b[2 * b]);
        mma(high, {of_x.high.even, of_y.high.even, of_x.high.odd, of_y.high.odd}, q.b[2 * b + 1]);
        const float d[2] = {f16_to_f32(x[b].d), f16_to_f32(y[b].d)};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            s[j] = fmaf(d[j / 2], fmaf(high[j], 1.0f / k_high<Block>, low[j]), s[j]);
        }
    }
}

// o[channel][head]; row(r): the blocks of cell r of the tile. The scale of a cell that is not seen
// is 0 here: any codes are finite, any scale is not.
template <class Block, int D, class Row>
__device__ void add_codes(State<D>& state, const uint32_t (&p)[2], uint32_t seen, const Row& row) {
    constexpr uint32_t low = constant_of<Block>(1), high = constant_of<Block>(k_high<Block>);
    const uint32_t g = lane_of_warp() / 4, t = lane_of_warp() % 4;
    const auto scale = [&](uint32_t r, int b) -> uint32_t {
        return (seen >> r & 1) != 0 ? row(r)[b].d : 0;
    };
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
        const Codes xy = codes_of(row(2 * t)[b], 2 * g, row(2 * t + 1)[b], 2 * g);
        const Codes zw = codes_of(row(2 * t + 8)[b], 2 * g, row(2 * t + 9)[b], 2 * g);
        const uint32_t pd[2] = {product(p[0], both(scale(2 * t, b), scale(2 * t + 1, b))),
                                product(p[1], both(scale(2 * t + 8, b), scale(2 * t + 9, b)))};
        mma(state.o[2 * b], {xy.low.even, xy.low.odd, zw.low.even, zw.low.odd}, pd);
        mma(state.o[2 * b + 1], {xy.high.even, xy.high.odd, zw.high.even, zw.high.odd}, pd);
        mma(state.o[2 * b], {low, low, low, low}, pd);
        mma(state.o[2 * b + 1], {high, high, high, high}, pd);
    }
}

template <class Block, int D>
__device__ void attend(const Task& task, RungMemory<D>& memory) {
    Ring<Block, D>& ring = *reinterpret_cast<Ring<Block, D>*>(memory.ring);
    if (lane_of_warp() < k_ring) CopyBarrier(ring.full + lane_of_warp()).create(1);
    __syncwarp();
    const Place at = place_of(task);
    const Cache cache{cells_of(task.k, at), cells_of(task.v, at), positions(task, at)};
    const auto ask_for = [&](uint32_t i) {
        const uint32_t stage = i % k_ring;
        ask(task, at, cache, i * k_tile, ring.stages[stage], CopyBarrier(ring.full + stage));
    };
    for (uint32_t i = 0; i < k_ring - 1; ++i) ask_for(i);
    rotate_into(memory, task, at);
    const Queries<Block, D> q(memory.rows, at);
    State<D> state;
    for (uint32_t i = 0; i * k_tile < at.used; ++i) {
        const uint32_t cell = i * k_tile + lane_of_warp() % k_tile, g = lane_of_warp() / 4;
        CopyBarrier(ring.full + i % k_ring).wait(i / k_ring % 2);
        __syncwarp();  // tile i - 1 has been read
        ask_for(i + k_ring - 1);
        const Stage<Block, D>& tile = ring.stages[i % k_ring];
        const uint32_t seen = seen_cells(at, cell < at.used ? tile.position[cell % k_tile] : -1);
        if (seen == 0) continue;
        // 16 cells are a multiple of 16 bytes: all tiles lie as the first one does.
        const auto k = [&](uint32_t r) {
            const uint32_t lead = tile.lead_of(cache.k + r * task.k.cell);
            return reinterpret_cast<const Block*>(tile.k[r] + lead);
        };
        const auto v = [&](uint32_t r) {
            const uint32_t lead = tile.lead_of(cache.v + r * task.v.cell);
            return reinterpret_cast<const Block*>(tile.v[r] + lead);
        };
        float s[4] = {};
        uint32_t p[2];
        score_codes<Block, D>(s, q, k(g), k(g + 8));
        take_scores(state, s, seen, task.scale * k_log2_e * k_code, p);
        add_codes<Block, D>(state, p, seen, v);
    }
#pragma unroll
    for (int i = 0; i < D / 4; ++i) {
        state.o[i / 4][i % 4] *= i / 4 % 2 == 0 ? k_code : k_code / k_high<Block>;
    }
    end_heads(task, at, state, memory, [](int step, bool lower) {
        return uint32_t(step) * 16 + lane_of_warp() / 4 * 2 + lower;
    });
}

template <class Block, int D>
__global__ void __launch_bounds__(k_warp) codes_kernel(const __grid_constant__ Task task) {
#if ROTKV_BULK_COPIES
    extern __shared__ float4 shared[];
    attend<Block, D>(task, *reinterpret_cast<RungMemory<D>*>(shared));
#else
    __trap();  // never launched on such a device
#endif
}

template <class Block, int D>
void launch(const Task& task, Stream stream) {
    launch_rung(codes_kernel<Block, D>, task.grid(), k_warp,
                RungMemory<D>::bytes(sizeof(Ring<Block, D>)), stream, task);
}

}  // namespace

bool decode_6_takes(const AttentionArgs& args) {
    return (rung_takes(args, DType::q8_0) || rung_takes(args, DType::q4_0)) &&
           rows_on_16_bytes(args.position) && compute_capability() >= 90;
}

void decode_6_codes(const AttentionArgs& args, const Workspace&, Stream stream) {
    if (args.dst.empty()) return;
    const Task task(args);
    const bool is_64 = args.q.n[3] == 64;
    if (args.k_cache.type == DType::q8_0) {
        is_64 ? launch<BlockQ8_0, 64>(task, stream) : launch<BlockQ8_0, 128>(task, stream);
    } else {
        is_64 ? launch<BlockQ4_0, 64>(task, stream) : launch<BlockQ4_0, 128>(task, stream);
    }
}

}  // namespace rotkv::cuda
