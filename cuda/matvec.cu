// Products with a weight for few tokens, where the weight's bytes set the pace: they are read once,
// packed as they are, and become f32 in registers.
//   y[t, o] = sum_i w[o, i] x[t, i]
// matvec.cuh says which thread has what. One token, which is what generation has, gets a kernel
// of its own: its time is that of the instructions of a warp, one after the other, so that it has
// as few as can be, and has asked for all it needs before it looks at any.
//   Cost: the weight's bytes, and the tokens' activations for each row, from the caches.
//   Several weights that multiply the same activations are one launch, each with blocks of its own.
//   gate and up before act_mul: the same rows of both in one block (of one token, in one warp),
//   which also does act_mul.
//   rms_norm before them, of one short row: products are of the row that is not scaled yet.
//   add behind one: whoever has a row's sum adds the residual.
#include "cuda/dependent.cuh"
#include "cuda/fetched.cuh"
#include "cuda/matmul_few.h"
#include "cuda/matvec_job.cuh"

#include <algorithm>
#include <cfloat>
#include <utility>

namespace rotkv::cuda {
namespace {

constexpr __device__ float4 k_ones = {1, 1, 1, 1};

// threadIdx: lane, warp of the block. For more tokens than one, or rows that begin anyhow.
template <DType type, uint32_t most>
__global__ void __launch_bounds__(2 * k_warps * k_warp)
    matvec_kernel(const __grid_constant__ Job job) {
    __shared__ float of_warp[2 * k_warps][most];
    const uint32_t lane = threadIdx.x, warp = threadIdx.y;
    const uint32_t of_block =
        (blockIdx.x >= job.product[1].first_block) + (blockIdx.x >= job.product[2].first_block);
    const uint32_t split = job.product[of_block].split, parts = 1u << split;
    const uint32_t block = blockIdx.x - job.product[of_block].first_block;
    const uint32_t row = (block * blockDim.y + warp) >> split;
    const Product& product = job.product[job.gated ? row % 2 : of_block];
    const Place place{job.gated ? row / 2 : row, warp % parts, parts};
    const std::byte* w = product.weight.data + place.o * product.weight.stride[2];
    const bool there = place.o < product.out;
    for (uint32_t i = (place.part * k_warp + lane) * k_line; there && i < product.row_bytes;
         i += parts * k_warp * k_line) {
        prefetch(w + i);
    }
    wait_for_earlier();
    let_next_come();
    float sum[most] = {};
    const auto token = [&](uint32_t t) {
        return reinterpret_cast<const float*>(job.src.data + t * job.src.stride[2]);
    };
    if (there) multiply<type>(sum, w, job.in, job.tokens, token, job.vectors, place);
    share_sums(of_warp, sum, job.tokens);
    __syncthreads();
    if (place.part != 0 || lane >= job.tokens || !there) return;
    float y = total(of_warp, warp, parts, lane);
    if (job.gated && row % 2 == 0) {
        y = gated(job.activation, y, total(of_warp, warp + parts, parts, lane));
    }
    store(job, product, lane, place.o, y, other_of(job, lane, place.o));
}

// ---- One token ----

// The norm itself, for who reads it: all that rms_norm_kernel does, in its order; its eight warps
// are this block's four, twice.
__device__ void store_norm(const Norm& norm, uint32_t d) {
    constexpr uint32_t warps = k_threads / k_warp, each = warps / k_warps;
    __shared__ double of_warp[warps];
    float4 x[each];
#pragma unroll
    for (uint32_t e = 0; e < each; ++e) {
        const uint32_t warp = threadIdx.y + e * k_warps;
        x[e] = load4(norm.src, 4 * (warp * k_warp + threadIdx.x), d, true);
        double squares = 0;
        for (const float part : {x[e].x, x[e].y, x[e].z, x[e].w}) {
            squares += double(part) * double(part);
        }
        for (unsigned h = k_warp / 2; h > 0; h /= 2) {
            squares += __shfl_xor_sync(k_all_lanes, squares, h);
        }
        if (threadIdx.x == 0) of_warp[warp] = squares;
    }
    __syncthreads();
    double squares = 0;
    for (const double one : of_warp) squares += one;
    const float scale = float(rsqrt(squares / d + double(norm.epsilon)));
#pragma unroll
    for (uint32_t e = 0; e < each; ++e) {
        const uint32_t i = 4 * ((threadIdx.y + e * k_warps) * k_warp + threadIdx.x);
        const float4 g = norm.weight != nullptr ? load4(norm.weight, i, d, true) : k_ones;
        store4(norm.dst, i, d, true,
               {x[e].x * scale * g.x, x[e].y * scale * g.y, x[e].z * scale * g.z,
                x[e].w * scale * g.w});
    }
}

// What products with a row that is not scaled yet are to be multiplied by. Squares of f32 may leave
// f32; then they are summed once more.
__device__ float scale_of(const Norm& norm, float squares, uint32_t d) {
    if (squares < FLT_MAX && squares > FLT_MIN) return rsqrtf(squares / float(d) + norm.epsilon);
    double all = 0;
    for (uint32_t i = 0; i < d; ++i) all += double(norm.src[i]) * double(norm.src[i]);
    return float(rsqrt(all / d + double(norm.epsilon)));
}

// A warp's sums with one part of `rows` weights' rows, as multiply() makes them; and of the squares
// of a row whose norm is yet to be made.
template <DType type, int rows, bool normed>
struct TokenSums {
    float row[rows] = {}, squares = 0;

    __device__ void add(const Job& job, const std::byte* const (&w)[rows], const Place& place) {
        const uint32_t step = 4 * k_warp * place.parts;
        const auto* src = normed ? job.norm.src : reinterpret_cast<const float*>(job.src.data);
        for (uint32_t i = 4 * (place.part * k_warp + threadIdx.x); i < job.in;
             i += k_fours * step) {
            add_fours(job, src, w, i, step, std::make_integer_sequence<uint32_t, k_fours>());
        }
    }
    __device__ void add_up() {
        for (unsigned h = k_warp / 2; h > 0; h /= 2) {
#pragma unroll
            for (float& sum : row) sum += partner(sum, h);
            if constexpr (normed) squares += partner(squares, h);
        }
    }

  private:
    template <uint32_t... u>
    __device__ void add_fours(const Job& job, const float* src, const std::byte* const (&w)[rows],
                              uint32_t i, uint32_t step, std::integer_sequence<uint32_t, u...>) {
        const Fetched<type> first[] = {Fetched<type>(w[0], i + u * step, job.in)...};
        const Fetched<type> last[] = {Fetched<type>(w[rows - 1], i + u * step, job.in)...};
        float4 x[] = {of_row(src, i + u * step, job.in)...};
        if constexpr (normed) {
            ((squares = dot(x[u], x[u], squares)), ...);
            if (job.norm.weight != nullptr) {
                ((x[u] = times(x[u], of_row(job.norm.weight, i + u * step, job.in))), ...);
            }
        }
        ((row[0] = dot(first[u].value(), x[u], row[0])), ...);
        if constexpr (rows == 2) ((row[1] = dot(last[u].value(), x[u], row[1])), ...);
    }
    static __device__ float4 of_row(const float* x, uint32_t i, uint32_t in) {
        return i < in ? *reinterpret_cast<const float4*>(x + i) : float4{0, 0, 0, 0};
    }
    static __device__ float4 times(const float4& x, const float4& g) {
        return {x.x * g.x, x.y * g.y, x.z * g.z, x.w * g.w};
    }
};

// For activations that begin on 16 bytes. rows: of gate and up, which take the same activations;
// otherwise one. normed: the activations are yet to be made, and the last block makes them for
// others. Products are of the row that only lacks its scale, and get that when they are summed:
// nobody waits for the norm.
template <DType type, int rows, bool normed>
__global__ void __launch_bounds__(k_warps* k_warp, k_resident)
    token_kernel(const __grid_constant__ Job job) {
    __shared__ float of_warp[rows + 1][k_warps];
    const uint32_t lane = threadIdx.x, warp = threadIdx.y;
    fetch_arguments(job);
    if (normed && blockIdx.x == gridDim.x - 1) {
        wait_for_earlier();
        let_next_come();
        return store_norm(job.norm, job.in);
    }
    const uint32_t of_block =
        (blockIdx.x >= job.product[1].first_block) + (blockIdx.x >= job.product[2].first_block);
    const Product& product = job.product[of_block];
    const uint32_t parts = 1u << product.split, block = blockIdx.x - product.first_block;
    const Place place{(block * k_warps + warp) >> product.split, warp & (parts - 1), parts};
    const bool there = place.o < product.out;
    const std::byte* w[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
        const TensorView& weight = rows == 2 ? job.product[r].weight : product.weight;
        w[r] = weight.data + place.o * weight.stride[2];
        for (uint32_t i = (place.part * k_warp + lane) * k_line; there && i < product.row_bytes;
             i += parts * k_warp * k_line) {
            prefetch(w[r] + i);
        }
    }
    wait_for_earlier();
    let_next_come();
    const bool is_last = place.part == 0 && lane == 0 && there;
    const float other = is_last ? other_of(job, 0, place.o) : 0;
    TokenSums<type, rows, normed> sums;
    if (there) sums.add(job, w, place);
    sums.add_up();
    if (lane == 0) {
#pragma unroll
        for (int r = 0; r < rows; ++r) of_warp[r][warp] = sums.row[r];
        of_warp[rows][warp] = sums.squares;
    }
    __syncthreads();
    if (!is_last) return;
    const auto total = [&](const float(&of)[k_warps]) {
        float y = of[warp];
        for (uint32_t next = 1; next < parts; ++next) y += of[warp + next];
        return y;
    };
    const float scale = normed ? scale_of(job.norm, total(of_warp[rows]), job.in) : 1;
    float y = scale * total(of_warp[0]);
    if constexpr (rows == 2) {
        const float up = scale * total(of_warp[1]);
        store(job, job.product[1], 0, place.o, up, 0);
        y = gated(job.activation, y, up);
    }
    store(job, product, 0, place.o, y, other);
}

// Does token_kernel take it?
bool takes_token(std::span<const MatmulArgs> calls) {
    const TensorView& src = calls[0].src;
    if (src.n[2] != 1 || !rows_on_16_bytes(src) || src.n[3] % 4 != 0) return false;
    return std::all_of(calls.begin(), calls.end(),
                       [](const MatmulArgs& args) { return fetchable(args.weight); });
}

// Of several tokens rows of gate and up are those of two warps, side by side in a block.
unsigned place_products(Job& job, std::span<const MatmulArgs> calls, bool is_token) {
    const unsigned pairs = job.gated && !is_token ? 2 : 1;
    return place(job, calls, [pairs](int64_t rows, uint32_t split) {
        return blocks_for(rows * pairs << split, k_warps * pairs);
    });
}

template <DType type>
void launch(const Job& job, unsigned blocks, bool is_token, Stream stream) {
    if (!is_token) {
        const auto kernel = job.tokens == 1 ? matvec_kernel<type, 1>
                                            : matvec_kernel<type, uint32_t(k_matvec_tokens)>;
        const dim3 threads(k_warp, job.gated ? 2 * k_warps : k_warps);
        return launch_dependent(kernel, blocks, threads, 0, stream, job);
    }
    const bool normed = job.norm.src != nullptr;
    auto kernel = normed ? token_kernel<type, 1, true> : token_kernel<type, 1, false>;
    if (job.gated) kernel = normed ? token_kernel<type, 2, true> : token_kernel<type, 2, false>;
    launch_dependent(kernel, blocks + normed, dim3(k_warp, k_warps), 0, stream, job);
}

Norm norm_of(const RmsNormArgs* args) {
    if (args == nullptr) return {};
    const bool has_weight = !args->weight.empty();
    return {args->src.row<const float>(0), has_weight ? args->weight.row<const float>(0) : nullptr,
            args->dst.row<float>(0), args->epsilon};
}

}  // namespace

bool matvec_takes(const RmsNormArgs& norm, std::span<const MatmulArgs> products) {
    if (norm.src.rows() != 1 || norm.src.n[3] > k_normed_channels) return false;
    const bool has_weight = !norm.weight.empty();
    return takes_token(products) && rows_on_16_bytes(norm.src) &&
           (!has_weight || rows_on_16_bytes(norm.weight));
}

void matvec(const JoinedProducts& calls, Stream stream) {
    if (std::all_of(calls.products.begin(), calls.products.end(), few_takes)) {
        return few_products(calls, stream);
    }
    const MatmulArgs& first = calls.products[0];
    const TensorView& src = first.src;
    const ActMulArgs* const act = calls.act_mul;
    Job job{{},
            src,
            uint32_t(src.n[3]),
            uint32_t(src.n[2]),
            rows_on_16_bytes(src),
            act != nullptr,
            act != nullptr ? act->activation : Activation::silu,
            norm_of(calls.norm),
            sum_of(first, calls.sum)};
    const bool is_token = takes_token(calls.products);
    const unsigned blocks = place_products(job, calls.products, is_token);
    with_weight_type(first.weight.type,
                     [&]<DType type>() { launch<type>(job, blocks, is_token, stream); });
}

}  // namespace rotkv::cuda
