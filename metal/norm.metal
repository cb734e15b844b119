// rms_norm, layer_norm: one threadgroup for each row, its simdgroups share out the channels.
// scale, act_mul, add: one simdgroup for each 128 channels of a row.
#include "metal/functions.msl"
#include "metal/threadgroup_sum.msl"

constant uint k_threads = k_simdgroups * k_lanes;
constant uint k_part = 128;  // channels of a simdgroup

/// A power of two that brings the largest magnitude near 1, so that squares stay numbers of f32; no
/// more than 2^60, so that epsilon does too.
static inline float scale_of(float largest) {
    const int exponent = int(as_type<uint>(largest) >> 23) - 127;
    return as_type<float>(uint(min(60, max(-126, -exponent)) + 127) << 23);
}

static inline float largest_of(device const float* x, uint n, threadgroup float* shared,
                               uint thread_, uint simdgroup, uint lane) {
    float largest = 0;
    for (uint c = thread_; c < n; c += k_threads) largest = max(largest, fabs(x[c]));
    return threadgroup_max(largest, shared, simdgroup, lane);
}

// y = x / sqrt(mean(x^2) + epsilon) * weight
kernel void rms_norm(constant metal_args::Norm& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                     device const uchar* src [[buffer(2)]],
                     device const float* weight [[buffer(3)]],
                     threadgroup float* shared [[threadgroup(0)]],
                     uint row [[threadgroup_position_in_grid]],
                     uint thread_ [[thread_index_in_threadgroup]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]]) {
    const uint d = job.rows.row, n1 = job.rows.n1, n2 = job.rows.n2;
    device const float* x = (device const float*)(src + row_offset(job.rows.src, row, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, row, n1, n2));
    const float s = scale_of(largest_of(x, d, shared, thread_, simdgroup, lane));
    float squares = 0;
    for (uint c = thread_; c < d; c += k_threads) squares += (x[c] * s) * (x[c] * s);
    const float mean = threadgroup_sum(squares, shared, simdgroup, lane) / float(d);
    const float root = 1.0f / precise::sqrt(mean + job.epsilon * s * s);
    for (uint c = thread_; c < d; c += k_threads) {
        y[c] = x[c] * s * root * (job.weighted != 0 ? weight[c] : 1.0f);
    }
}

// y = (x - m) / sqrt(mean((x - m)^2) + epsilon) * weight, m = mean(x)
kernel void layer_norm(constant metal_args::Norm& job [[buffer(0)]],
                       device uchar* dst [[buffer(1)]], device const uchar* src [[buffer(2)]],
                       device const float* weight [[buffer(3)]],
                       threadgroup float* shared [[threadgroup(0)]],
                       uint row [[threadgroup_position_in_grid]],
                       uint thread_ [[thread_index_in_threadgroup]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    const uint d = job.rows.row, n1 = job.rows.n1, n2 = job.rows.n2;
    device const float* x = (device const float*)(src + row_offset(job.rows.src, row, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, row, n1, n2));
    const float s = scale_of(largest_of(x, d, shared, thread_, simdgroup, lane));
    float numbers = 0, squares = 0;
    for (uint c = thread_; c < d; c += k_threads) numbers += x[c] * s;
    const float mean = threadgroup_sum(numbers, shared, simdgroup, lane) / float(d);
    for (uint c = thread_; c < d; c += k_threads) {
        squares += (x[c] * s - mean) * (x[c] * s - mean);
    }
    const float variance = threadgroup_sum(squares, shared, simdgroup, lane) / float(d);
    const float root = 1.0f / precise::sqrt(variance + job.epsilon * s * s);
    for (uint c = thread_; c < d; c += k_threads) {
        y[c] = (x[c] * s - mean) * root * (job.weighted != 0 ? weight[c] : 1.0f);
    }
}

// y = (scale factor[row]) x
kernel void scale(constant metal_args::Scale& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                  device const uchar* src [[buffer(2)]], device const float* factor [[buffer(3)]],
                  device const int* row_of [[buffer(4)]],
                  uint group [[threadgroup_position_in_grid]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                  uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.rows.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.rows.parts, n1 = job.rows.n1, n2 = job.rows.n2;
    const uint first = i % job.rows.parts * k_part, end = min(first + k_part, job.rows.row);
    device const float* x = (device const float*)(src + row_offset(job.rows.src, row, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, row, n1, n2));
    const float by = job.by_row != 0 ? job.scale * factor[row_of[row / n2 % n1]] : job.scale;
    for (uint c = first + lane; c < end; c += k_lanes) y[c] = by * x[c];
}

/// sqrt(8 / pi) (g + 0.044715 g^3), which exp turns every error of into one of the result.
static inline TwoFloats gelu_argument(float g) {
    // the constants in two floats each: sqrt(8 / pi) and sqrt(8 / pi) 0.044715
    const float a_high = 1.5957692f, a_low = -4.534068e-8f;
    const float b_high = 0.071354814f, b_low = 2.3988325e-9f;
    const TwoFloats square = product(g, g), by_b = product(square.high, b_high);
    const TwoFloats factor = sum(a_high, by_b.high);
    const float factor_low =
        factor.low + (by_b.low + square.low * b_high + square.high * b_low + a_low);
    const TwoFloats z = product(g, factor.high);
    const TwoFloats joined = sum(z.high, z.low + g * factor_low);
    return joined;
}

/// The activations, numbered as the host's are.
static inline float activated(uint activation, float gate, float up) {
    if (activation == 0) return gated(gate, {gate, 0}) * up;
    if (activation == 1) {
        if (!(fabs(gate) < 1e4f)) return gate < 0 ? 0.0f * gate * up : gate * up;
        return gated(gate, gelu_argument(gate)) * up;
    }
    if (activation == 2) return gated(up, {gate, 0});
    const float g = gate > 7 ? 7.0f : gate, u = up > 7 ? 7.0f : up < -7 ? -7.0f : up;
    if (!(g > -1e4f)) return isnan(g) ? g : 0.0f * g * (u + 1);
    const TwoFloats z = product(g, 1.702f);
    return gated(g, {z.high, z.low + g * -2.193451e-8f}) * (u + 1);  // 1.702f is above 1.702
}

// y = act(gate) * up
kernel void act_mul(constant metal_args::Join& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                    device const uchar* gate [[buffer(2)]], device const uchar* up [[buffer(3)]],
                    uint group [[threadgroup_position_in_grid]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]],
                    uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.rows.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.rows.parts, n1 = job.rows.n1, n2 = job.rows.n2;
    const uint first = i % job.rows.parts * k_part, end = min(first + k_part, job.rows.row);
    device const float* g = (device const float*)(gate + row_offset(job.rows.src, row, n1, n2));
    device const float* u = (device const float*)(up + row_offset(job.second, row, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, row, n1, n2));
    for (uint c = first + lane; c < end; c += k_lanes) y[c] = activated(job.activation, g[c], u[c]);
}

// y = a + b
kernel void add(constant metal_args::Join& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                device const uchar* a [[buffer(2)]], device const uchar* b [[buffer(3)]],
                uint group [[threadgroup_position_in_grid]],
                uint simdgroup [[simdgroup_index_in_threadgroup]],
                uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.rows.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.rows.parts, n1 = job.rows.n1, n2 = job.rows.n2;
    const uint first = i % job.rows.parts * k_part, end = min(first + k_part, job.rows.row);
    device const float* x = (device const float*)(a + row_offset(job.rows.src, row, n1, n2));
    device const float* z = (device const float*)(b + row_offset(job.second, row, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, row, n1, n2));
    for (uint c = first + lane; c < end; c += k_lanes) y[c] = x[c] + z[c];
}
