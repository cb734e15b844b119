// How a row goes into the cache (kv_store) and how keys move to other positions (kv_shift).
//   kv_store: per head row, rotate (hadamard.cuh), quantize (quant.cuh), write to (stream, cell).
//   Nothing lies in memory between the steps: a piece stays in the registers of its lanes.
//   One launch: the first blocks of threads take K, the others V.
//   Cost: 4 bytes read and the type's bytes written for each element, each once.
//   kv_shift: a warp owns a head row of a cell; RoPE joins channels of different pieces, so that
//   the row waits in shared memory between the steps.
// Both must write the bytes that ref::kv_store and ref::kv_shift write.
#include "cuda/dequant.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"
#include "cuda/quant.cuh"
#include "cuda/rope.cuh"

namespace rotkv::cuda {
namespace {

// So many loads of 16 bytes are in flight at once when each thread has one of them: with fewer,
// more loads a thread would only leave processors idle (132 processors of 2048 threads).
constexpr int64_t k_few_fours = 200000;

__device__ std::byte* cache_row(const TensorView& cache, uint32_t stream, uint32_t cell,
                                uint32_t head) {
    return cache.data + stream * cache.stride[0] + cell * cache.stride[1] + head * cache.stride[2];
}

// What is stored of K, or of V.
struct StoreSide {
    TensorView rows, cache;
    Pieces cut;
    Divisor per_token;  // pieces of all its heads
    bool vectors;

    StoreSide(const TensorView& x, const TensorView& to, const Rotation& rotation, uint32_t width)
        : rows(x),
          cache(to),
          cut(rotation, x.n[3], width),
          per_token(x.n[2] * cut.per_row.d),
          vectors(rows_on_16_bytes(x)) {}
};

struct StoreArgs {
    StoreSide k, v;
    unsigned k_blocks;
    uint32_t tokens;
    const int32_t *stream, *cell;
};

// A group's pieces as lists of fours, to be stored: rows that are null are not written.
template <class Element, int U, int R>
__device__ void store_pieces(std::byte* const (&row)[U], const uint32_t (&begin)[U],
                             const Pieces& cut, const float4 (&v)[U][R]) {
    Element* y[U * R];
    uint32_t i[U * R];
    float4 x[U * R];
#pragma unroll
    for (int m = 0; m < U * R; ++m) {
        y[m] = reinterpret_cast<Element*>(row[m / R]);
        i[m] = begin[m / R] + 4 * cut.lanes * (m % R);
        x[m] = v[m / R][m % R];
    }
    store_fours(y, i, cut.d, x);
}

// Piece by piece what ref's store_row does to a whole row. A group owns one piece of U tokens that
// follow each other, so that only the token changes from one to the next; all are loaded before the
// first is used.
template <int U, int R>
__device__ void store_side(const StoreSide& side, const StoreArgs& args, unsigned block) {
    const Pieces& cut = side.cut;
    const uint32_t lane = threadIdx.x % cut.lanes;
    const uint32_t group = block * (k_threads / cut.lanes) + threadIdx.x / cut.lanes;
    const uint32_t chunk = side.per_token.of(group), piece = group - chunk * side.per_token.d;
    const uint32_t head = cut.per_row.of(piece), i = cut.begin_of(piece, head) + 4 * lane;
    const std::byte* heads = side.rows.data + head * side.rows.stride[2];
    float4 v[U][R];
    std::byte* y[U];
    uint32_t begin[U];
    // 1 load and scale
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const uint32_t t = chunk * U + u;
        const bool is_there = t < args.tokens;
        const float* x = reinterpret_cast<const float*>(heads + t * side.rows.stride[1]);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            v[u][j] = load4(x, i + 4 * cut.lanes * j, is_there ? cut.d : 0, side.vectors);
        }
        const int32_t cell = is_there ? args.cell[t] : -1;
        y[u] = cell < 0 ? nullptr : cache_row(side.cache, args.stream[t], cell, head);
        begin[u] = i;
    }
    // 2 butterflies
    rotate(v, cut, begin, false);
    // 3 store
    with_cache_type(side.cache.type,
                    [&](auto element) { store_pieces<decltype(element)>(y, begin, cut, v); });
}

// Written out for both sides: what is known at the launch is then part of the instructions, and
// nothing is selected.
template <int U, int R>
__global__ void __launch_bounds__(k_threads)
    kv_store_kernel(const __grid_constant__ StoreArgs args) {
    if (blockIdx.x < args.k_blocks) {
        store_side<U, R>(args.k, args, blockIdx.x);
    } else {
        store_side<U, R>(args.v, args, blockIdx.x - args.k_blocks);
    }
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
    const Pieces& cut = args.cut;
    const TensorView& cache = args.cache;
    const uint32_t warp = threadIdx.x / k_warp;
    const int64_t r = int64_t(blockIdx.x) * (blockDim.x / k_warp) + warp;
    const int64_t heads = cache.n[2], cells = cache.n[1], stream = r / heads / cells;
    if (stream >= cache.n[0]) return;
    const int64_t head = r % heads, cell = r / heads % cells;
    const std::byte* strip = args.row.data + stream * args.row.stride[2];
    const int64_t table_row = reinterpret_cast<const int32_t*>(strip)[cell];
    if (table_row < 0) return;
    const std::byte* turn = args.table.data + table_row * args.table.stride[1];
    std::byte* const cached[1] = {cache_row(cache, stream, cell, head)};
    float* k = rows + warp * cut.d;

    // RoPE and the Hadamard matrix do not commute: back to plain channels first.
    for_each_piece<R>(
        cut, [&](uint32_t i) { return dequantize4(cache.type, cached[0], i, cut.d); },
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
        rope_item(k, k, reinterpret_cast<const float*>(turn), i, 2 * half, args.pairs);
    }
    __syncwarp();
    for_each_piece<R>(
        cut, [&](uint32_t i) { return load4(k, i, cut.d, false); },
        [&](float4(&v)[1][R], const uint32_t(&begin)[1]) {
            rotate(v, cut, begin, false);
            with_cache_type(cache.type, [&](auto element) {
                store_pieces<decltype(element)>(cached, begin, cut, v);
            });
        });
}

template <int U, int R>
void launch_kv_store(StoreArgs& args, bool with_v, Stream stream) {
    const int64_t chunks = (int64_t(args.tokens) + U - 1) / U;
    const int64_t groups = k_threads / args.k.cut.lanes;
    args.k_blocks = blocks_for(chunks * args.k.per_token.d, groups);
    const unsigned v_blocks = with_v ? blocks_for(chunks * args.v.per_token.d, groups) : 0;
    kv_store_kernel<U, R><<<args.k_blocks + v_blocks, k_threads, 0, stream>>>(args);
}

}  // namespace

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
                  uint32_t(args.k.n[1]),
                  args.stream.row<const int32_t>(0),
                  args.cell.row<const int32_t>(0)};
    const bool few = args.k.rows() * args.k.n[3] / 4 < k_few_fours;
    switch (k.cut.registers) {
        case 1:
            few ? launch_kv_store<1, 1>(all, with_v, stream)
                : launch_kv_store<4, 1>(all, with_v, stream);
            break;
        case 2:
            few ? launch_kv_store<1, 2>(all, with_v, stream)
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
    const int64_t warps = std::min<int64_t>(k_largest_row / args.k_cache.n[3], 4);
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
