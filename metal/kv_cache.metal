// kv_store: one simdgroup for each part of a head's row (as in hadamard), which it rotates,
// quantizes and writes to its cell, from registers to the cache. kv_shift: one simdgroup for a
// whole row, which waits in threadgroup memory while pairs of channels turn.
#include "metal/hadamard.msl"
#include "metal/instance.msl"
#include "metal/rope.msl"

template <class Format, uint R>
[[kernel]] void kv_store(constant metal_args::KvStore& job [[buffer(0)]],
                         device uchar* cache [[buffer(1)]], device const uchar* src [[buffer(2)]],
                         device const int* stream [[buffer(3)]],
                         device const int* cell [[buffer(4)]],
                         uint group [[threadgroup_position_in_grid]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.simdgroups) return;  // the whole simdgroup
    const uint row = i / job.parts, first = i % job.parts * R * k_lanes;
    const uint t = row / job.heads, head = row % job.heads;
    if (cell[t] < 0) return;  // the whole simdgroup: its token is not stored
    device const uchar* from = src + t * job.src.stride[1] + head * job.src.stride[2];
    device uchar* to = cache + stream[t] * job.cache.stride[0] + cell[t] * job.cache.stride[1] +
                       head * job.cache.stride[2];
    float x[R];
    Part<F32, R>::load(x, from, first, job.row, lane);
    hadamard_row<R>(x, job.turn, false, first, lane);
    Part<Format, R>::store(to, x, first, job.row, lane);
}

template <class Format, uint R>
[[kernel]] void kv_shift(constant metal_args::KvShift& job [[buffer(0)]],
                         device uchar* cache [[buffer(1)]], device const uchar* table [[buffer(2)]],
                         device const uchar* index [[buffer(3)]],
                         threadgroup float* row [[threadgroup(0)]],
                         uint group [[threadgroup_position_in_grid]],
                         uint lane [[thread_index_in_simdgroup]]) {
    const uint head = group % job.heads, cell = group / job.heads % job.cells;
    const uint stream = group / job.heads / job.cells;
    const int turn = ((device const int*)(index + stream * job.index_stride))[cell];
    if (turn < 0) return;  // all: this cell stays
    device uchar* cached = cache + stream * job.cache.stride[0] + cell * job.cache.stride[1] +
                           head * job.cache.stride[2];
    device const float* angles = (device const float*)(table + turn * job.table_stride);
    float x[R];
    for (uint p = 0; p < job.parts; ++p) {  // back to plain channels first
        const uint first = p * R * k_lanes;
        Part<Format, R>::load(x, cached, first, job.row, lane);
        hadamard_row<R>(x, job.turn, true, first, lane);
        for (uint r = 0; r < R; ++r) row[first + r * k_lanes + lane] = x[r];
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);  // written by other lanes than turn them
    for (uint p = lane; p < job.pairs; p += k_lanes) {
        const Pair pair = pair_at(p, job.pairs, job.apart);
        const Turned y = turned(row[pair.a], row[pair.b], angles, p);
        row[pair.a] = y.y0;
        row[pair.b] = y.y1;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);  // turned by other lanes than store them
    for (uint p = 0; p < job.parts; ++p) {
        const uint first = p * R * k_lanes;
        for (uint r = 0; r < R; ++r) x[r] = row[first + r * k_lanes + lane];
        hadamard_row<R>(x, job.turn, false, first, lane);
        Part<Format, R>::store(cached, x, first, job.row, lane);
    }
}

#define ROTKV_SIDE(kernel_name, name, Format)                           \
    ROTKV_INSTANCE(#kernel_name "_" #name "_1", kernel_name<Format, 1>) \
    ROTKV_INSTANCE(#kernel_name "_" #name "_2", kernel_name<Format, 2>) \
    ROTKV_INSTANCE(#kernel_name "_" #name "_4", kernel_name<Format, 4>) \
    ROTKV_INSTANCE(#kernel_name "_" #name "_8", kernel_name<Format, 8>) \
    ROTKV_INSTANCE(#kernel_name "_" #name "_16", kernel_name<Format, 16>)
#define ROTKV_TYPE(name, Format)       \
    ROTKV_SIDE(kv_store, name, Format) \
    ROTKV_SIDE(kv_shift, name, Format)
ROTKV_TYPE(f32, F32)
ROTKV_TYPE(f16, F16)
ROTKV_TYPE(bf16, Bf16)
ROTKV_TYPE(q8_0, Q8_0)
ROTKV_TYPE(q5_1, Q5_1)
ROTKV_TYPE(q5_0, Q5_0)
ROTKV_TYPE(q4_1, Q4_1)
ROTKV_TYPE(q4_0, Q4_0)
ROTKV_TYPE(iq4_nl, Iq4_nl)
