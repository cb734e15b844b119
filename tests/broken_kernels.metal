// Kernels that an emulation must not take: each breaks one rule. Two are right, and say what it is
// like when nothing is broken.
#include <metal_stdlib>
using namespace metal;

// y[i] = x[n - 1 - i] through threadgroup memory
kernel void reversed(device float* y [[buffer(0)]], device const float* x [[buffer(1)]],
                     threadgroup float* all [[threadgroup(0)]],
                     uint i [[thread_index_in_threadgroup]],
                     uint3 threads [[threads_per_threadgroup]]) {
    all[i] = x[i];
    threadgroup_barrier(mem_flags::mem_threadgroup);  // all of x is there
    y[i] = all[threads.x - 1 - i];
}

kernel void reversed_without_barrier(device float* y [[buffer(0)]],
                                     device const float* x [[buffer(1)]],
                                     threadgroup float* all [[threadgroup(0)]],
                                     uint i [[thread_index_in_threadgroup]],
                                     uint3 threads [[threads_per_threadgroup]]) {
    all[i] = x[i];
    y[i] = all[threads.x - 1 - i];
}

kernel void neighbours(device float* y [[buffer(0)]], device const float* x [[buffer(1)]],
                       uint lane [[thread_index_in_simdgroup]]) {
    y[lane] = simd_shuffle_xor(x[lane], ushort(1)) + simd_sum(x[lane]);
}

kernel void barrier_of_one_simdgroup(device float* y [[buffer(0)]],
                                     uint i [[thread_index_in_threadgroup]]) {
    if (i < 32) threadgroup_barrier(mem_flags::mem_none);
    y[i] = 1;
}

kernel void barriers_apart(device float* y [[buffer(0)]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
    if (simdgroup == 0) {
        threadgroup_barrier(mem_flags::mem_none);
    } else {
        threadgroup_barrier(mem_flags::mem_none);
    }
    y[simdgroup] = 1;
}

kernel void sums_of_some(device float* y [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
    y[lane] = lane < 16 ? simd_sum(y[lane]) : 0.0f;
}

kernel void lanes_that_part(device float* y [[buffer(0)]],
                            uint lane [[thread_index_in_simdgroup]]) {
    y[lane] = lane % 2 == 0 ? simd_sum(y[lane]) : simd_max(y[lane]);
}

kernel void lane_that_left(device float* y [[buffer(0)]], uint lane [[thread_index_in_simdgroup]]) {
    if (lane == 7) return;
    y[lane] = simd_sum(y[lane]);
}

kernel void lane_that_is_none(device float* y [[buffer(0)]],
                              uint lane [[thread_index_in_simdgroup]]) {
    y[lane] = simd_shuffle(y[lane], ushort(lane + 1));
}

kernel void matrices_of_some(device float* y [[buffer(0)]],
                             uint lane [[thread_index_in_simdgroup]]) {
    simdgroup_float8x8 a(1.0f), b(2.0f);
    if (lane < 16) simdgroup_multiply(a, a, b);
    y[lane] = 1;
}
