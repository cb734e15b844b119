// matmul, logits: one simdgroup for a row of the weight and up to eight tokens, so that a value is
// unpacked once for all of them; lanes share out the channels. embed: 32 channels of a row each.
#include "metal/functions.msl"
#include "metal/instance.msl"
#include "metal/products.msl"

// y[t, o] = softcap(sum_i w[o, i] x[t, i])
template <class Format>
[[kernel]] void matmul(constant metal_args::Matmul& job [[buffer(0)]],
                       device uchar* dst [[buffer(1)]], device const uchar* weight [[buffer(2)]],
                       device const uchar* src [[buffer(3)]],
                       uint3 group [[threadgroup_position_in_grid]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    const uint o = group.x * k_simdgroups + simdgroup, first = group.y * k_tokens;
    if (o >= job.out) return;  // the whole simdgroup
    const uint tokens = min(k_tokens, job.tokens - first);
    float y[k_tokens];
    products<Format>(y, weight + o * job.weight_stride, src + first * job.src_stride,
                     job.src_stride, tokens, job.in, lane);
    for (uint t = 0; t < k_tokens; ++t) {
        if (t != lane || t >= tokens) continue;
        const float x = job.softcap > 0 ? job.softcap * tanh_f32(y[t] / job.softcap) : y[t];
        ((device float*)(dst + (first + t) * job.dst_stride))[o] = x;
    }
}

// y[t] = scale * w[token[t]]
template <class Format>
[[kernel]] void embed(constant metal_args::Embed& job [[buffer(0)]],
                      device uchar* dst [[buffer(1)]], device const uchar* weight [[buffer(2)]],
                      device const int* token [[buffer(3)]],
                      uint group [[threadgroup_position_in_grid]],
                      uint simdgroup [[simdgroup_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.simdgroups) return;  // the whole simdgroup
    const uint t = i / job.parts, c = i % job.parts * k_lanes + lane;
    if (c >= job.row) return;  // lanes meet no more
    ((device float*)(dst + t * job.dst_stride))[c] =
        value_at<Format>(weight + token[t] * job.weight_stride, c) * job.scale;
}

#define ROTKV_X(name, Format)                       \
    ROTKV_INSTANCE("matmul_" #name, matmul<Format>) \
    ROTKV_INSTANCE("embed_" #name, embed<Format>)
ROTKV_WEIGHT_FORMATS
