// The functions of metal/functions.msl, of metal/f64.msl and of metal/gating.msl, a number for each
// thread; and products of a simdgroup's matrices.
#include "metal/functions.msl"
#include "metal/gating.msl"

kernel void functions(device float* y [[buffer(0)]], device const float* x [[buffer(1)]],
                      constant uint& which [[buffer(2)]], uint i [[thread_index_in_threadgroup]]) {
    y[i] = which == 0 ? exp_f32(x[i]) : which == 1 ? log_f32(x[i]) : tanh_f32(x[i]);
}

/// Of numbers a and b.
static inline F64 f64_of(uint which, F64 a, F64 b) {
    switch (which) {
        case 0:
            return a + b;
        case 1:
            return a - b;
        case 2:
            return a * b;
        case 3:
            return a / b;
        case 4:
            return root(magnitude(a));
        case 5:
            return to_f64(to_f32(a));
        case 6:
            return to_f64(floor_of(a));
        case 7:
            return exp_of_negative(negative(magnitude(a)));
        case 8:
            return log_of_one_plus(a);
        case 9:
            return sigmoid(a);
        default:
            return root(softplus(a));
    }
}

// x: 256 numbers a, 256 numbers b
kernel void f64_operations(device ulong* y [[buffer(0)]], device const ulong* x [[buffer(1)]],
                           constant uint& which [[buffer(2)]],
                           uint i [[thread_index_in_threadgroup]]) {
    y[i] = f64_of(which, {x[i]}, {x[i + 256]}).bits;
}

// y = 3 (a b^T + c), a and b as f16: x has a, b and c, 8 x 8 each
kernel void matrices(device float* y [[buffer(0)]], device const float* x [[buffer(1)]],
                     threadgroup float* shared [[threadgroup(0)]],
                     uint lane [[thread_index_in_simdgroup]]) {
    threadgroup half* factors = (threadgroup half*)shared;
    threadgroup float* sums = shared + 64;
    for (uint i = lane; i < 128; i += 32) factors[i] = half(x[i]);
    for (uint i = lane; i < 64; i += 32) sums[i] = x[128 + i];
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_half8x8 a, b;
    simdgroup_float8x8 c, three(3.0f);
    simdgroup_load(a, factors);
    simdgroup_load(b, factors + 64, 8, 0, true);
    simdgroup_load(c, sums);
    simdgroup_multiply_accumulate(c, a, b, c);
    simdgroup_multiply(c, three, c);
    simdgroup_store(c, sums);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < 64; i += 32) y[i] = sums[i];
}
