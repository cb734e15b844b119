// Gated DeltaNet (conv_step, delta_step): streams whose past is a state of fixed size.
//   A block of threads owns some channels of one stream, or some rows of one head's M, finds that
//   stream's tokens in the batch and goes through them in order; the state comes into registers
//   with the first token and leaves behind the last. Blocks share nothing, so that a token's v may
//   be overwritten by its result.
//   conv_step: a thread has a channel, its last inputs and its column of the weight.
//   delta_step: eight lanes have a row of M. Gates (f64, as in ref) are made for up to 128 tokens
//   at once, a thread each; keys and queries wait in shared memory, sixteen tokens at a time.
//   Cost: the states of streams with tokens, read and written once; a step is two sums over eight
//   lanes, which is what a long batch waits for.
#include "cuda/activation.cuh"
#include "cuda/device.cuh"
#include "cuda/kernels.h"

#include <cmath>

namespace rotkv::cuda {
namespace {

constexpr uint32_t k_step_threads = 128;
constexpr uint32_t k_row_lanes = 8;  // share a row of M
constexpr uint32_t k_rows = k_step_threads / k_row_lanes;
constexpr uint32_t k_chunk = 16;  // tokens whose keys and queries lie in shared memory
constexpr uint32_t k_ahead = 8;   // inputs on their way to a thread of conv_step
constexpr uint32_t k_window = 8;  // its last inputs, the newest last
static_assert(k_window == k_most_taps);

template <class E>
__device__ E* element(const TensorView& x, uint32_t i0, uint32_t i1, uint32_t i2) {
    return reinterpret_cast<E*>(x.data + i0 * x.stride[0] + i1 * x.stride[1] + i2 * x.stride[2]);
}

// The stream's tokens among first .. first + k_step_threads, in their order, for all threads of
// the block, which call it together; returns how many.
__device__ uint32_t tokens_of(const TensorView& streams, uint32_t stream, uint32_t first,
                              uint32_t (&list)[k_step_threads]) {
    __shared__ uint32_t of_warp[k_step_threads / k_warp];
    __syncthreads();  // the last list has been read
    const uint32_t t = first + threadIdx.x, warp = threadIdx.x / k_warp;
    const bool mine = t < uint32_t(streams.n[3]) &&
                      reinterpret_cast<const int32_t*>(streams.data)[t] == int32_t(stream);
    const uint32_t votes = __ballot_sync(k_all_lanes, mine);
    if (lane_of_warp() == 0) of_warp[warp] = uint32_t(__popc(votes));
    __syncthreads();
    uint32_t place = uint32_t(__popc(votes & ((1u << lane_of_warp()) - 1))), count = 0;
    for (uint32_t w = 0; w < k_step_threads / k_warp; ++w) {
        if (w < warp) place += of_warp[w];
        count += of_warp[w];
    }
    if (mine) list[place] = t;
    __syncthreads();
    return count;
}

// One thread's channel. Of the window the last `taps` are in use, window[k_window - 1] the newest.
struct Channel {
    float window[k_window], weight[k_window];
    uint32_t unused;  // in front

    __device__ void read(const ConvStepArgs& args, uint32_t stream, uint32_t c) {
        const uint32_t taps = uint32_t(args.weight.n[3]);
        unused = k_window - taps;
        const float* w = element<const float>(args.weight, 0, 0, c);
#pragma unroll
        for (uint32_t j = 0; j < k_window; ++j) {
            if (j >= unused) weight[j] = w[j - unused];
            // the next token moves all of these one to the left
            if (j > unused)
                window[j] = element<const float>(args.state, 0, stream, j - unused - 1)[c];
        }
    }

    __device__ float step(float u) {
        float sum = 0;
#pragma unroll
        for (uint32_t j = 0; j < k_window; ++j) {
            window[j] = j + 1 < k_window ? window[j + 1] : u;
            if (j >= unused) sum = fmaf(weight[j], window[j], sum);
        }
        return silu(sum);
    }

    __device__ void write(const ConvStepArgs& args, uint32_t stream, uint32_t c) const {
#pragma unroll
        for (uint32_t j = 0; j < k_window; ++j) {
            if (j > unused) element<float>(args.state, 0, stream, j - unused - 1)[c] = window[j];
        }
    }
};

__global__ void __launch_bounds__(k_step_threads)
    conv_step_kernel(const __grid_constant__ ConvStepArgs args) {
    __shared__ uint32_t list[k_step_threads];
    const uint32_t c = blockIdx.x * k_step_threads + threadIdx.x, stream = blockIdx.y;
    const bool there = c < uint32_t(args.src.n[3]);
    Channel channel;
    bool read = false;
    for (uint32_t first = 0; first < uint32_t(args.src.n[2]); first += k_step_threads) {
        const uint32_t count = tokens_of(args.stream, stream, first, list);
        if (!there || count == 0) continue;
        if (!read) channel.read(args, stream, c);
        read = true;
        for (uint32_t i = 0; i < count; i += k_ahead) {
            float u[k_ahead];
#pragma unroll
            for (uint32_t a = 0; a < k_ahead; ++a) {
                if (i + a < count) u[a] = element<const float>(args.src, 0, 0, list[i + a])[c];
            }
#pragma unroll
            for (uint32_t a = 0; a < k_ahead; ++a) {
                if (i + a >= count) break;
                element<float>(args.dst, 0, 0, list[i + a])[c] = channel.step(u[a]);
            }
        }
    }
    if (read) channel.write(args, stream, c);
}

// How much of M stays, and how far it goes towards v.
__device__ float2 gates_of(const DeltaStepArgs& args, uint32_t t, uint32_t head) {
    const double alpha = element<const float>(args.alpha, 0, 0, t)[head];
    const double beta = element<const float>(args.beta, 0, 0, t)[head];
    const double decay = element<const float>(args.decay, 0, 0, 0)[head];
    const double x = alpha + double(element<const float>(args.dt, 0, 0, 0)[head]);
    const double softplus = x > 20 ? x : log1p(exp(x));
    return {float(exp(decay * softplus)), float(1.0 / (1.0 + exp(-beta)))};
}

// The sum over the lanes that share a row, for each of them.
__device__ float row_sum(const float4& x) {
    float sum = (x.x + x.y) + (x.z + x.w);
    for (unsigned h = k_row_lanes / 2; h > 0; h /= 2) sum += partner(sum, h);
    return sum;
}

__device__ float4 fma4(const float4& a, const float4& b, const float4& c) {
    return {fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z), fmaf(a.w, b.w, c.w)};
}
__device__ float4 times(float a, const float4& b) { return {a * b.x, a * b.y, a * b.z, a * b.w}; }

// What the block knows of up to k_chunk tokens. R: float4 of a row that a lane has, so that a row
// has room for 4 * 8 R channels; behind the last there are zeros.
template <int R>
struct Chunk {
    float4 k[k_chunk][k_row_lanes * R], q[k_chunk][k_row_lanes * R];
    float v[k_chunk][k_rows];

    __device__ void read(const DeltaStepArgs& args, const uint32_t* tokens, uint32_t count,
                         uint32_t head, uint32_t first_row) {
        constexpr uint32_t width = 4 * k_row_lanes * R;
        const uint32_t d = uint32_t(args.v.n[3]), heads = uint32_t(args.v.n[2]);
        const uint32_t key_heads = uint32_t(args.k.n[2]);
        const bool grouped = args.key_heads == KeyHeads::grouped;
        const uint32_t of = grouped ? head / (heads / key_heads) : head % key_heads;
        for (uint32_t i = threadIdx.x; i < count * width; i += k_step_threads) {
            const uint32_t token = i / width, j = i % width, t = tokens[token];
            const bool there = j < d;
            reinterpret_cast<float*>(k[token])[j] =
                there ? element<const float>(args.k, 0, t, of)[j] : 0.0f;
            reinterpret_cast<float*>(q[token])[j] =
                there ? element<const float>(args.q, 0, t, of)[j] : 0.0f;
        }
        for (uint32_t i = threadIdx.x; i < count * k_rows; i += k_step_threads) {
            const uint32_t token = i / k_rows, row = i % k_rows;
            v[token][row] = first_row + row < d ? element<const float>(args.v, 0, tokens[token],
                                                                       head)[first_row + row]
                                                : 0.0f;
        }
    }
};

// A lane's part of its row through one token; returns M q, the same in all lanes of the row.
template <int R>
__device__ float step_row(float4 (&m)[R], const Chunk<R>& chunk, uint32_t token, uint32_t row,
                          const float2& gates) {
    const uint32_t lane = threadIdx.x % k_row_lanes;
    const float4 *k = chunk.k[token], *q = chunk.q[token];
    float4 found = {}, sum = {};
#pragma unroll
    for (int r = 0; r < R; ++r) found = fma4(m[r], k[lane + k_row_lanes * r], found);
    const float change = gates.y * (chunk.v[token][row] - gates.x * row_sum(found));
    const float4 all = {change, change, change, change};
#pragma unroll
    for (int r = 0; r < R; ++r) {
        m[r] = fma4(all, k[lane + k_row_lanes * r], times(gates.x, m[r]));
        sum = fma4(m[r], q[lane + k_row_lanes * r], sum);
    }
    return row_sum(sum);
}

template <int R>
__global__ void __launch_bounds__(k_step_threads)
    delta_step_kernel(const __grid_constant__ DeltaStepArgs args, float scale, bool vectors) {
    __shared__ uint32_t list[k_step_threads];
    __shared__ float2 gates[k_step_threads];
    __shared__ Chunk<R> chunk;
    const uint32_t d = uint32_t(args.v.n[3]), head = blockIdx.y, stream = blockIdx.z;
    const uint32_t first_row = blockIdx.x * k_rows, row = threadIdx.x / k_row_lanes;
    const uint32_t lane = threadIdx.x % k_row_lanes;
    const bool there = first_row + row < d;  // of the last block; its lanes step zeros along
    float* const state =
        there ? element<float>(args.state, stream, head, first_row + row) : nullptr;
    float4 m[R] = {};
    bool read = false;
    for (uint32_t first = 0; first < uint32_t(args.v.n[1]); first += k_step_threads) {
        const uint32_t count = tokens_of(args.stream, stream, first, list);
        if (count == 0) continue;
        if (threadIdx.x < count) gates[threadIdx.x] = gates_of(args, list[threadIdx.x], head);
        if (!read && there) {
#pragma unroll
            for (int r = 0; r < R; ++r)
                m[r] = load4(state, 4 * (lane + k_row_lanes * r), d, vectors);
        }
        read = true;
        for (uint32_t begin = 0; begin < count; begin += k_chunk) {
            const uint32_t tokens = min(k_chunk, count - begin);
            __syncthreads();  // the chunk before has been used
            chunk.read(args, list + begin, tokens, head, first_row);
            __syncthreads();
            for (uint32_t i = 0; i < tokens; ++i) {
                const float y = scale * step_row<R>(m, chunk, i, row, gates[begin + i]);
                if (!there || lane != 0) continue;
                element<float>(args.dst, 0, list[begin + i], head)[first_row + row] = y;
            }
        }
    }
    if (!read || !there) return;
#pragma unroll
    for (int r = 0; r < R; ++r) store4(state, 4 * (lane + k_row_lanes * r), d, vectors, m[r]);
}

template <int R>
void launch_delta_step(const DeltaStepArgs& args, Stream stream) {
    const int64_t d = args.v.n[3];
    const dim3 blocks(blocks_for(d, k_rows), unsigned(args.v.n[2]), unsigned(args.state.n[0]));
    delta_step_kernel<R><<<blocks, k_step_threads, 0, stream>>>(
        args, float(1.0 / std::sqrt(double(d))), rows_on_16_bytes(args.state));
}

}  // namespace

void conv_step(const ConvStepArgs& args, Stream stream) {
    if (args.src.empty()) return;
    const dim3 blocks(blocks_for(args.src.n[3], k_step_threads), unsigned(args.state.n[1]));
    conv_step_kernel<<<blocks, k_step_threads, 0, stream>>>(args);
    require_launched("conv_step");
}

void delta_step(const DeltaStepArgs& args, Stream stream) {
    if (args.v.empty()) return;
    const int64_t d = args.v.n[3];
    if (d <= 32) {
        launch_delta_step<1>(args, stream);
    } else if (d <= 64) {
        launch_delta_step<2>(args, stream);
    } else if (d <= 128) {
        launch_delta_step<4>(args, stream);
    } else {
        launch_delta_step<8>(args, stream);
    }
    require_launched("delta_step");
}

}  // namespace rotkv::cuda
