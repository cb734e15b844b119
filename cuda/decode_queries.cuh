#pragma once
// The queries of decode attention: asked for, rotated, and laid out in shared memory, for all KV
// heads of a block at once; then each warp's as the second operand of products (fragments.cuh), in
// one f16, to which they have been rounded, or in two, which are made when a whole row is there.
// Docs: docs/05-attention.md

#include "cuda/decode_terms.cuh"
#include "cuda/dependent.cuh"

namespace rotkv::cuda::decode {

// Rows of f16 or f32 [KV head of the band][head], so far apart that 4 heads of 4 lanes meet in no
// bank. Four channels lie in the order 0 2 1 3: two registers of a fragment. Where K has codes,
// also CodeConstants' sums of f16: [KV head of the band][block][head]; nobody looks at those of
// heads that are none.
struct QueryRows {
    std::byte *data, *sums;
    uint32_t heads, pitch, sum_bytes, most_rows;
    float constant;

    __device__ QueryRows(const DecodeJob& job, std::byte* memory)
        : data(memory + job.barrier_bytes()),
          sums(memory + job.sums_offset()),
          heads(job.heads),
          pitch(job.query_pitch),
          sum_bytes(job.sum_bytes()),
          most_rows(job.most_rows()),
          constant(f16_to_f32(uint16_t(job.k_codes.constant[0]))) {}
    __device__ uint2* four(uint32_t kv, uint32_t g, uint32_t channel) const {
        return reinterpret_cast<uint2*>(data + (kv * heads + g) * pitch + channel * 2);
    }
    __device__ float4* four_f32(uint32_t kv, uint32_t g, uint32_t channel) const {
        return reinterpret_cast<float4*>(data + (kv * heads + g) * pitch + channel * 4);
    }
    // Rounded to f16, with the sums that are asked for.
    __device__ void store(const DecodeJob& job, const float4& x, bool is_there, uint32_t kv,
                          uint32_t g, uint32_t channel) const {
        const uint2 halves = {halves_of(x.x, x.z), halves_of(x.y, x.w)};
        if (is_there) *four(kv, g, channel) = halves;
        if (job.has_sums()) store_sum(halves, is_there, kv, g, channel);
    }
    // By 8 neighbouring lanes, which hold a block of 32 channels (hadamard.cuh).
    __device__ void store_sum(const uint2& x, bool is_there, uint32_t kv, uint32_t g,
                              uint32_t channel) const {
        const float2 a = __half22float2(halves(x.x)), b = __half22float2(halves(x.y));
        float sum = a.x + a.y + (b.x + b.y);
        for (unsigned h = 1; h < 8; h *= 2) sum += partner(sum, h);
        if (!is_there || channel % 32 != 0) return;
        reinterpret_cast<float*>(sums + kv * sum_bytes)[channel / 32 * most_rows + g] =
            constant * sum;
    }
};

// What a warp rotates: U pieces of R registers at a time, of all that the block's warps share.
template <int U, int R>
struct QueryPieces {
    float4 v[U][R];
    const float* q[U];
    uint32_t begin[U], kv[U], head[U];
    bool is_there[U], is_query[U];

    static __device__ uint32_t all(const DecodeJob& job) {
        return job.band * job.heads * job.k_cut.per_row.d;
    }
    static __device__ uint32_t step(const DecodeJob& job) {
        return U * (blockDim.x >> job.k_cut.lane_bits);
    }

    // Pieces first, first + 1 ...: where they are. The last band, and the last heads of a group,
    // may be none.
    __device__ QueryPieces(const DecodeJob& job, const DecodePlace& at, uint32_t first) {
        const Pieces& cut = job.k_cut;
        const uint32_t group = threadIdx.x >> cut.lane_bits;
        const uint32_t lane = threadIdx.x - (group << cut.lane_bits);
        const uint32_t first_kv = at.kv - at.head_of_band;
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const uint32_t piece = first + u * (blockDim.x >> cut.lane_bits) + group;
            const uint32_t row = cut.per_row.of(piece);
            kv[u] = job.by_heads.of(row);
            head[u] = row - kv[u] * job.heads;
            begin[u] = cut.begin_of(piece, row) + 4 * lane;
            is_there[u] = piece < all(job);
            is_query[u] = is_there[u] && first_kv + kv[u] < job.kv_heads && head[u] < at.block_rows;
            const RowOf of = at.row(job, first_kv + kv[u], head[u]);
            q[u] = reinterpret_cast<const float*>(job.q + of.t * job.q_token + of.h * job.q_head);
        }
    }

    __device__ void load(const DecodeJob& job) {
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const bool vectors = reinterpret_cast<uintptr_t>(q[u]) % 16 == 0;
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const uint32_t channel = begin[u] + 4 * job.k_cut.lanes * j;
                v[u][j] = load4(q[u], channel, is_query[u] ? job.d_k : 0, vectors);
            }
        }
    }

    // 1 rotate the queries.
    template <int Terms, class Rows>
    __device__ void store(const DecodeJob& job, const Rows& rows) {
        rotate(v, job.k_cut, begin, false);
#pragma unroll
        for (int u = 0; u < U; ++u) {
#pragma unroll
            for (int j = 0; j < R; ++j) {
                const uint32_t channel = begin[u] + 4 * job.k_cut.lanes * j;
                const bool is_on = is_there[u] && channel < job.d_k;
                const float4& x = v[u][j];
                if constexpr (Terms == 2) {
                    if (is_on) *rows.four_f32(kv[u], head[u], channel) = x;
                } else {
                    rows.store(job, x, is_on, kv[u], head[u], channel);
                }
            }
        }
    }
};

// Which cells there are is known before earlier kernels have ended; then everything is asked for at
// once, queries first. In the end their rows lie in shared memory, and what each of them sees.
template <int U, int R, int Terms, class Tiles, class Rows>
__device__ void begin(const DecodeJob& job, DecodePlace& at, Tiles& tiles, std::byte* memory,
                      const Rows& rows) {
    QueryPieces<U, R> pieces(job, at, 0);
    at.load(job);
    tiles.find_cells();
    wait_for_earlier();
    pieces.load(job);
    tiles.start();
    let_next_come();
    pieces.template store<Terms>(job, rows);
    if (threadIdx.x < job.most_rows()) {
        Seen* const limits = reinterpret_cast<Seen*>(memory + job.limits_offset());
        limits[threadIdx.x] = at.seen_by(job, threadIdx.x);
    }
    for (uint32_t first = pieces.step(job); first < pieces.all(job); first += pieces.step(job)) {
        QueryPieces<U, R> more(job, at, first);
        more.load(job);
        more.template store<Terms>(job, rows);
    }
    __syncthreads();
}

template <int U, int R, int Terms, class Tiles>
__device__ void begin(const DecodeJob& job, DecodePlace& at, Tiles& tiles, std::byte* memory) {
    begin<U, R, Terms>(job, at, tiles, memory, QueryRows(job, memory));
}

// The lane's four channels of every 16, of head g; heads that are none are 0.
template <int Steps>
__device__ void load_fragments(Query<1, Steps>& q, const DecodeJob&, const DecodePlace& at,
                               const QueryRows& rows, const CodeConstants&) {
    const uint32_t g = lane_of_warp() / 4, i = lane_of_warp() % 4 * 4;
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        uint2 x = {0, 0};
        if (g < at.heads) x = *rows.four(at.head_of_band, g, 16 * step + i);
        q.x[0][step][0] = x.x;
        q.x[0][step][1] = x.y;
    }
}

__device__ inline float sum_of(const float4& x) { return x.x + x.y + (x.z + x.w); }

// In two terms, with the sums of blocks.
template <int Steps>
__device__ void load_fragments(Query<2, Steps>& q, const DecodeJob& job, const DecodePlace& at,
                               const QueryRows& rows, const CodeConstants& constants) {
    const uint32_t g = lane_of_warp() / 4, i = lane_of_warp() % 4 * 4;
    float4 x[Steps];
    float most = 0;
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        x[step] = {0, 0, 0, 0};
        if (g < at.heads) x[step] = *rows.four_f32(at.head_of_band, g, 16 * step + i);
        most = largest(most, x[step].x, x[step].y, x[step].z, x[step].w);
    }
    const Shift shift(most, most);
    const float up = shift.up(0);
    q.unit[0] = shift.down(0, 0);
    q.unit[1] = shift.down(1, 0);
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
        float4& one = x[step];
        one = {up * one.x, up * one.y, up * one.z, up * one.w};
        const TwoTerms even = two_terms(one.x, one.z, k_low), odd = two_terms(one.y, one.w, k_low);
        q.x[0][step][0] = even.high;
        q.x[0][step][1] = odd.high;
        q.x[1][step][0] = even.low;
        q.x[1][step][1] = odd.low;
    }
    if (!job.has_sums()) return;
#pragma unroll
    for (int b = 0; b < k_blocks_of<Steps>; ++b) {
        float sum = sum_of(x[2 * b]) + sum_of(x[2 * b + 1]);
        for (unsigned h = 1; h < 4; h *= 2) sum += partner(sum, h);
        if (i == 0) reinterpret_cast<float*>(constants.k)[b * k_most_heads + g] = sum;
    }
    __syncwarp();
}

}  // namespace rotkv::cuda::decode
