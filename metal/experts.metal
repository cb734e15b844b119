// Products with the matrices of chosen experts, and their sum. expert_matmul: a simdgroup for a row
// of an expert's matrix and a chunk of its uses, a use being a token and a place a. As long as
// experts are more than uses, a chunk is one use; from there on sort_uses puts those of an expert
// together, so that a value is unpacked once for up to eight. Which use meets which others changes
// no bit of it.
#include "metal/f64.msl"
#include "metal/instance.msl"
#include "metal/products.msl"

constant uint k_part = 128;  // channels of a simdgroup in expert_sum

// A thread an expert: the uses of those before it are counted, so that none has to wait.
kernel void sort_uses(constant metal_args::SortUses& job [[buffer(0)]],
                      device uint* order [[buffer(1)]],
                      device metal_args::Chunk* chunks [[buffer(2)]],
                      device const uchar* id [[buffer(3)]],
                      uint group [[threadgroup_position_in_grid]],
                      uint thread_ [[thread_index_in_threadgroup]]) {
    const uint e = group * k_simdgroups * k_lanes + thread_;
    if (e >= job.experts) return;
    uint before = 0, count = 0;
    for (uint t = 0; t < job.tokens; ++t) {
        device const int* chosen = (device const int*)(id + t * job.id_stride);
        for (uint a = 0; a < job.uses; ++a) {
            before += uint(chosen[a]) < e ? 1 : 0;
            count += uint(chosen[a]) == e ? 1 : 0;
        }
    }
    uint place = before;
    for (uint t = 0; t < job.tokens && place < before + count; ++t) {
        device const int* chosen = (device const int*)(id + t * job.id_stride);
        for (uint a = 0; a < job.uses; ++a) {
            if (uint(chosen[a]) == e) order[place++] = t * job.uses + a;
        }
    }
    const uint first = before / k_tokens + e, end = (before + count) / k_tokens + e + 1;
    for (uint i = 0; i < end - first; ++i) {
        const uint done = i * k_tokens;
        chunks[first + i].expert = int(e);
        chunks[first + i].first = before + done;
        chunks[first + i].count = done < count ? min(k_tokens, count - done) : 0;
    }
}

// y[t, a, o] = sum_i w[id[t, a], o, i] x[t, a, i] + bias[id[t, a], o]
template <class Format>
[[kernel]] void expert_matmul(
    constant metal_args::ExpertMatmul& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
    device const uchar* weight [[buffer(2)]], device const uchar* src [[buffer(3)]],
    device const uchar* id [[buffer(4)]], device const uchar* bias [[buffer(5)]],
    device const uint* order [[buffer(6)]], device const metal_args::Chunk* chunks [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    const uint o = group.x * k_simdgroups + simdgroup, i = group.y;
    uint first = i, count = 1;
    int expert = 0;
    if (job.sorted != 0) {
        first = chunks[i].first;
        count = chunks[i].count;
        expert = chunks[i].expert;
    } else {
        expert = ((device const int*)(id + i / job.uses * job.id_stride))[i % job.uses];
    }
    if (o >= job.out || count == 0) return;  // the whole simdgroup
    int64_t from[k_tokens];
    for (uint u = 0; u < k_tokens; ++u) {
        const uint use = job.sorted != 0 ? order[first + min(u, count - 1)] : i;
        from[u] = use / job.uses * job.src_token + use % job.uses * job.src_use;
    }
    float y[k_tokens];
    products_at<Format>(y, weight + expert * job.expert_stride + o * job.weight_stride, src, from,
                        count, job.in, lane);
    for (uint u = 0; u < k_tokens; ++u) {
        if (u != lane || u >= count) continue;
        const uint use = job.sorted != 0 ? order[first + u] : i;
        device uchar* row = dst + use / job.uses * job.dst_token + use % job.uses * job.dst_use;
        const float more =
            job.biased != 0 ? ((device const float*)(bias + expert * job.bias_stride))[o] : 0.0f;
        ((device float*)row)[o] = job.biased != 0 ? y[u] + more : y[u];
    }
}

#define ROTKV_X(name, Format) ROTKV_INSTANCE("expert_matmul_" #name, expert_matmul<Format>)
ROTKV_WEIGHT_FORMATS

// y[t, i] = sum_a weight[t, a] x[t, a, i], in f64 from a = 0 on, rounded once.
kernel void expert_sum(constant metal_args::ExpertSum& job [[buffer(0)]],
                       device uchar* dst [[buffer(1)]], device const uchar* src [[buffer(2)]],
                       device const uchar* weight [[buffer(3)]],
                       uint group [[threadgroup_position_in_grid]],
                       uint simdgroup [[simdgroup_index_in_threadgroup]],
                       uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.simdgroups) return;  // the whole simdgroup
    const uint t = i / job.parts, first = i % job.parts * k_part;
    const uint end = min(first + k_part, job.row);
    device const float* w = (device const float*)(weight + t * job.weight_stride);
    for (uint c = first + lane; c < end; c += k_lanes) {
        F64 sum = {0};
        for (uint a = 0; a < job.uses; ++a) {
            device const uchar* x = src + t * job.token_stride + a * job.use_stride;
            sum = sum + to_f64(w[a]) * to_f64(((device const float*)x)[c]);
        }
        ((device float*)(dst + t * job.dst_stride))[c] = to_f32(sum);
    }
}
