// The Hadamard transform as a ladder: four versions of one operation, to be read in this order. In
// all of them each element goes through ref's additions in ref's order, so that every bit equals
// what ref::hadamard makes; what changes is who holds the values meanwhile, and how many bytes one
// instruction moves.
//   y = H S x, back y = S H x, on each block of N channels; S a diagonal of signs, H_2n = (H_n H_n;
//   H_n -H_n) / sqrt(2). Cost: 8 bytes an element, log2 N additions.
//
//   1 loops     a thread owns a block and walks ref's loops in device memory
//   2 shared    a block of threads owns a block, a stage of butterflies between two barriers
//   3 shuffles  a warp owns a block in registers: lane l holds channels l + 32 j
//   4 vectors   a group of lanes owns a piece (hadamard.cuh), 16 bytes a lane, 64 bytes in flight
#include "cuda/hadamard.cuh"
#include "cuda/ladder.h"

namespace rotkv::cuda {
namespace {

// What versions 1 to 3 do with block `b` of all rows: where it lies, and its signs.
struct Block {
    float* y;
    const float* x;
    int64_t channel;  // of the head, of the block's first
};

__device__ Block block_of(const Rows& dst, const Rows& src, const Pieces& cut, uint32_t b) {
    const uint32_t per_row = cut.d / cut.n, row = b / per_row, i = (b - row * per_row) * cut.n;
    return {dst.row<float>(row) + i, src.row<const float>(row) + i, cut.first + i};
}

__device__ float loaded(const Block& block, const Pieces& cut, uint32_t i, bool back) {
    const float x = block.x[i];
    if (!cut.on) return x;
    return (cut.signs && !back ? flipped(x, cut.seed, block.channel + i) : x) * cut.scale;
}

__device__ float finished(float y, const Block& block, const Pieces& cut, uint32_t i, bool back) {
    return cut.signs && back ? flipped(y, cut.seed, block.channel + i) : y;
}

// ---- 1 ----

__global__ void loops_kernel(Rows dst, Rows src, Pieces cut, uint32_t blocks, bool back) {
    const uint32_t b = blockIdx.x * blockDim.x + threadIdx.x;
    if (b >= blocks) return;
    const Block block = block_of(dst, src, cut, b);
    float* y = block.y;
    // 1 load and scale
    for (uint32_t i = 0; i < cut.n; ++i) y[i] = loaded(block, cut, i, back);
    // 2 butterflies
    for (uint32_t h = 1; h < cut.n; h *= 2) {
        for (uint32_t i = 0; i < cut.n; i += 2 * h) {
            for (uint32_t j = i; j < i + h; ++j) butterfly(y[j], y[j + h]);
        }
    }
    // 3 store
    for (uint32_t i = 0; i < cut.n; ++i) y[i] = finished(y[i], block, cut, i, back);
}

// ---- 2: thread i owns the butterfly whose lower channel is i with a 0 put in at bit h ----

__global__ void shared_kernel(Rows dst, Rows src, Pieces cut, bool back) {
    __shared__ float y[k_largest_block];
    const Block block = block_of(dst, src, cut, blockIdx.x);
    // 1 load and scale
    for (uint32_t i = threadIdx.x; i < cut.n; i += blockDim.x) {
        y[i] = loaded(block, cut, i, back);
    }
    // 2 butterflies
    for (uint32_t h = 1; h < cut.n; h *= 2) {
        __syncthreads();  // partners of this stage are results of others in the last
        const uint32_t i = threadIdx.x, j = (i & ~(h - 1)) * 2 + (i & (h - 1));
        if (j + h < cut.n) butterfly(y[j], y[j + h]);
    }
    __syncthreads();
    // 3 store
    for (uint32_t i = threadIdx.x; i < cut.n; i += blockDim.x) {
        block.y[i] = finished(y[i], block, cut, i, back);
    }
}

// ---- 3 ----

template <int R>
__global__ void shuffles_kernel(Rows dst, Rows src, Pieces cut, uint32_t blocks, bool back) {
    const uint32_t b = (blockIdx.x * blockDim.x + threadIdx.x) / k_warp, lane = lane_of_warp();
    if (b >= blocks) return;  // a whole warp
    const Block block = block_of(dst, src, cut, b);
    // 1 load and scale
    float y[R];
#pragma unroll
    for (int j = 0; j < R; ++j) {
        const uint32_t i = lane + k_warp * j;
        y[j] = i < cut.n ? loaded(block, cut, i, back) : 0.0f;
    }
    // 2 butterflies
#pragma unroll
    for (unsigned h = 1; h < k_warp; h *= 2) {
        if (h >= cut.n) break;
        const float sign = (lane & h) == 0 ? 1.0f : -1.0f;
#pragma unroll
        for (int j = 0; j < R; ++j) y[j] = fmaf(y[j], sign, partner(y[j], h));
    }
#pragma unroll
    for (int h = 1; h < R; h *= 2) {
#pragma unroll
        for (int j = 0; j < R; ++j) {
            if ((j & h) == 0) butterfly(y[j], y[j + h]);
        }
    }
    // 3 store
#pragma unroll
    for (int j = 0; j < R; ++j) {
        const uint32_t i = lane + k_warp * j;
        if (i < cut.n) block.y[i] = finished(y[j], block, cut, i, back);
    }
}

// ---- 4: U pieces a group, so that 4 loads of 16 bytes are in flight before the first is used.
// Groups of one block of threads take neighbouring pieces ----

template <int R, int U>
__global__ void __launch_bounds__(k_threads)
    vectors_kernel(Rows dst, Rows src, Pieces cut, uint32_t pieces, bool back) {
    const uint32_t groups = k_threads / cut.lanes, group = threadIdx.x / cut.lanes;
    const uint32_t lane = threadIdx.x % cut.lanes, first = blockIdx.x * groups * U + group;
    float4 v[U][R];
    uint32_t row[U], begin[U];
    // 1 load and scale
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const uint32_t piece = first + u * groups;
        row[u] = piece < pieces ? cut.per_row.of(piece) : 0;
        begin[u] = piece < pieces ? cut.begin_of(piece, row[u]) + 4 * lane : cut.d;
        const float* x = src.row<const float>(row[u]);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            v[u][j] = load4(x, begin[u] + 4 * cut.lanes * j, cut.d, src.vectors);
        }
    }
    // 2 butterflies
    rotate(v, cut, begin, back);
    // 3 store
#pragma unroll
    for (int u = 0; u < U; ++u) {
        if (first + u * groups >= pieces) return;
        float* y = dst.row<float>(row[u]);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            store4(y, begin[u] + 4 * cut.lanes * j, cut.d, dst.vectors, v[u][j]);
        }
    }
}

template <int R>
void launch_shuffles(const HadamardArgs& args, const Pieces& cut, uint32_t blocks, Stream stream) {
    shuffles_kernel<R><<<blocks_for(blocks, k_threads / k_warp), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), cut, blocks, args.inverse);
}

template <int R, int U>
void launch_vectors(const HadamardArgs& args, const Pieces& cut, Stream stream) {
    const int64_t pieces = args.src.rows() * cut.per_row.d, groups = k_threads / cut.lanes;
    vectors_kernel<R, U><<<blocks_for(pieces, groups * U), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), cut, uint32_t(pieces), args.inverse);
}

uint32_t block_count(const HadamardArgs& args, const Pieces& cut) {
    return uint32_t(args.src.rows() * (cut.d / cut.n));
}

}  // namespace

void hadamard_1_loops(const HadamardArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const Pieces cut(args.rotation, args.src.n[3]);
    const uint32_t blocks = block_count(args, cut);
    loops_kernel<<<blocks_for(blocks, k_threads), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), cut, blocks, args.inverse);
    require_launched("hadamard_1_loops");
}

void hadamard_2_shared(const HadamardArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const Pieces cut(args.rotation, args.src.n[3]);
    const uint32_t threads = cut.n < 2 * k_warp ? k_warp : cut.n / 2;
    shared_kernel<<<block_count(args, cut), threads, 0, stream>>>(Rows(args.dst), Rows(args.src),
                                                                  cut, args.inverse);
    require_launched("hadamard_2_shared");
}

void hadamard_3_shuffles(const HadamardArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const Pieces cut(args.rotation, args.src.n[3]);
    const uint32_t blocks = block_count(args, cut);
    switch (cut.n / k_warp) {
        case 0:
        case 1:
            launch_shuffles<1>(args, cut, blocks, stream);
            break;
        case 2:
            launch_shuffles<2>(args, cut, blocks, stream);
            break;
        case 4:
            launch_shuffles<4>(args, cut, blocks, stream);
            break;
        case 8:
            launch_shuffles<8>(args, cut, blocks, stream);
            break;
        case 16:
            launch_shuffles<16>(args, cut, blocks, stream);
            break;
        default:
            launch_shuffles<32>(args, cut, blocks, stream);
    }
    require_launched("hadamard_3_shuffles");
}

void hadamard_4_vectors(const HadamardArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const Pieces cut(args.rotation, args.src.n[3]);
    switch (cut.registers) {
        case 1:
            launch_vectors<1, 4>(args, cut, stream);
            break;
        case 2:
            launch_vectors<2, 2>(args, cut, stream);
            break;
        case 4:
            launch_vectors<4, 1>(args, cut, stream);
            break;
        default:
            launch_vectors<8, 1>(args, cut, stream);
    }
    require_launched("hadamard_4_vectors");
}

void hadamard(const HadamardArgs& args, Stream stream) { hadamard_4_vectors(args, stream); }

}  // namespace rotkv::cuda
