// RoPE: y0 = x0 c - x1 s, y1 = x0 s + x1 c on each pair; channels from n_rot on are copied.
//   A thread owns one pair, or one copied channel, of one head. Must equal ref::rope bit for bit.
//   Cost: 8 bytes an element; the table's row is read once per head, from the caches.
#include "cuda/kernels.h"
#include "cuda/rope.cuh"

namespace rotkv::cuda {
namespace {

__global__ void rope_kernel(Rows dst, Rows src, TensorView table, const int32_t* table_row,
                            RopePairs pairs, uint32_t rows, uint32_t heads, uint32_t items) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x, row = thread / items;
    if (row >= rows) return;
    const int64_t turn = table_row[row / heads];
    const float* turns = reinterpret_cast<const float*>(table.data + turn * table.stride[1]);
    rope_item(dst.row<float>(row), src.row<const float>(row), turns, thread - row * items,
              2 * uint32_t(table.n[2]), pairs);
}

}  // namespace

void rope(const RopeArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const int64_t rows = args.src.rows(), items = args.src.n[3] - args.table.n[2];
    rope_kernel<<<blocks_for(rows * items, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), args.table, args.row.row<const int32_t>(0), args.pairs,
        uint32_t(rows), uint32_t(args.src.n[2]), uint32_t(items));
    require_launched("rope");
}

}  // namespace rotkv::cuda
