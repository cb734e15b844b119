// attention of many tokens in f16 precision, on simdgroup matrices. A row is a query head of a
// token; a threadgroup has 32 rows of one KV head, each of its simdgroups eight, and all cells of a
// part, a tile at a time: its keys and values become f16 in threadgroup memory once for all rows.
// Sums are f32. A row's query is scaled by a power of two, so that f16 holds it; a score or an
// output that is no number says that f16 did not hold a key or a value: attention's kernel of f32
// computes such heads again. Queries come rotated and outputs leave so.
#include "metal/attention.msl"
#include "metal/instance.msl"

constant constexpr uint k_rows = 8;  // of a simdgroup

/// Threadgroup memory, by simdgroups where it is not shared.
template <uint D, uint C>
struct Room {
    threadgroup half *k, *v;     // [C][D]; at first both are q [4][8][D]
    threadgroup float* scores;   // [8][C]
    threadgroup half* p;         // [8][C]
    threadgroup float* factors;  // [8][8], of which the diagonal counts
    threadgroup uint* seen;      // [2][4][C]: a bit for each row of a simdgroup
};

template <uint D, uint C>
static inline Room<D, C> room_of(threadgroup float* shared, uint simdgroup) {
    Room<D, C> room;
    room.k = (threadgroup half*)shared;
    room.v = room.k + C * D;
    threadgroup float* rest = shared + C * D;
    room.seen = (threadgroup uint*)rest;
    rest += 2 * k_simdgroups * C + simdgroup * (k_rows * C / 2 * 3 + k_rows * k_rows);
    room.scores = rest;
    room.p = (threadgroup half*)(rest + k_rows * C);
    room.factors = rest + k_rows * C / 2 * 3;
    return room;
}

/// A row of the threadgroup: where its query is and what it sees. Of none, the stream is k_none.
constant int k_none = 0x7FFFFFFF;
struct Row {
    uint token, head;
    int stream, position;
};
static inline Row row_of(constant metal_args::Attention& job, uint kv, uint i,
                         device const int* q_stream, device const int* q_position) {
    const uint of_group = job.heads / job.kv_heads;
    if (i >= job.tokens * of_group) return {0, 0, k_none, -1};
    const uint t = i / of_group;
    return {t, kv * of_group + i % of_group, q_stream[t], q_position[t]};
}

/// 2^n that brings a magnitude to 2^13 .. 2^14, as far as f32 has such a factor.
static inline float power_to(float magnitude) {
    const int exponent = int(as_type<uint>(magnitude) >> 23) - 127;
    return as_type<float>(uint(min(100, max(-100, 13 - exponent)) + 127) << 23);
}

/// A simdgroup's queries as f16, in `q` [8][D]; what a product of this lane's row is to be
/// multiplied by.
template <uint D>
static inline float load_queries(threadgroup half* q, constant metal_args::Attention& job,
                                 device const uchar* queries, uint kv, uint first,
                                 device const int* q_stream, device const int* q_position,
                                 uint lane) {
    float unit = 0;
    for (uint r = 0; r < k_rows; ++r) {
        const Row row = row_of(job, kv, first + r, q_stream, q_position);
        device const uchar* from =
            queries + row.token * job.q.stride[1] + row.head * job.q.stride[2];
        float x[D / k_lanes], largest = 0;
        Part<F32, D / k_lanes>::load(x, from, 0, row.stream != k_none ? job.d_k : 0, lane);
        for (uint j = 0; j < D / k_lanes; ++j) largest = max(largest, fabs(x[j]));
        const float power = power_to(simd_max(largest));
        for (uint j = 0; j < D / k_lanes; ++j) {
            q[r * D + j * k_lanes + lane] = half(x[j] * power);
        }
        if (r == lane / 4) unit = job.scale / power;
    }
    return unit;
}

/// Bits of this simdgroup's rows that see a cell of the stream.
static inline uint seen_by(constant metal_args::Attention& job, thread const Row* rows, int stream,
                           int64_t cell) {
    uint bits = 0;
    for (uint r = 0; r < k_rows; ++r) {
        const bool sees = rows[r].stream == stream && takes_part(job, cell, rows[r].position);
        bits |= sees ? 1u << r : 0u;
    }
    return bits;
}

/// Cells of a tile that some row sees, as f16; the others are 0. A simdgroup takes every fourth.
template <uint D, uint C>
static inline void load_tile(thread const Room<D, C>& room, threadgroup const uint* seen,
                             constant metal_args::Attention& job, device const uchar* keys,
                             device const uchar* values, uint simdgroup, uint lane) {
    for (uint c = simdgroup; c < C; c += k_simdgroups) {
        uint bits = 0;
        for (uint s = 0; s < k_simdgroups; ++s) bits |= seen[s * C + c];
        float k[D / k_lanes], v[D / k_lanes];
        for (uint j = 0; j < D / k_lanes; ++j) k[j] = v[j] = 0;
        if (bits != 0) {
            load_cached<D / k_lanes>(k, job.k_type, keys + c * job.k_cache.stride[1], job.d_k,
                                     lane);
            load_cached<D / k_lanes>(v, job.v_type, values + c * job.v_cache.stride[1], job.d_v,
                                     lane);
        }
        for (uint j = 0; j < D / k_lanes; ++j) {
            room.k[c * D + j * k_lanes + lane] = half(k[j]);
            room.v[c * D + j * k_lanes + lane] = half(v[j]);
        }
    }
}

/// scores = q k^T of a tile, not yet scaled.
template <uint D, uint C>
static inline void multiply_keys(thread const Room<D, C>& room, thread const simdgroup_half8x8* q) {
    for (uint n = 0; n < C; n += 8) {
        simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
        for (uint j = 0; j < D; j += 8) {
            simdgroup_half8x8 k;
            simdgroup_load(k, room.k + n * D + j, D, 0, true);
            simdgroup_multiply_accumulate(sum, q[j / 8], k, sum);
        }
        simdgroup_store(sum, room.scores + n, C);
    }
}

/// Of this lane's row: sums are in units of exp(largest). Four lanes share a row.
struct RowSum {
    float largest, sum;
};
static inline float max_of_row(float x) {
    x = max(x, simd_shuffle_xor(x, 1));
    return max(x, simd_shuffle_xor(x, 2));
}
static inline float sum_of_row(float x) {
    x += simd_shuffle_xor(x, 1);
    return x + simd_shuffle_xor(x, 2);
}

/// Scores become probabilities; what sums before shrink by. An infinite score becomes a NaN before
/// it is capped or hidden: f16 did not hold a key.
template <uint D, uint C>
static inline float softmax_tile(thread const Room<D, C>& room, threadgroup const uint* seen,
                                 thread RowSum& row, constant metal_args::Attention& job,
                                 float unit, uint lane) {
    float x[C / 4], largest = -INFINITY;
    for (uint i = 0; i < C / 4; ++i) {
        const uint c = i * 4 + lane % 4;
        const float score = room.scores[lane / 4 * C + c] * unit;
        const float capped = soft_capped(score + score * 0.0f, job);
        x[i] = (seen[c] >> lane / 4 & 1) != 0 ? capped : -INFINITY;
        largest = max(largest, x[i]);
    }
    const float before = row.largest;
    row.largest = max(before, max_of_row(largest));
    float sum = 0;
    for (uint i = 0; i < C / 4; ++i) {
        // a NaN stays in its row's sum: in p it would reach the other rows when sums shrink
        const float p = exp_f32(x[i] - unit_of(row.largest));
        room.p[lane / 4 * C + i * 4 + lane % 4] = isnan(p) ? half(0.0f) : half(p);
        sum += p;
    }
    const float factor = exp_f32(before - unit_of(row.largest));
    row.sum = row.sum * factor + sum_of_row(sum);
    for (uint i = 0; i < 2; ++i) {
        const uint c = lane % 4 * 2 + i;
        room.factors[lane / 4 * 8 + c] = c == lane / 4 ? factor : 0.0f;
    }
    return factor;
}

/// out = factors out + p v
template <uint D, uint C>
static inline void add_values(thread const Room<D, C>& room, thread simdgroup_float8x8* out,
                              bool shrink) {
    if (shrink) {
        simdgroup_float8x8 factors;
        simdgroup_load(factors, room.factors, 8);
        for (uint j = 0; j < D / 8; ++j) simdgroup_multiply(out[j], factors, out[j]);
    }
    for (uint n = 0; n < C; n += 8) {
        simdgroup_half8x8 p, v;
        simdgroup_load(p, room.p + n, C);
        for (uint j = 0; j < D; j += 8) {
            simdgroup_load(v, room.v + n * D + j, D);
            simdgroup_multiply_accumulate(out[j / 8], p, v, out[j / 8]);
        }
    }
}

/// Divided and stored, eight channels at a time, with the sink, which the first part counts.
template <uint D, uint C>
static inline void put_rows(thread const Room<D, C>& room, thread simdgroup_float8x8* out,
                            RowSum sums, constant metal_args::Attention& job, Row row,
                            device uchar* dst, device uchar* lse, device const float* sinks,
                            bool sunk, uint lane) {
    const float sink = sunk && row.stream != k_none ? sinks[row.head] : -INFINITY;
    const float largest = max(sums.largest, sink), unit = unit_of(largest);
    const float own = exp_f32(sums.largest - unit);
    const float all = sums.sum * own + exp_f32(sink - unit);
    device float* y =
        (device float*)(dst + row.token * job.dst.stride[1] + row.head * job.dst.stride[2]);
    for (uint j = 0; j < D; j += 8) {
        simdgroup_store(out[j / 8], room.scores, 8);
        simdgroup_barrier(mem_flags::mem_threadgroup);  // the rows' eight channels are there
        for (uint i = 0; i < 2; ++i) {
            const uint c = lane % 4 * 2 + i;
            const float o = room.scores[lane / 4 * 8 + c] * own;
            if (row.stream != k_none && j + c < job.d_v) y[j + c] = all == 0 ? 0.0f : o / all;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);  // they have been read
    }
    if (job.lse == 0 || lane % 4 != 0 || row.stream == k_none) return;
    ((device float*)(lse + row.token * job.lse_stride))[row.head] = unit + log_f32(all);
}

/// The cells of one stream's part, tile by tile.
template <uint D, uint C>
static inline void add_tiles(thread const Room<D, C>& room, thread const simdgroup_half8x8* q,
                             thread simdgroup_float8x8* out, thread RowSum& sums,
                             constant metal_args::Attention& job, thread const Row* rows,
                             int stream, device const uchar* keys, device const uchar* values,
                             device const int* positions, uint first, uint end, float unit,
                             thread uint& turn, uint simdgroup, uint lane) {
    for (uint tile = first; tile < end; tile += C) {
        threadgroup uint* seen = room.seen + turn % 2 * k_simdgroups * C;
        turn += 1;
        const bool there = lane < C && tile + lane < end;
        const uint bits = there ? seen_by(job, rows, stream, positions[tile + lane]) : 0u;
        if (lane < C) seen[simdgroup * C + lane] = bits;
        const bool is_seen = simd_or(bits) != 0;
        threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tile is done, all have looked
        uint by_any = 0;
        for (uint s = 0; s < k_simdgroups && lane < C; ++s) by_any |= seen[s * C + lane];
        if (simd_or(by_any) == 0) continue;  // the whole threadgroup
        load_tile<D, C>(room, seen, job, keys + tile * job.k_cache.stride[1],
                        values + tile * job.v_cache.stride[1], simdgroup, lane);
        threadgroup_barrier(mem_flags::mem_threadgroup);  // the tile is there
        if (!is_seen) continue;                           // the whole simdgroup
        multiply_keys<D, C>(room, q);
        simdgroup_barrier(mem_flags::mem_threadgroup);  // scores are there
        const float factor = softmax_tile<D, C>(room, seen + simdgroup * C, sums, job, unit, lane);
        simdgroup_barrier(mem_flags::mem_threadgroup);  // probabilities are there
        add_values<D, C>(room, out, simd_any(factor != 1.0f));
    }
}

template <uint D, uint C>
[[kernel]] void prefill(
    constant metal_args::Attention& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
    device uchar* lse [[buffer(2)]], device const uchar* q [[buffer(3)]],
    device const uchar* k_cache [[buffer(4)]], device const uchar* v_cache [[buffer(5)]],
    device const uchar* position [[buffer(6)]], device const int* used [[buffer(7)]],
    device const int* q_stream [[buffer(8)]], device const int* q_position [[buffer(9)]],
    device const float* sinks [[buffer(10)]], threadgroup float* shared [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    const uint kv = group.x % job.kv_heads, part = group.y;
    const uint block = group.x / job.kv_heads * k_simdgroups * k_rows;
    const uint first_row = block + simdgroup * k_rows;
    const Room<D, C> room = room_of<D, C>(shared, simdgroup);

    // 1 the queries, which hadamard has rotated
    threadgroup half* queries = room.k + simdgroup * k_rows * D;
    const float unit = load_queries<D>(queries, job, q, kv, first_row, q_stream, q_position, lane);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_half8x8 factors[D / 8];
    simdgroup_float8x8 out[D / 8];
    for (uint j = 0; j < D / 8; ++j) {
        simdgroup_load(factors[j], queries + j * 8, D);
        out[j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    Row rows[k_rows];
    for (uint r = 0; r < k_rows; ++r) {
        rows[r] = row_of(job, kv, first_row + r, q_stream, q_position);
    }
    const Row of_lane = row_of(job, kv, block + lane, q_stream, q_position);
    RowSum sums = {-INFINITY, 0};

    // 2 to 4 scores, softmax and sum, stream by stream: a lane looks at a row of the threadgroup
    uint turn = 0;
    int stream = -1;
    for (;;) {
        stream = simd_min(of_lane.stream > stream ? of_lane.stream : k_none);
        if (stream == k_none) break;  // the whole threadgroup
        add_tiles<D, C>(
            room, factors, out, sums, job, rows, stream,
            k_cache + stream * job.k_cache.stride[0] + kv * job.k_cache.stride[2],
            v_cache + stream * job.v_cache.stride[0] + kv * job.v_cache.stride[2],
            (device const int*)(position + stream * job.position_stride), part * job.cells_of_part,
            min(uint(used[stream]), (part + 1) * job.cells_of_part), unit, turn, simdgroup, lane);
    }
    put_rows<D, C>(room, out, sums, job,
                   row_of(job, kv, first_row + lane / 4, q_stream, q_position),
                   dst + part * job.part_stride, lse + part * job.lse_part_stride, sinks,
                   job.sinks != 0 && part == 0, lane);
}

ROTKV_INSTANCE("prefill_64", prefill<64, 32>)
ROTKV_INSTANCE("prefill_128", prefill<128, 32>)
ROTKV_INSTANCE("prefill_256", prefill<256, 16>)
