#pragma once
// What the lower versions of attention (ladder.h) share: which calls they take, and the end of a
// row. They show one idea each, over the calls that models make most; what is rare they refuse.
// Docs: docs/05-attention.md

#include "cuda/attention_plain.cuh"

namespace rotkv::cuda {

/// f16 precision without softcap, heads of 64 or 128 channels, both sides of one type.
inline bool rung_takes(const AttentionArgs& args, DType type) {
    const int64_t d = args.q.n[3];
    return args.precision == Precision::f16 && args.softcap == 0 && (d == 64 || d == 128) &&
           args.dst.n[3] == d && args.k_cache.type == type && args.v_cache.type == type;
}

/// ... of f16, in rows that 16 bytes at a time can be read from.
inline bool rung_takes_halves(const AttentionArgs& args) {
    return rung_takes(args, DType::f16) && rows_on_16_bytes(args.k_cache) &&
           rows_on_16_bytes(args.v_cache);
}

/// Of the device: 90 is 9.0, which brought copies of whole rows and barriers that count their
/// bytes; its wgmma is no other one's.
inline int compute_capability() {
    int device = 0, major = 0, minor = 0;
    require_success(cudaGetDevice(&device), "device");
    require_success(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                    "device");
    require_success(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device),
                    "device");
    return 10 * major + minor;
}

/// Launches with so much shared memory for each block of threads.
template <class... Parameters, class... Arguments>
void launch_rung(void (*kernel)(Parameters...), dim3 grid, uint32_t threads, uint32_t bytes,
                 Stream stream, const Arguments&... arguments) {
    require_success(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "attention");
    kernel<<<grid, threads, bytes, stream>>>(arguments...);
    require_launched("attention");
}

/// By one warp, the row of head h of token t from its sums over all cells, in shared memory:
///   3 the softmax's denominator, where the sink counts     5 rotate back, store
/// most, total: total = sum exp(s_c - most). A row that is not finite (attention_plain.cuh) is
/// computed once more; scratch: plain_floats() for that.
__device__ inline void finish_row(const Task& task, uint32_t t, uint32_t h, float* row, float most,
                                  float total, float* scratch) {
    const uint32_t lane = lane_of_warp();
    const float sink = task.sinks != nullptr ? task.sinks[h] : -INFINITY;
    const float top = fmaxf(most, sink), weight = expf(most - top);
    const float all = fmaf(total, weight, expf(sink - top));
    bool is_fine = is_finite(all);
    for (uint32_t i = lane; i < task.d_v; i += k_warp) is_fine = is_fine && is_finite(row[i]);
    if (__all_sync(k_all_lanes, is_fine)) {
        if (lane == 0) store_lse(task, t, h, top, all);
        for (uint32_t i = lane; i < task.d_v; i += k_warp) {
            row[i] = all == 0 ? 0.0f : row[i] * weight / all;  // 0: nothing was seen
        }
    } else {
        row = attend_row_apart(task, t, h, 0, task.d_v, scratch);
    }
    rotate_row(row, task.v_cut, true);
    float* const dst = reinterpret_cast<float*>(task.dst + t * task.dst_token + h * task.dst_head);
    for (uint32_t i = lane; i < task.d_v; i += k_warp) dst[i] = row[i];
    __syncwarp();  // scratch may be another row's next
}

}  // namespace rotkv::cuda
