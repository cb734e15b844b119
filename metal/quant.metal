// quantize, dequantize: one simdgroup for each 32 channels of a row, a lane for each of them.
#include "metal/instance.msl"
#include "metal/weight.msl"

template <class Format>
[[kernel]] void quantize(constant metal_args::RowParts& job [[buffer(0)]],
                         device uchar* dst [[buffer(1)]], device const uchar* src [[buffer(2)]],
                         uint group [[threadgroup_position_in_grid]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.parts, first = i % job.parts * k_lanes;
    float x;
    Part<F32, 1>::load(&x, src + row_offset(job.src, row, job.n1, job.n2), first, job.row, lane);
    Part<Format, 1>::store(dst + row_offset(job.dst, row, job.n1, job.n2), &x, first, job.row,
                           lane);
}

template <class Format>
[[kernel]] void dequantize(constant metal_args::RowParts& job [[buffer(0)]],
                           device uchar* dst [[buffer(1)]], device const uchar* src [[buffer(2)]],
                           uint group [[threadgroup_position_in_grid]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]],
                           uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.parts, first = i % job.parts * k_lanes;
    float x;
    Part<Format, 1>::load(&x, src + row_offset(job.src, row, job.n1, job.n2), first, job.row, lane);
    Part<F32, 1>::store(dst + row_offset(job.dst, row, job.n1, job.n2), &x, first, job.row, lane);
}

ROTKV_INSTANCE("quantize_f32", quantize<F32>)
ROTKV_INSTANCE("quantize_f16", quantize<F16>)
ROTKV_INSTANCE("quantize_bf16", quantize<Bf16>)
ROTKV_INSTANCE("quantize_q8_0", quantize<Q8_0>)
ROTKV_INSTANCE("quantize_q5_1", quantize<Q5_1>)
ROTKV_INSTANCE("quantize_q5_0", quantize<Q5_0>)
ROTKV_INSTANCE("quantize_q4_1", quantize<Q4_1>)
ROTKV_INSTANCE("quantize_q4_0", quantize<Q4_0>)
ROTKV_INSTANCE("quantize_iq4_nl", quantize<Iq4_nl>)
#define ROTKV_X(name, Format) ROTKV_INSTANCE("dequantize_" #name, dequantize<Format>)
ROTKV_WEIGHT_FORMATS
