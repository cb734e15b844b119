// rope: one simdgroup for each head of a token, a lane for each pair of channels.
#include "metal/rope.msl"

kernel void rope(constant metal_args::Rope& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                 device const uchar* src [[buffer(2)]], device const uchar* table [[buffer(3)]],
                 device const int* row [[buffer(4)]], uint group [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]]) {
    const uint i = group * k_simdgroups + simdgroup;
    if (i >= job.rows.simdgroups) return;  // the whole simdgroup
    const uint n1 = job.rows.n1, n2 = job.rows.n2;
    device const float* x = (device const float*)(src + row_offset(job.rows.src, i, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, i, n1, n2));
    device const float* turn = (device const float*)(table + row[i / n2] * job.table_stride);
    for (uint p = lane; p < job.pairs; p += k_lanes) {
        const Pair pair = pair_at(p, job.pairs, job.apart);
        const Turned turned_pair = turned(x[pair.a], x[pair.b], turn, p);
        y[pair.a] = turned_pair.y0;
        y[pair.b] = turned_pair.y1;
    }
    for (uint c = 2 * job.pairs + lane; c < job.rows.row; c += k_lanes) y[c] = x[c];
}
