// attention: a threadgroup for each token, KV head and up to four of the query heads that share it.
// Its simdgroups take cells in turns; a cell's key and value are unpacked once for all these heads,
// a lane having every 32nd channel. Softmax goes along: what was summed is counted in units of
// exp(the largest score so far). Queries come rotated and outputs leave so: hadamard runs before
// and after. Where there are few threadgroups, cells are split too, and join_parts makes one of the
// parts, as merge does. In f16 precision many tokens are prefill.metal's; what f16 did not hold is
// computed once more here (repair).
#include "metal/attention.msl"
#include "metal/instance.msl"

constant constexpr uint k_heads = 4;  // query heads of a threadgroup

/// One simdgroup's cells, for one query head: its softmax and its sum of p v.
template <uint R>
struct State {
    float q[R], out[R];
    Softmax softmax;
};

/// One cell more. Every lane has the whole score.
template <uint R>
static inline void add_cell(thread State<R>& state, thread const float* k, thread const float* v,
                            constant metal_args::Attention& job) {
    float product = 0;
    for (uint r = 0; r < R; ++r) product += state.q[r] * k[r];
    const float score = soft_capped(simd_sum(product) * job.scale, job);
    const float before = state.softmax.largest, largest = before < score ? score : before;
    const float factor = exp_f32(before - unit_of(largest)), p = exp_f32(score - unit_of(largest));
    state.softmax = {largest, state.softmax.sum * factor + p};
    for (uint r = 0; r < R; ++r) state.out[r] = state.out[r] * factor + p * v[r];
}

/// The simdgroups' softmaxes as one, with the sink.
static inline Softmax joined_softmax(threadgroup float* shared, uint head, bool sunk, float sink) {
    Softmax all = {sunk ? sink : -INFINITY, 0};
    for (uint s = 0; s < k_simdgroups; ++s) {
        const float largest = shared[(s * k_heads + head) * 2];
        if (all.largest < largest) all.largest = largest;
    }
    const float unit = unit_of(all.largest);
    if (sunk) all.sum = exp_f32(sink - unit);
    for (uint s = 0; s < k_simdgroups; ++s) {
        all.sum +=
            shared[(s * k_heads + head) * 2 + 1] * exp_f32(shared[(s * k_heads + head) * 2] - unit);
    }
    return all;
}

/// The cells of one simdgroup: every k_simdgroups-th of the part.
template <uint R>
static inline void add_cells(thread State<R>* states, uint heads,
                             constant metal_args::Attention& job, device const uchar* keys,
                             device const uchar* values, device const int* positions, int query,
                             uint first, uint end, uint lane) {
    for (uint c = first; c < end; c += k_simdgroups) {
        if (!takes_part(job, positions[c], query)) continue;  // the whole simdgroup
        float k[R], v[R];
        load_cached<R>(k, job.k_type, keys + c * job.k_cache.stride[1], job.d_k, lane);
        load_cached<R>(v, job.v_type, values + c * job.v_cache.stride[1], job.d_v, lane);
        for (uint g = 0; g < k_heads; ++g) {
            if (g < heads) add_cell<R>(states[g], k, v, job);
        }
    }
}

/// Of one head: what the simdgroups have summed is weighed, put together and divided.
/// sums: R * k_lanes numbers for each simdgroup.
template <uint R>
static inline void put_output(device float* y, thread const State<R>& state, Softmax all,
                              threadgroup float* sums, uint d, uint simdgroup, uint lane) {
    const float own = exp_f32(state.softmax.largest - unit_of(all.largest));
    for (uint r = 0; r < R; ++r) {
        sums[(simdgroup * R + r) * k_lanes + lane] = state.out[r] * own;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the sums of this head are there
    for (uint c = simdgroup * k_lanes + lane; c < d; c += k_simdgroups * k_lanes) {
        float sum = 0;
        for (uint s = 0; s < k_simdgroups; ++s) sum += sums[s * R * k_lanes + c];
        y[c] = all.sum == 0 ? 0.0f : sum / all.sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // they have been read
}

/// Are the outputs of all these heads numbers? Every lane knows.
static inline bool are_finite(device const uchar* y, int64_t stride, uint heads, uint d,
                              uint lane) {
    bool finite = true;
    for (uint g = 0; g < heads; ++g) {
        device const float* row = (device const float*)(y + g * stride);
        for (uint c = lane; c < d; c += k_lanes) finite = finite && isfinite(row[c]);
    }
    return simd_all(finite);
}

template <uint R>
[[kernel]] void attention(
    constant metal_args::Attention& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
    device uchar* lse [[buffer(2)]], device const uchar* q [[buffer(3)]],
    device const uchar* k_cache [[buffer(4)]], device const uchar* v_cache [[buffer(5)]],
    device const uchar* position [[buffer(6)]], device const int* used [[buffer(7)]],
    device const int* q_stream [[buffer(8)]], device const int* q_position [[buffer(9)]],
    device const float* sinks [[buffer(10)]], threadgroup float* shared [[threadgroup(0)]],
    uint3 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    const uint of_group = job.heads / job.kv_heads, bands = (of_group + k_heads - 1) / k_heads;
    const uint band = group.x % bands, kv = group.x / bands % job.kv_heads;
    const uint t = group.x / bands / job.kv_heads, part = group.y;
    const uint first_head = kv * of_group + band * k_heads;
    const uint heads = min(k_heads, of_group - band * k_heads);
    const int stream = q_stream[t];
    device uchar* y = dst + part * job.part_stride + t * job.dst.stride[1];
    if (job.repair != 0 &&
        are_finite(y + first_head * job.dst.stride[2], job.dst.stride[2], heads, job.d_v, lane)) {
        return;  // the whole threadgroup, whose simdgroups read the same
    }

    // 1 the queries, which hadamard has rotated
    State<R> states[k_heads];
    for (uint g = 0; g < k_heads; ++g) {
        device const uchar* row = q + t * job.q.stride[1] + (first_head + g) * job.q.stride[2];
        states[g].softmax = {-INFINITY, 0};
        for (uint r = 0; r < R; ++r) states[g].out[r] = states[g].q[r] = 0;
        if (g < heads) Part<F32, R>::load(states[g].q, row, 0, job.d_k, lane);
    }

    // 2 to 4 scores, softmax and sum, cell by cell
    add_cells<R>(states, heads, job,
                 k_cache + stream * job.k_cache.stride[0] + kv * job.k_cache.stride[2],
                 v_cache + stream * job.v_cache.stride[0] + kv * job.v_cache.stride[2],
                 (device const int*)(position + stream * job.position_stride), q_position[t],
                 part * job.cells_of_part + simdgroup,
                 min(uint(used[stream]), (part + 1) * job.cells_of_part), lane);

    // the simdgroups' softmaxes and sums to one
    for (uint g = 0; g < k_heads && lane == 0; ++g) {
        shared[(simdgroup * k_heads + g) * 2] = states[g].softmax.largest;
        shared[(simdgroup * k_heads + g) * 2 + 1] = states[g].softmax.sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // every simdgroup's softmax is there
    for (uint g = 0; g < heads; ++g) {
        const uint head = first_head + g;
        const bool sunk = job.sinks != 0 && part == 0;
        const Softmax all = joined_softmax(shared, g, sunk, sunk ? sinks[head] : 0.0f);
        put_output<R>((device float*)(y + head * job.dst.stride[2]), states[g], all,
                      shared + k_simdgroups * k_heads * 2, job.d_v, simdgroup, lane);
        if (job.lse != 0 && simdgroup == 0 && lane == 0) {
            device uchar* logs = lse + part * job.lse_part_stride + t * job.lse_stride;
            ((device float*)logs)[head] = unit_of(all.largest) + log_f32(all.sum);
        }
    }
}

ROTKV_INSTANCE("attention_2", attention<2>)
ROTKV_INSTANCE("attention_4", attention<4>)
ROTKV_INSTANCE("attention_8", attention<8>)
ROTKV_INSTANCE("attention_18", attention<18>)

// One simdgroup for each row. Units are those of the largest log; a part without cells weighs 0.
kernel void join_parts(constant metal_args::JoinParts& job [[buffer(0)]],
                       device uchar* dst [[buffer(1)]], device uchar* lse [[buffer(2)]],
                       device const float* parts [[buffer(3)]],
                       device const float* logs [[buffer(4)]],
                       uint group [[threadgroup_position_in_grid]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    const uint rows = job.tokens * job.heads, i = group * k_simdgroups + simdgroup;
    if (i >= rows) return;  // the whole simdgroup
    const uint t = i / job.heads, head = i % job.heads;
    float largest = -INFINITY, sum = 0;
    for (uint p = 0; p < job.parts; ++p) largest = max(largest, logs[p * rows + i]);
    const float unit = unit_of(largest);
    for (uint p = 0; p < job.parts; ++p) sum += exp_f32(logs[p * rows + i] - unit);
    device float* y = (device float*)(dst + t * job.dst.stride[1] + head * job.dst.stride[2]);
    for (uint c = lane; c < job.row; c += k_lanes) {
        float of_parts = 0;
        for (uint p = 0; p < job.parts; ++p) {
            const float weight = exp_f32(logs[p * rows + i] - unit);
            of_parts += weight * parts[ulong(p * rows + i) * job.row + c];
        }
        y[c] = sum == 0 ? 0.0f : of_parts / sum;
    }
    if (job.lse != 0 && lane == 0) {
        ((device float*)(lse + t * job.lse_stride))[head] = unit + log_f32(sum);
    }
}

// y = exp(lse_a - lse) a + exp(lse_b - lse) b, lse = log(exp(lse_a) + exp(lse_b))
kernel void merge(constant metal_args::Merge& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                  device uchar* lse [[buffer(2)]], device const uchar* a [[buffer(3)]],
                  device const uchar* b [[buffer(4)]], device const uchar* lse_a [[buffer(5)]],
                  device const uchar* lse_b [[buffer(6)]],
                  uint group [[threadgroup_position_in_grid]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                  uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.simdgroups) return;  // the whole simdgroup
    const uint t = i / job.heads, head = i % job.heads;
    const float log_a = ((device const float*)(lse_a + t * job.lse_a_stride))[head];
    const float log_b = ((device const float*)(lse_b + t * job.lse_b_stride))[head];
    const bool none = log_a == -INFINITY && log_b == -INFINITY;
    const float unit = log_a < log_b ? log_b : log_a;
    const float exp_a = none ? 0.0f : exp_f32(log_a - unit);
    const float exp_b = none ? 0.0f : exp_f32(log_b - unit), sum = exp_a + exp_b;
    device const float* x = (device const float*)(a + t * job.a.stride[1] + head * job.a.stride[2]);
    device const float* z = (device const float*)(b + t * job.b.stride[1] + head * job.b.stride[2]);
    device float* y = (device float*)(dst + t * job.dst.stride[1] + head * job.dst.stride[2]);
    for (uint c = lane; c < job.row; c += k_lanes) {
        y[c] = none ? 0.0f : (exp_a * x[c] + exp_b * z[c]) / sum;
    }
    simdgroup_barrier(mem_flags::mem_device);  // lse may be lse_a, which all lanes have read now
    if (lane == 0) ((device float*)(lse + t * job.lse_stride))[head] = unit + log_f32(sum);
}
