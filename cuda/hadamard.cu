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
//
// Version 4 takes rows of f16 and bf16 too, at 4 bytes an element: f32 from the load to the store,
// which rounds. As many bytes are twice as many channels to exchange between lanes; therefore no
// more than eight lanes share a piece until each of them holds four units of it.
#include "cuda/codes.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/ladder.h"

#include <cuda_bf16.h>

#include <cstdlib>
#include <type_traits>

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

// A unit as it is stored, and as it is computed with.
template <class E>
using Stored = std::conditional_t<std::is_same_v<E, float>, float4, uint4>;
template <class E>
using Unit = std::conditional_t<std::is_same_v<E, float>, float4, Eight>;

// Channels i .. of a row of d, as many as a unit has; 0 where the row has ended.
__device__ float4 load_unit(const float* x, uint32_t i, uint32_t d, bool vectors) {
    return load4(x, i, d, vectors);
}
template <class Half>
__device__ uint4 load_unit(const Half* x, uint32_t i, uint32_t d, bool vectors) {
    if (vectors && i + 8 <= d) return *reinterpret_cast<const uint4*>(x + i);
    const auto bits = [&](uint32_t j) { return j < d ? uint32_t(x[j].bits) : 0; };
    const auto two = [&](uint32_t j) { return bits(j) | bits(j + 1) << 16; };
    return {two(i), two(i + 2), two(i + 4), two(i + 6)};
}

__device__ float value(F16, uint32_t bits) { return f16_to_f32(uint16_t(bits)); }
// Not as a shift: the compiler makes that twice, and takes 12 registers more.
__device__ float value(Bf16, uint32_t bits) {
    return __bfloat162float(__ushort_as_bfloat16(uint16_t(bits)));
}

__device__ float4 expanded(float, const float4& x) { return x; }
template <class Half>
__device__ Eight expanded(Half type, const uint4& x) {
    return {{value(type, x.x), value(type, x.x >> 16), value(type, x.y), value(type, x.y >> 16)},
            {value(type, x.z), value(type, x.z >> 16), value(type, x.w), value(type, x.w >> 16)}};
}

__device__ void store_unit(float* y, uint32_t i, uint32_t d, bool vectors, const float4& v) {
    store4(y, i, d, vectors, v);
}
template <class Half>
__device__ void store_unit(Half* y, uint32_t i, uint32_t d, bool vectors, const Eight& v) {
    const uint32_t h[8] = {Half::of(v.low.x),  Half::of(v.low.y),  Half::of(v.low.z),
                           Half::of(v.low.w),  Half::of(v.high.x), Half::of(v.high.y),
                           Half::of(v.high.z), Half::of(v.high.w)};
    if (vectors && i + 8 <= d) {
        *reinterpret_cast<uint4*>(y + i) = {h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16,
                                            h[6] | h[7] << 16};
        return;
    }
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
        if (i + j < d) y[i + j].bits = uint16_t(h[j]);
    }
}

// Rows of E. L as known_lanes of rotate().
template <class E, int R, int U, uint32_t L>
__global__ void __launch_bounds__(k_threads)
    vectors_kernel(Rows dst, Rows src, Pieces cut, uint32_t pieces, bool back) {
    const uint32_t groups = k_threads / cut.lanes, group = threadIdx.x / cut.lanes;
    const uint32_t lane = threadIdx.x % cut.lanes, first = blockIdx.x * groups * U + group;
    constexpr uint32_t W = k_width<Unit<E>>;
    Stored<E> x[U][R];
    Unit<E> v[U][R];
    uint32_t row[U], begin[U];
    // 1 load
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const uint32_t piece = first + u * groups;
        row[u] = piece < pieces ? cut.per_row.of(piece) : 0;
        begin[u] = piece < pieces ? cut.begin_of(piece, row[u]) + W * lane : cut.d;
        const E* from = src.row<const E>(row[u]);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            x[u][j] = load_unit(from, begin[u] + W * cut.lanes * j, cut.d, src.vectors);
        }
    }
    // 2 f32
#pragma unroll
    for (int i = 0; i < U * R; ++i) v[i / R][i % R] = expanded(E{}, x[i / R][i % R]);
    // 3 scale and butterflies
    rotate<L>(v, cut, begin, back);
    // 4 round and store
#pragma unroll
    for (int u = 0; u < U; ++u) {
        if (first + u * groups >= pieces) return;
        E* y = dst.row<E>(row[u]);
#pragma unroll
        for (int j = 0; j < R; ++j) {
            store_unit(y, begin[u] + W * cut.lanes * j, cut.d, dst.vectors, v[u][j]);
        }
    }
}

template <int R>
void launch_shuffles(const HadamardArgs& args, const Pieces& cut, uint32_t blocks, Stream stream) {
    shuffles_kernel<R><<<blocks_for(blocks, k_threads / k_warp), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), cut, blocks, args.inverse);
}

template <class E, int R, int U, uint32_t L>
void launch_vectors(const HadamardArgs& args, const Pieces& cut, Stream stream) {
    const int64_t pieces = args.src.rows() * cut.per_row.d, groups = k_threads / cut.lanes;
    vectors_kernel<E, R, U, L><<<blocks_for(pieces, groups * U), k_threads, 0, stream>>>(
        Rows(args.dst), Rows(args.src), cut, uint32_t(pieces), args.inverse);
}

void launch_floats(const HadamardArgs& args, Stream stream) {
    const Pieces cut(args.rotation, args.src.n[3]);
    switch (cut.registers) {
        case 1:
            return launch_vectors<float, 1, 4, k_warp>(args, cut, stream);
        case 2:
            return launch_vectors<float, 2, 2, k_warp>(args, cut, stream);
        case 4:
            return launch_vectors<float, 4, 1, k_warp>(args, cut, stream);
        default:
            return launch_vectors<float, 8, 1, k_warp>(args, cut, stream);
    }
}

//     N      ... 8    16    32    64   128   256   512  1024
//     L          1     2     4     8     8     8    16    32
//     R          1     1     1     1     2     4     4     4
template <class Half>
void launch_halves(const HadamardArgs& args, Stream stream) {
    Pieces cut(args.rotation, args.src.n[3], k_width<Eight>);
    cut.lanes = std::max(std::min(cut.width / 8, 8u), cut.width / 32);
    cut.lane_bits = uint32_t(std::countr_zero(cut.lanes));
    cut.registers = cut.width / (8 * cut.lanes);
    if (cut.lanes == 32) return launch_vectors<Half, 4, 1, 32>(args, cut, stream);
    if (cut.lanes == 16) return launch_vectors<Half, 4, 1, 16>(args, cut, stream);
    switch (cut.registers) {
        case 1:
            return launch_vectors<Half, 1, 4, 8>(args, cut, stream);
        case 2:
            return launch_vectors<Half, 2, 2, 8>(args, cut, stream);
        default:
            return launch_vectors<Half, 4, 1, 8>(args, cut, stream);
    }
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
    // clang-format off
    switch (args.src.type) {
        case DType::f32: launch_floats(args, stream); break;
        case DType::f16: launch_halves<F16>(args, stream); break;
        case DType::bf16: launch_halves<Bf16>(args, stream); break;
        case DType::q8_0: case DType::q5_1: case DType::q5_0: case DType::q4_1: case DType::q4_0:
        case DType::iq4_nl: case DType::q2_k: case DType::q3_k: case DType::q4_k:
        case DType::q5_k: case DType::q6_k: case DType::iq4_xs: case DType::mxfp4:
        case DType::i32: case DType::f64: std::abort();  // check() has refused these
    }
    // clang-format on
    require_launched("hadamard_4_vectors");
}

void hadamard(const HadamardArgs& args, Stream stream) { hadamard_4_vectors(args, stream); }

}  // namespace rotkv::cuda
