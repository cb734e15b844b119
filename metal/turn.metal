// turn: a rotation by a matrix. One threadgroup for each row, the channels of one head: it lies in
// threadgroup memory, so that dst may be src.
//   forward  a simdgroup owns a channel of the result, y_i = sum_j M_ij x_j, its lanes a row of M
//   back     a thread owns a channel of the result, y_j = sum_i M_ij x_i, its simdgroup a row of M
// Either way neighbouring threads read neighbouring numbers of M.
#include "metal/rows.msl"

constant uint k_threads = k_simdgroups * k_lanes;

kernel void turn(constant metal_args::ByMatrix& job [[buffer(0)]], device uchar* dst [[buffer(1)]],
                 device const uchar* src [[buffer(2)]], device const uchar* matrix [[buffer(3)]],
                 threadgroup float* x [[threadgroup(0)]], uint row [[threadgroup_position_in_grid]],
                 uint thread_ [[thread_index_in_threadgroup]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]],
                 uint lane [[thread_index_in_simdgroup]]) {
    const uint d = job.rows.row, n1 = job.rows.n1, n2 = job.rows.n2;
    device const float* from = (device const float*)(src + row_offset(job.rows.src, row, n1, n2));
    device float* y = (device float*)(dst + row_offset(job.rows.dst, row, n1, n2));
    device const uchar* m = matrix + int64_t(row % n2 / job.group) * job.matrix;
    for (uint c = thread_; c < d; c += k_threads) x[c] = from[c];
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all of the row is there
    if (job.inverse != 0) {
        for (uint j = thread_; j < d; j += k_threads) {
            float sum = 0;
            for (uint i = 0; i < d; ++i) {
                sum += ((device const float*)(m + int64_t(i) * job.matrix_row))[j] * x[i];
            }
            y[j] = sum;
        }
        return;
    }
    for (uint i = simdgroup; i < d; i += k_simdgroups) {
        device const float* of_row = (device const float*)(m + int64_t(i) * job.matrix_row);
        float sum = 0;
        for (uint j = lane; j < d; j += k_lanes) sum += of_row[j] * x[j];
        const float all = simd_sum(sum);
        if (lane == 0) y[i] = all;
    }
}
