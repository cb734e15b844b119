// Element-wise operations of the transformer: so far add, y = a + b.
//   A thread owns four neighbouring channels of one row. Must equal ref::add bit for bit.
//   Cost: 12 bytes an element (8 where b is one row, repeated).
#include "cuda/device.cuh"
#include "cuda/kernels.h"

namespace rotkv::cuda {
namespace {

__global__ void add_kernel(Rows dst, Rows a, Rows b, uint32_t rows, uint32_t per_row, uint32_t d) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x, row = thread / per_row;
    if (row >= rows) return;
    const uint32_t i = (thread - row * per_row) * 4;
    const float4 x = load4(a.row<const float>(row), i, d, a.vectors);
    const float4 z = load4(b.row<const float>(row), i, d, b.vectors);
    store4(dst.row<float>(row), i, d, dst.vectors, {x.x + z.x, x.y + z.y, x.z + z.z, x.w + z.w});
}

}  // namespace

void add(const AddArgs& args, Stream stream) {
    if (args.dst.empty()) return;
    const int64_t rows = args.dst.rows(), d = args.dst.n[3], per_row = (d + 3) / 4;
    add_kernel<<<blocks_for(rows * per_row, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.a), Rows(args.b), uint32_t(rows), uint32_t(per_row), uint32_t(d));
    require_launched("add");
}

}  // namespace rotkv::cuda
