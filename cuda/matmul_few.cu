// Products with a weight for 2 to 64 tokens: read packed, as for one token, and every element that
// is in registers meets 8 or 16 tokens.
//   y[t, o] = sum_i w[o, i] x[t, i]
// A warp has four rows of the weight (of gate and up: two of each) and 8 or 16 tokens, 64 sums; or
// 2 or 4 warps share these, each with a part of the inner sum. A lane owns four neighbouring
// elements: it loads those of four rows, then for each token four activations, which meet 16
// products; activations come from the L1 cache, where the block's other warps want the same.
// With 8 a warp has half the instructions, one after the other: 16 are for launches of many blocks,
// as the words are, where expanding each element once is worth more.
// Then lanes add up by halves: each step a lane gives away half of its sums and keeps the other,
// 62 exchanges in place of 320. Every sum is added in the order in which one token's is, so that a
// row does not depend on how many others there are.
//   Cost: the weight's bytes for each 8 or 16 tokens; the activations once for four rows, from L1.
#include "cuda/dependent.cuh"
#include "cuda/fetched.cuh"
#include "cuda/matmul_few.h"
#include "cuda/matvec_job.cuh"

#include <cstdint>

namespace rotkv::cuda {
namespace {

constexpr uint32_t k_rows = 4;      // of a warp
constexpr int64_t k_tile = 16;      // tokens of a block
constexpr int64_t k_half_tile = 8;  // of a block where those are not many

constexpr unsigned k_blocks_at_once = 3;  // that a processor holds: 168 registers for a thread
constexpr unsigned k_many_blocks = 1000;  // of whole tiles: seven or eight to a processor

// Lanes add up their n sums: after it, a lane has the whole of n / 32 of them, from number
// lane * n / 32 on.
template <unsigned h, uint32_t n, uint32_t all>
__device__ __forceinline__ void add_up_halves(float (&sum)[all]) {
    static_assert(n >= 2 * h && n % 2 == 0);
    const bool upper = (threadIdx.x & h) != 0;
#pragma unroll
    for (uint32_t i = 0; i < n / 2; ++i) {
        const float kept = upper ? sum[i + n / 2] : sum[i];
        const float given = upper ? sum[i] : sum[i + n / 2];
        sum[i] = kept + partner(given, h);
    }
    if constexpr (h > 1) add_up_halves<h / 2, n / 2>(sum);
}

// The rows of a warp, and where their sums go.
struct RowsOfWarp {
    uint32_t first;  // of the weight, or of both gate and up
    uint32_t each;   // of a weight: k_rows, or half
    __device__ uint32_t row(uint32_t r) const { return first + r % each; }
};

// All that four elements need is asked for before any of it is looked at, of the types that
// fetched.cuh keeps as words: nothing here is a branch.
template <DType type, uint32_t most>
__device__ __forceinline__ void add_products(float (&sum)[k_rows * most], const Job& job,
                                             const std::byte* const (&w)[k_rows],
                                             const std::byte* src, uint32_t tokens,
                                             const Place& place) {
    static_assert(k_rows == 4);
    uint32_t row[most];  // where a token's activations begin, in fours; one not there: the last's
#pragma unroll
    for (uint32_t t = 0; t < most; ++t) {
        row[t] = min(t, tokens - 1) * (uint32_t(job.src.stride[2]) / uint32_t(sizeof(float4)));
    }
    const uint32_t step = 4 * k_warp * place.parts;
    for (uint32_t i = 4 * (place.part * k_warp + threadIdx.x); i < job.in; i += step) {
        __builtin_assume(i < job.in);
        const Fetched<type> fetched[] = {
            {w[0], i, job.in}, {w[1], i, job.in}, {w[2], i, job.in}, {w[3], i, job.in}};
        const float4* const column = reinterpret_cast<const float4*>(src) + i / 4;
        float4 x[most];
#pragma unroll
        for (uint32_t t = 0; t < most; ++t) x[t] = column[row[t]];
#pragma unroll
        for (uint32_t r = 0; r < k_rows; ++r) {
            const float4 four = fetched[r].value();
#pragma unroll
            for (uint32_t t = 0; t < most; ++t) {
                sum[r * most + t] = dot(four, x[t], sum[r * most + t]);
            }
        }
    }
}

// threadIdx: lane, warp; blockIdx: rows of a product, tokens.
template <DType type, uint32_t most>
__global__ void __launch_bounds__(k_warps* k_warp, k_blocks_at_once)
    few_kernel(const __grid_constant__ Job job) {
    constexpr uint32_t n = k_rows * most, of_lane = n / k_warp;
    __shared__ float of_warp[k_warps][n];
    const uint32_t lane = threadIdx.x, warp = threadIdx.y;
    fetch_arguments(job);
    const uint32_t of_block =
        (blockIdx.x >= job.product[1].first_block) + (blockIdx.x >= job.product[2].first_block);
    const Product& product = job.product[of_block];
    const Product& second = job.product[job.gated ? 1 : of_block];
    const uint32_t split = product.split, parts = 1u << split;
    const uint32_t block = blockIdx.x - product.first_block;
    const RowsOfWarp rows{((block * k_warps + warp) >> split) * (job.gated ? k_rows / 2 : k_rows),
                          job.gated ? k_rows / 2 : k_rows};
    const Place place{rows.first, warp % parts, parts};
    const bool there = rows.first < product.out;
    const std::byte* w[k_rows];
#pragma unroll
    for (uint32_t r = 0; r < k_rows; ++r) {
        const TensorView& weight = (r < k_rows / 2 ? product : second).weight;
        w[r] = weight.data + min(rows.row(r), product.out - 1) * weight.stride[2];
        for (uint32_t i = (place.part * k_warp + lane) * k_line; there && i < product.row_bytes;
             i += parts * k_warp * k_line) {
            prefetch(w[r] + i);
        }
    }
    wait_for_earlier();
    let_next_come();
    const uint32_t first_token = blockIdx.y * most, tokens = min(most, job.tokens - first_token);
    float sum[n] = {};
    if (there) {
        add_products<type, most>(sum, job, w, job.src.data + first_token * job.src.stride[2],
                                 tokens, place);
        add_up_halves<k_warp / 2, n>(sum);
#pragma unroll
        for (uint32_t j = 0; j < of_lane; ++j) of_warp[warp][lane * of_lane + j] = sum[j];
    }
    __syncthreads();
    if (place.part != 0 || !there) return;
    const auto whole = [&](uint32_t r, uint32_t t) {
        float y = of_warp[warp][r * most + t];
        for (uint32_t next = 1; next < parts; ++next) y += of_warp[warp + next][r * most + t];
        return y;
    };
    for (uint32_t one = lane; one < rows.each * most; one += k_warp) {
        const uint32_t r = one % rows.each, t = one / rows.each, o = rows.first + r;
        if (t >= tokens || o >= product.out) continue;
        const uint32_t token = first_token + t;
        float y = whole(r, t);
        if (job.gated) {
            const float up = whole(r + rows.each, t);
            store(job, second, token, o, up, 0);
            y = gated(job.activation, y, up);
        }
        store(job, product, token, o, y, other_of(job, token, o));
    }
}

unsigned place_rows(Job& job, std::span<const MatmulArgs> calls) {
    const uint32_t together = job.gated ? k_rows / 2 : k_rows;
    return place(job, calls, [together](int64_t rows, uint32_t split) {
        return blocks_for(int64_t(blocks_for(rows, together)) << split, k_warps);
    });
}

}  // namespace

bool few_takes(const MatmulArgs& args) {
    const int64_t tokens = args.src.n[2];
    if (tokens <= 1 || tokens > k_few_tokens) return false;
    if (tokens > k_matvec_tokens && args.precision != Precision::f32) return false;
    const TensorView& src = args.src;
    const bool is_whole = rows_on_16_bytes(src) && src.n[3] % 4 == 0;
    return is_whole && src.stride[2] <= INT32_MAX && fetchable(args.weight);
}

void few_products(const JoinedProducts& calls, Stream stream) {
    const MatmulArgs& first = calls.products[0];
    const ActMulArgs* const act = calls.act_mul;
    Job job{{},
            first.src,
            uint32_t(first.src.n[3]),
            uint32_t(first.src.n[2]),
            true,
            act != nullptr,
            act != nullptr ? act->activation : Activation::silu,
            {},
            sum_of(first, calls.sum)};
    const unsigned blocks = place_rows(job, calls.products);
    with_weight_type(first.weight.type, [&]<DType type>() {
        const bool half =
            job.tokens <= k_half_tile || blocks * blocks_for(job.tokens, k_tile) <= k_many_blocks;
        const auto kernel =
            half ? few_kernel<type, uint32_t(k_half_tile)> : few_kernel<type, uint32_t(k_tile)>;
        const dim3 grid(blocks, blocks_for(job.tokens, half ? k_half_tile : k_tile));
        launch_dependent(kernel, grid, dim3(k_warp, k_warps), 0, stream, job);
    });
}

}  // namespace rotkv::cuda
