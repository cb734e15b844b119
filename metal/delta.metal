// Gated DeltaNet: streams whose past is a state of fixed size. conv_step: a thread has a channel of
// a stream, its last inputs in registers, and goes through the batch. delta_step: a simdgroup has a
// row of a head's matrix M, every 32nd channel a lane's; it finds its stream's tokens in the batch
// and goes through them in order. Nothing is shared, so that a token's v may be overwritten by its
// result. What a token's gates are is made before (delta_gates), in f64, as in ref.
#include "metal/functions.msl"
#include "metal/gating.msl"
#include "metal/instance.msl"
#include "metal/rows.msl"

// y_t = silu(sum_j weight[c][j] u_(t - n + 1 + j)). Of the window the last `taps` are in use.
template <uint N>
[[kernel]] void conv_step(constant metal_args::ConvStep& job [[buffer(0)]],
                          device uchar* dst [[buffer(1)]], device const uchar* src [[buffer(2)]],
                          device const uchar* weight [[buffer(3)]],
                          device uchar* states [[buffer(4)]],
                          device const int* streams [[buffer(5)]],
                          uint3 group [[threadgroup_position_in_grid]],
                          uint thread_ [[thread_index_in_threadgroup]]) {
    const uint c = group.x * k_simdgroups * k_lanes + thread_, first = N - job.taps;
    if (c >= job.channels) return;
    device const float* w = (device const float*)(weight + c * job.weight_stride);
    device uchar* state = states + group.y * job.state_stream;
    float window[N];
    bool any = false;
    for (uint j = 0; j < N; ++j) {
        window[j] =
            j > first ? ((device const float*)(state + (j - first - 1) * job.state_tap))[c] : 0.0f;
    }
    for (uint t = 0; t < job.tokens; ++t) {
        if (streams[t] != int(group.y)) continue;
        any = true;
        const float u = ((device const float*)(src + t * job.src_stride))[c];
        float sum = 0;
        for (uint j = 0; j < N; ++j) {
            window[j] = j + 1 < N ? window[j + 1] : u;
            if (j >= first) sum = fma(w[j - first], window[j], sum);
        }
        ((device float*)(dst + t * job.dst_stride))[c] = gated(sum, {sum, 0});
    }
    for (uint j = first + 1; j < N && any; ++j) {
        ((device float*)(state + (j - first - 1) * job.state_tap))[c] = window[j];
    }
}

ROTKV_INSTANCE("conv_step_4", conv_step<4>)
ROTKV_INSTANCE("conv_step_16", conv_step<16>)

// keep = exp(decay softplus(alpha + dt)), gain = 1 / (1 + exp(-beta)): [T][Hv][2].
kernel void delta_gates(constant metal_args::DeltaGates& job [[buffer(0)]],
                        device float* gates [[buffer(1)]], device const uchar* alpha [[buffer(2)]],
                        device const uchar* beta [[buffer(3)]],
                        device const float* decay [[buffer(4)]],
                        device const float* dt [[buffer(5)]],
                        uint group [[threadgroup_position_in_grid]],
                        uint thread_ [[thread_index_in_threadgroup]]) {
    const uint i = group * k_simdgroups * k_lanes + thread_;
    if (i >= job.tokens * job.heads) return;
    const uint t = i / job.heads, head = i % job.heads;
    const float a = ((device const float*)(alpha + t * job.alpha_stride))[head];
    const float b = ((device const float*)(beta + t * job.beta_stride))[head];
    const F64 x = to_f64(a) + to_f64(dt[head]);
    const F64 soft = order_of(x) > order_of(to_f64(20.0f)) ? x : softplus(x);
    gates[2 * i] = to_f32(exp_of_negative(to_f64(decay[head]) * soft));
    gates[2 * i + 1] = to_f32(sigmoid(to_f64(b)));
}

/// The address of row (t, h).
static inline device const float* row_at(device const uchar* x, constant metal_args::Rows& rows,
                                         uint t, uint h) {
    return (device const float*)(x + t * rows.stride[1] + h * rows.stride[2]);
}

/// A lane's part of a row through one token; M q in every lane.
template <uint R>
static inline float step_row(thread float* m, device const float* k, device const float* q, float v,
                             float keep, float gain, uint d, uint lane) {
    float key[R], found = 0, sum = 0;
    for (uint r = 0; r < R; ++r) {
        const uint c = r * k_lanes + lane;
        key[r] = c < d ? k[c] : 0.0f;
        found += m[r] * key[r];
    }
    const float change = gain * (v - keep * simd_sum(found));
    for (uint r = 0; r < R; ++r) {
        const uint c = r * k_lanes + lane;
        m[r] = keep * m[r] + change * key[r];
        sum += m[r] * (c < d ? q[c] : 0.0f);
    }
    return simd_sum(sum);
}

// M <- keep M;   M <- M + gain (v - M k) k^T;   y = M q / sqrt(D)
template <uint R>
[[kernel]] void delta_step(constant metal_args::DeltaStep& job [[buffer(0)]],
                           device uchar* dst [[buffer(1)]], device const uchar* v [[buffer(2)]],
                           device const uchar* q [[buffer(3)]], device const uchar* k [[buffer(4)]],
                           device uchar* states [[buffer(5)]],
                           device const int* streams [[buffer(6)]],
                           device const float* gates [[buffer(7)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]]) {
    const uint row = group.x * k_simdgroups + simdgroup, head = group.y, stream = group.z;
    if (row >= job.row) return;  // the whole simdgroup
    const uint of = job.grouped != 0 ? head / (job.heads / job.key_heads) : head % job.key_heads;
    device float* state = (device float*)(states + stream * job.state.stride[0] +
                                          head * job.state.stride[1] + row * job.state.stride[2]);
    float m[R];
    bool any = false;
    for (uint r = 0; r < R; ++r) {
        const uint c = r * k_lanes + lane;
        m[r] = c < job.row ? state[c] : 0.0f;
    }
    for (uint t = 0; t < job.tokens; ++t) {
        if (streams[t] != int(stream)) continue;  // the whole simdgroup
        any = true;
        const uint gate = 2 * (t * job.heads + head);
        const float y = step_row<R>(m, row_at(k, job.k, t, of), row_at(q, job.q, t, of),
                                    row_at(v, job.v, t, head)[row], gates[gate], gates[gate + 1],
                                    job.row, lane);
        device uchar* out = dst + t * job.dst.stride[1] + head * job.dst.stride[2];
        if (lane == 0) ((device float*)out)[row] = job.scale * y;
    }
    for (uint r = 0; r < R && any; ++r) {
        const uint c = r * k_lanes + lane;
        if (c < job.row) state[c] = m[r];
    }
}

ROTKV_INSTANCE("delta_step_1", delta_step<1>)
ROTKV_INSTANCE("delta_step_4", delta_step<4>)
ROTKV_INSTANCE("delta_step_8", delta_step<8>)
ROTKV_INSTANCE("delta_step_16", delta_step<16>)
