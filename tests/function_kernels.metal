// The functions of metal/functions.msl, a number for each thread.
#include "metal/functions.msl"

kernel void functions(device float* y [[buffer(0)]], device const float* x [[buffer(1)]],
                      constant uint& which [[buffer(2)]], uint i [[thread_index_in_threadgroup]]) {
    y[i] = which == 0 ? exp_f32(x[i]) : which == 1 ? log_f32(x[i]) : tanh_f32(x[i]);
}
