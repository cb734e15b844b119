#pragma once
// What all kernels use: rows of a view, four channels at a time, lanes of a warp, launches.
//
// A thread's unit is four neighbouring f32 channels, 16 bytes: one load instruction where the
// address allows it. Views are aligned to their element only, so that it may not; this is asked at
// run time, once per launch for f32 rows and per store for cached ones.
// Docs: docs/08-backends.md

#include "cuda/failure.h"
#include "ref/types.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace rotkv::cuda {

constexpr unsigned k_warp = 32;
constexpr unsigned k_all_lanes = 0xFFFFFFFFu;
constexpr unsigned k_threads = 256;  // of a block, where nothing asks for another number

// failure.cu
/// Throws Failure with CUDA's words, and leaves no error behind that can be cleared.
[[noreturn]] void fail(cudaError_t result, const std::string& what);

/// For ends and destructors: drops what failed, and leaves it for nobody to find.
void ignore(cudaError_t result);

/// The result of a launch, or the refusal that a test asked for in its place.
cudaError_t launched(cudaError_t result);

/// Throws Failure with CUDA's words unless the call succeeded.
inline void require_success(cudaError_t result, const char* what) {
    if (result != cudaSuccess) fail(result, what);
}

/// Directly after a launch: was it accepted? What goes wrong inside is reported by the next wait.
inline void require_launched(const char* op) { require_success(launched(cudaGetLastError()), op); }

/// Blocks of threads for `items`, `each` of them to a block.
inline unsigned blocks_for(int64_t items, int64_t each) {
    return unsigned((items + each - 1) / each);
}

/// Quotients by a number known at the launch: a product and a shift, not a division.
/// Exact for n < 2^31 (Granlund, Montgomery 1994, with the multiplier rounded up).
struct Divisor {
    uint32_t d, multiplier, shift;

    explicit Divisor(int64_t divisor) : d(divisor > 0 ? uint32_t(divisor) : 1), shift(0) {
        while ((uint64_t(1) << shift) < d) ++shift;
        const uint64_t excess = (uint64_t(1) << shift) - d;
        multiplier = uint32_t((excess << 32) / d + 1);
    }
    __device__ uint32_t of(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

/// Does every row of the view begin on so many bytes, a power of two?
inline bool rows_on(const TensorView& view, uintptr_t bytes) {
    return (reinterpret_cast<uintptr_t>(view.data) | uintptr_t(view.stride[0]) |
            uintptr_t(view.stride[1]) | uintptr_t(view.stride[2])) %
               bytes ==
           0;
}
inline bool rows_on_16_bytes(const TensorView& view) { return rows_on(view, 16); }

/// The rows of a view, counted as one extent. Where rows lie at equal distances (most views) the
/// extents are folded together on the host, and the device divides nothing.
struct Rows {
    std::byte* data;
    int64_t stride[3];
    uint32_t n1, n2;  // the two inner extents; n2 = 0: folded
    bool vectors;     // rows_on_16_bytes

    explicit Rows(const TensorView& view)
        : data(view.data),
          stride{view.stride[0], view.stride[1], view.stride[2]},
          n1(uint32_t(view.n[1])),
          n2(uint32_t(view.n[2])),
          vectors(rows_on_16_bytes(view)) {
        int64_t distance = 0, count = 1;
        bool equal = true;
        for (int i = 2; i >= 0; --i) {
            if (view.n[i] == 1) continue;
            if (count == 1) distance = view.stride[i];
            equal = equal && view.stride[i] == distance * count;
            count *= view.n[i];
        }
        if (!equal) return;
        n2 = 0;
        stride[2] = distance;
    }

    template <class E>
    __device__ E* row(uint32_t r) const {
        if (n2 == 0) return reinterpret_cast<E*>(data + int64_t(r) * stride[2]);
        const uint32_t i01 = r / n2, i2 = r - i01 * n2, i0 = i01 / n1, i1 = i01 - i0 * n1;
        return reinterpret_cast<E*>(data + int64_t(i0) * stride[0] + int64_t(i1) * stride[1] +
                                    int64_t(i2) * stride[2]);
    }
};

/// Channels i .. i + 3 of a row of d; 0 where the row has ended.
__device__ inline float4 load4(const float* x, uint32_t i, uint32_t d, bool vectors) {
    if (vectors && i + 4 <= d) return *reinterpret_cast<const float4*>(x + i);
    return {i < d ? x[i] : 0.0f, i + 1 < d ? x[i + 1] : 0.0f, i + 2 < d ? x[i + 2] : 0.0f,
            i + 3 < d ? x[i + 3] : 0.0f};
}

__device__ inline void store4(float* y, uint32_t i, uint32_t d, bool vectors, const float4& v) {
    if (vectors && i + 4 <= d) {
        *reinterpret_cast<float4*>(y + i) = v;
        return;
    }
    if (i < d) y[i] = v.x;
    if (i + 1 < d) y[i + 1] = v.y;
    if (i + 2 < d) y[i + 2] = v.z;
    if (i + 3 < d) y[i + 3] = v.w;
}

/// This thread's place in its warp; blocks of threads are one-dimensional.
__device__ inline unsigned lane_of_warp() { return threadIdx.x % k_warp; }

/// The value of the lane whose number differs in bit `h`.
__device__ inline float partner(float x, unsigned h) { return __shfl_xor_sync(k_all_lanes, x, h); }

/// A barrier for `threads` of the block, one of the fifteen beside __syncthreads().
__device__ inline void wait_for_group(uint32_t barrier, uint32_t threads) {
    asm volatile("bar.sync %0, %1;" : : "r"(barrier), "r"(threads) : "memory");
}

/// The same. Does one of the threads say yes?
__device__ inline bool any_of_group(uint32_t barrier, uint32_t threads, bool says) {
    uint32_t one;
    asm volatile(
        "{\n"
        ".reg .pred mine, any;\n"
        "setp.ne.u32 mine, %3, 0;\n"
        "barrier.red.or.pred any, %1, %2, mine;\n"
        "selp.u32 %0, 1, 0, any;\n"
        "}"
        : "=r"(one)
        : "r"(barrier), "r"(threads), "r"(uint32_t(says))
        : "memory");
    return one != 0;
}

/// The same without waiting: this thread is one of those that others wait for.
__device__ inline void arrive_at_group(uint32_t barrier, uint32_t threads) {
    asm volatile("bar.arrive %0, %1;" : : "r"(barrier), "r"(threads) : "memory");
}

/// What this thread stored in shared memory comes before what is done there without registers from
/// 9.0 on: products of tensor cores, copies of rows.
__device__ inline void publish_stores() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" : : : "memory");
#endif
}

constexpr float k_log2_e = 1.44269504f;

/// 2^x to about 2 units in the last place; 0 instead of what is no normal number.
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace rotkv::cuda
