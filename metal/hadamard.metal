// hadamard: one simdgroup for each part of a row, which is a block of the rotation, or 32 channels
// of smaller ones. Nothing but the row itself is read or written, once each.
#include "metal/hadamard.msl"
#include "metal/instance.msl"

template <class Format, uint R>
[[kernel]] void hadamard(constant metal_args::Hadamard& job [[buffer(0)]],
                         device uchar* dst [[buffer(1)]], device const uchar* src [[buffer(2)]],
                         uint group [[threadgroup_position_in_grid]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.rows.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.rows.parts, first = i % job.rows.parts * R * k_lanes;
    float x[R];
    Part<Format, R>::load(x, src + row_offset(job.rows.src, row, job.rows.n1, job.rows.n2), first,
                          job.rows.row, lane);
    hadamard_row<R>(x, job.turn, job.inverse != 0, first, lane);
    Part<Format, R>::store(dst + row_offset(job.rows.dst, row, job.rows.n1, job.rows.n2), x, first,
                           job.rows.row, lane);
}

#define ROTKV_HADAMARD(name, Format)                              \
    ROTKV_INSTANCE("hadamard_" #name "_1", hadamard<Format, 1>)   \
    ROTKV_INSTANCE("hadamard_" #name "_2", hadamard<Format, 2>)   \
    ROTKV_INSTANCE("hadamard_" #name "_4", hadamard<Format, 4>)   \
    ROTKV_INSTANCE("hadamard_" #name "_8", hadamard<Format, 8>)   \
    ROTKV_INSTANCE("hadamard_" #name "_16", hadamard<Format, 16>) \
    ROTKV_INSTANCE("hadamard_" #name "_32", hadamard<Format, 32>)
ROTKV_HADAMARD(f32, F32)
ROTKV_HADAMARD(f16, F16)
ROTKV_HADAMARD(bf16, Bf16)
