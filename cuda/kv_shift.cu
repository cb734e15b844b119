// How keys move to other positions: out of the cache, back to plain channels (RoPE and the Hadamard
// matrix do not commute), turned, and in again as kv_store does it.
//   A group of lanes owns a cell and takes one head after the other; RoPE joins channels of
//   different lanes, so that the row waits in shared memory between the steps.
//   Cost: the cache's bytes, read and written once, of the cells that move. Two rotations, the
//   turn and the codes are about 300 instructions of a warp for 128 channels: they bind, not
//   memory.
// Must write the bytes that ref::kv_shift writes.
#include "cuda/dequant.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/kernels.h"
#include "cuda/rope.cuh"
#include "cuda/store.cuh"

namespace rotkv::cuda {
namespace {

// With as many blocks of threads every multiprocessor has its fill.
constexpr int64_t k_many_blocks = 2048;

// Groups of one warp at the same channels of their rows do not meet in a bank.
constexpr uint32_t k_row_gap = 8;

struct ShiftArgs {
    TensorView cache, table, row;
    Pieces cut;
    Divisor per_stream;  // cells
    RopePairs pairs;
    uint32_t word, bytes;  // of a cached row
    uint32_t pitch;        // of a row in shared memory, in floats
};

// The row of the table by which a cell turns; null where it stays, and past the last cell.
__device__ const float* turn_of(const ShiftArgs& args, uint32_t stream, uint32_t cell) {
    if (stream >= uint32_t(args.cache.n[0])) return nullptr;
    const std::byte* strip = args.row.data + stream * args.row.stride[2];
    const int32_t row = reinterpret_cast<const int32_t*>(strip)[cell];
    if (row < 0) return nullptr;
    return reinterpret_cast<const float*>(args.table.data + row * args.table.stride[1]);
}

// One head row; `k` is the group's row in shared memory. All lanes of a warp call it together,
// those of cells that stay with null for `cached`.
template <int R>
__device__ void shift_row(const ShiftArgs& args, std::byte* cached, const float* turn, float* k) {
    const Pieces& cut = args.cut;
    const DType type = args.cache.type;
    const uint32_t lane = threadIdx.x & (cut.lanes - 1), begin[1] = {4 * lane};
    std::byte* const bytes = reinterpret_cast<std::byte*>(k);
    float4 v[1][R] = {};
    // 1 from the cache: its bytes first, in wide loads
    if (cached != nullptr) copy_piece<16 * R>(args.word, bytes, cached, args.bytes, cut);
    __syncwarp();
    if (cached != nullptr) {
        with_cache_type(type, [&](auto) {
#pragma unroll
            for (int j = 0; j < R; ++j) {
                v[0][j] = dequantize4(type, bytes, begin[0] + 4 * cut.lanes * j, cut.d);
            }
        });
    }
    __syncwarp();
    // 2 to plain channels
    rotate(v, cut, begin, true);
#pragma unroll
    for (int j = 0; j < R; ++j) store4(k, begin[0] + 4 * cut.lanes * j, cut.width, true, v[0][j]);
    __syncwarp();  // pairs join channels that other lanes wrote
    // 3 turn; channels past the pairs stay as they are
    const uint32_t half = cached != nullptr ? uint32_t(args.table.n[2]) : 0;
    for (uint32_t i = lane; i < half; i += cut.lanes) {
        rope_item(k, k, turn, i, 2 * half, args.pairs);
    }
    __syncwarp();
    // 4 back into the cache
#pragma unroll
    for (int j = 0; j < R; ++j) v[0][j] = load4(k, begin[0] + 4 * cut.lanes * j, cut.width, true);
    rotate(v, cut, begin, false);
    store_piece(type, cached, begin[0], cut, args.word, v[0]);
}

template <int R>
__global__ void __launch_bounds__(k_quant_threads)
    kv_shift_kernel(const __grid_constant__ ShiftArgs args) {
    extern __shared__ float4 rows[];  // [groups][pitch]
    const TensorView& cache = args.cache;
    const uint32_t group = threadIdx.x >> args.cut.lane_bits;
    const uint32_t strip = (blockIdx.x * k_quant_threads + threadIdx.x) >> args.cut.lane_bits;
    const uint32_t stream = args.per_stream.of(strip), cell = strip - stream * args.per_stream.d;
    const float* turn = turn_of(args, stream, cell);
    if (!__any_sync(k_all_lanes, turn != nullptr)) return;
    std::byte* heads = cache.data + stream * cache.stride[0] + cell * cache.stride[1];
    float* const row = reinterpret_cast<float*>(rows) + group * args.pitch;
    for (uint32_t head = blockIdx.y; head < uint32_t(cache.n[2]); head += gridDim.y) {
        std::byte* cached = turn != nullptr ? heads + head * cache.stride[2] : nullptr;
        shift_row<R>(args, cached, turn, row);
        __syncwarp();  // the row is free again
    }
}

template <int R>
void launch_kv_shift(const ShiftArgs& args, Stream stream) {
    const int64_t groups = k_quant_threads / args.cut.lanes;
    const size_t row_bytes = size_t(groups * args.pitch) * sizeof(float);
    const int64_t cells = args.cache.n[0] * args.cache.n[1];
    const unsigned blocks = blocks_for(cells, groups);
    // Few cells: heads beside each other instead of one after the other.
    const unsigned heads =
        unsigned(std::clamp<int64_t>(k_many_blocks / blocks, 1, args.cache.n[2]));
    kv_shift_kernel<R><<<dim3(blocks, heads), k_quant_threads, row_bytes, stream>>>(args);
}

}  // namespace

void kv_shift(const KvShiftArgs& args, Stream stream) {
    if (args.k_cache.empty()) return;
    const TensorView& cache = args.k_cache;
    const int64_t d = cache.n[3];
    const Pieces cut = wide_pieces(args.k_rotation, d, uint32_t(std::bit_ceil(uint64_t(d))));
    const ShiftArgs all{cache,
                        args.table,
                        args.row,
                        cut,
                        Divisor(cache.n[1]),
                        args.pairs,
                        store_word(cache, cut),
                        uint32_t(row_bytes(cache.type, d)),
                        cut.width + k_row_gap};
    switch (cut.registers) {
        case 1:
            launch_kv_shift<1>(all, stream);
            break;
        case 2:
            launch_kv_shift<2>(all, stream);
            break;
        case 4:
            launch_kv_shift<4>(all, stream);
            break;
        default:
            launch_kv_shift<8>(all, stream);
    }
    require_launched("kv_shift");
}

}  // namespace rotkv::cuda
