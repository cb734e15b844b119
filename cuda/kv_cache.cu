// How a row goes into the cache (kv_store) and how keys move to other positions (kv_shift).
//   kv_store: per head row, rotate (hadamard.cuh), quantize (quant.cuh), write to (stream, cell).
//   Nothing lies in memory between the steps: a piece stays in the registers of its lanes.
//   One launch: the first blocks of threads take K, the others V.
//   Cost: 4 bytes read and the type's bytes written for each element, each once.
//   kv_shift: a warp owns a head row of a cell; RoPE joins channels of different pieces, so that
//   the row waits in shared memory between the steps.
// Both must write the bytes that ref::kv_store and ref::kv_shift write.
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"
#include "cuda/quant.cuh"
#include "cuda/rope.cuh"

namespace rotkv::cuda {
namespace {

constexpr int64_t k_few_fours = 200000;  // loads of 16 bytes that 132 processors hold at once

__device__ std::byte* cache_row(const TensorView& cache, int64_t stream, int64_t cell,
                                int64_t head) {
    return cache.data + stream * cache.stride[0] + cell * cache.stride[1] + head * cache.stride[2];
}

// What is stored of K, or of V.
struct StoreSide {
    Rows rows;
    TensorView cache;
    Pieces cut;
    uint32_t pieces;  // of all tokens and heads

    StoreSide(const TensorView& x, const TensorView& to, const Rotation& rotation, uint32_t width)
        : rows(x),
          cache(to),
          cut(rotation, x.n[3], width),
          pieces(uint32_t(x.rows() * cut.per_row.d)) {}
};

struct StoreArgs {
    StoreSide k, v;
    unsigned k_blocks;
    Divisor kv_heads;
    const int32_t *stream, *cell;
};

// Piece by piece what ref's store_row does to a whole row; U pieces a group, all loaded before the
// first is used.
template <int U, int R>
__global__ void __launch_bounds__(k_threads)
    kv_store_kernel(const __grid_constant__ StoreArgs args) {
    const bool is_k = blockIdx.x < args.k_blocks;
    const StoreSide side = is_k ? args.k : args.v;  // a copy: stores cannot change it
    const unsigned block = is_k ? blockIdx.x : blockIdx.x - args.k_blocks;
    const Pieces& cut = side.cut;
    const uint32_t groups = k_threads / cut.lanes, lane = threadIdx.x % cut.lanes;
    const uint32_t first = block * groups * U + threadIdx.x / cut.lanes;
    float4 v[U][R];
    std::byte* y[U];
    uint32_t begin[U];
    bool writes[U];
    // 1 load and scale
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const uint32_t piece = first + u * groups;
        writes[u] = piece < side.pieces;
        const uint32_t row = writes[u] ? cut.per_row.of(piece) : 0;
        begin[u] = writes[u] ? cut.begin_of(piece, row) + 4 * lane : cut.d;
        const float* x = side.rows.row<const float>(row);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            v[u][j] = load4(x, begin[u] + 4 * cut.lanes * j, cut.d, side.rows.vectors);
        }
        const uint32_t t = args.kv_heads.of(row), head = row - t * args.kv_heads.d;
        const int32_t cell = args.cell[t];
        writes[u] = writes[u] && cell >= 0;
        y[u] = cache_row(side.cache, args.stream[t], cell, head);
    }
    // 2 butterflies
    rotate(v, cut, begin, false);
    // 3 store
    with_cache_type(side.cache.type, [&](auto element) {
        using Element = decltype(element);
#pragma unroll
        for (int i = 0; i < U * R; ++i) {
            const int u = i / R, j = i % R;
            quantize4(reinterpret_cast<Element*>(y[u]), begin[u] + 4 * cut.lanes * j, cut.d,
                      v[u][j], writes[u]);
        }
    });
}

struct ShiftArgs {
    TensorView cache, table, row;
    Pieces cut;
    RopePairs pairs;
};

// Calls step(the piece's registers, its first channel) for the pieces of one row, as many at a time
// as the warp has groups; lanes of pieces past the row's end take part with zeros.
template <int R, class Load, class Step>
__device__ void for_each_piece(const Pieces& cut, const Load& load, const Step& step) {
    const uint32_t group = lane_of_warp() / cut.lanes, lane = lane_of_warp() % cut.lanes;
    for (uint32_t first = 0; first < cut.per_row.d; first += k_warp / cut.lanes) {
        const uint32_t begin[1] = {(first + group) * cut.width + 4 * lane};
        float4 v[1][R];
#pragma unroll
        for (int j = 0; j < R; ++j) v[0][j] = load(begin[0] + 4 * cut.lanes * j);
        step(v, begin);
    }
}

template <int R>
__global__ void kv_shift_kernel(const __grid_constant__ ShiftArgs args) {
    extern __shared__ float rows[];  // [warps][D]
    const TensorView& cache = args.cache;
    const uint32_t warp = threadIdx.x / k_warp;
    const int64_t r = int64_t(blockIdx.x) * (blockDim.x / k_warp) + warp;
    const int64_t heads = cache.n[2], cells = cache.n[1], stream = r / heads / cells;
    if (stream >= cache.n[0]) return;
    const int64_t head = r % heads, cell = r / heads % cells;
    const std::byte* strip = args.row.data + stream * args.row.stride[2];
    const int64_t row = reinterpret_cast<const int32_t*>(strip)[cell];
    if (row < 0) return;
    const std::byte* turn = args.table.data + row * args.table.stride[1];
    const float* turns = reinterpret_cast<const float*>(turn);
    std::byte* cached = cache_row(cache, stream, cell, head);
    float* k = rows + warp * args.cut.d;
    const Pieces& cut = args.cut;
    const DType type = args.cache.type;
    // RoPE and the Hadamard matrix do not commute: back to plain channels first.
    for_each_piece<R>(
        cut, [&](uint32_t i) { return dequantize4(type, cached, i, cut.d); },
        [&](float4(&v)[1][R], const uint32_t(&begin)[1]) {
            rotate(v, cut, begin, true);
#pragma unroll
            for (int j = 0; j < R; ++j) {
                store4(k, begin[0] + 4 * cut.lanes * j, cut.d, false, v[0][j]);
            }
        });
    __syncwarp();  // pairs join channels that other lanes wrote
    const uint32_t half = uint32_t(args.table.n[2]);
    for (uint32_t i = lane_of_warp(); i < cut.d - half; i += k_warp) {
        rope_item(k, k, turns, i, 2 * half, args.pairs);
    }
    __syncwarp();
    for_each_piece<R>(
        cut, [&](uint32_t i) { return load4(k, i, cut.d, false); },
        [&](float4(&v)[1][R], const uint32_t(&begin)[1]) {
            rotate(v, cut, begin, false);
            with_cache_type(type, [&](auto element) {
                using Element = decltype(element);
#pragma unroll
                for (int j = 0; j < R; ++j) {
                    quantize4(reinterpret_cast<Element*>(cached), begin[0] + 4 * cut.lanes * j,
                              cut.d, v[0][j], true);
                }
            });
        });
}

}  // namespace

template <int U, int R>
static void launch_kv_store(StoreArgs& args, bool with_v, Stream stream) {
    const int64_t each = k_threads / args.k.cut.lanes * U;
    args.k_blocks = blocks_for(args.k.pieces, each);
    const unsigned v_blocks = with_v ? blocks_for(args.v.pieces, each) : 0;
    kv_store_kernel<U, R><<<args.k_blocks + v_blocks, k_threads, 0, stream>>>(args);
}

void kv_store(const KvStoreArgs& args, Stream stream) {
    if (args.k.empty()) return;
    const bool with_v = !args.v_cache.empty();  // otherwise V is a view of K
    const uint32_t k_width = Pieces(args.k_rotation, 1).width;
    const uint32_t width = with_v ? std::max(k_width, Pieces(args.v_rotation, 1).width) : k_width;
    const StoreSide k(args.k, args.k_cache, args.k_rotation, width);
    const StoreSide v = with_v ? StoreSide(args.v, args.v_cache, args.v_rotation, width) : k;
    StoreArgs all{k,
                  v,
                  0,
                  Divisor(args.k.n[2]),
                  args.stream.row<const int32_t>(0),
                  args.cell.row<const int32_t>(0)};
    // 64 bytes of loads in flight for each thread, unless the batch is small: then more threads.
    const bool small = int64_t(k.pieces) * k.cut.lanes * k.cut.registers < k_few_fours;
    switch (k.cut.registers) {
        case 1:
            small ? launch_kv_store<1, 1>(all, with_v, stream)
                  : launch_kv_store<4, 1>(all, with_v, stream);
            break;
        case 2:
            small ? launch_kv_store<1, 2>(all, with_v, stream)
                  : launch_kv_store<2, 2>(all, with_v, stream);
            break;
        case 4:
            launch_kv_store<1, 4>(all, with_v, stream);
            break;
        default:
            launch_kv_store<1, 8>(all, with_v, stream);
    }
    require_launched("kv_store");
}

void kv_shift(const KvShiftArgs& args, Stream stream) {
    if (args.k_cache.empty()) return;
    const ShiftArgs all{args.k_cache, args.table, args.row,
                        Pieces(args.k_rotation, args.k_cache.n[3]), args.pairs};
    const int64_t row_bytes = args.k_cache.n[3] * int64_t(sizeof(float));
    const int64_t fitting = k_largest_row * int64_t(sizeof(float)) / row_bytes;
    const int64_t warps = std::min<int64_t>(fitting, 4);
    const auto launch = [&](auto kernel) {
        kernel<<<blocks_for(args.k_cache.rows(), warps), unsigned(warps) * k_warp,
                 size_t(warps * row_bytes), stream>>>(all);
    };
    switch (all.cut.registers) {
        case 1:
            launch(kv_shift_kernel<1>);
            break;
        case 2:
            launch(kv_shift_kernel<2>);
            break;
        case 4:
            launch(kv_shift_kernel<4>);
            break;
        default:
            launch(kv_shift_kernel<8>);
    }
    require_launched("kv_shift");
}

}  // namespace rotkv::cuda
