#pragma once
// The tensor cores of compute capability 9.0, which read operands from shared memory: a group of
// four warps multiplies A [64][16] and B [16][N], and adds to C [64][N] in f32. Warp w of the group
// holds rows 16 w .. 16 w + 15 of A and C, as prefill_mma.cuh says; what begins here runs beside
// the warps until wait_for_products(), and C is nobody's until then.
// Docs: docs/05-attention.md

#include "cuda/prefill_mma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::prefill {

/// An operand in a tile of prefill_tile.cuh at `address`, the same for the whole warp. Its low word
/// holds the address, and behind that how far apart the tile's panels are, both in units of 16
/// bytes; its high word says 1024 bytes from eight rows of a panel to the next, 128B swizzle.
struct Operand {
    uint32_t low;
    __device__ Operand(uint32_t address, uint32_t panel_bytes)
        : low(uniform(panel_bytes / 16 << 16 | (address & 0x3FFFFu) / 16)) {}
    /// What begins `bytes` further on.
    __device__ uint64_t at(uint32_t bytes) const {
        return uint64_t(1u << 30 | 1024 / 16) << 32 | (low + bytes / 16);
    }
};

/// Before products: registers and shared memory are as written.
__device__ inline void begin_products() {
    asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
}

/// Those since the last call are a group.
__device__ inline void end_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
}

/// Waits until at most `groups` of them are under way.
template <int groups>
__device__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(groups) : "memory");
}

/// Of all four warps: registers of a thread, of which some warps have more than others.
template <uint32_t count>
__device__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(count));
}
template <uint32_t count>
__device__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(count));
}

/// What the compiler may not move: C is written by products, which it cannot see.
template <int N>
__device__ void hold(float (&c)[N][4]) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+f"(c[i / 4][i % 4]) : : "memory");
}

// Names of operands, ten at a time, and the operands themselves: C [8 n ..][4] of a lane.
// clang-format off
#define ROTKV_TEN(d) "%" #d "0, %" #d "1, %" #d "2, %" #d "3, %" #d "4, " \
                     "%" #d "5, %" #d "6, %" #d "7, %" #d "8, %" #d "9, "
#define ROTKV_THIRTY ROTKV_TEN() ROTKV_TEN(1) ROTKV_TEN(2)
#define ROTKV_SIXTY ROTKV_THIRTY ROTKV_TEN(3) ROTKV_TEN(4) ROTKV_TEN(5)
#define ROTKV_C1(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define ROTKV_C2(n) ROTKV_C1(n), ROTKV_C1(n + 1)
#define ROTKV_C4(n) ROTKV_C2(n), ROTKV_C2(n + 2)
#define ROTKV_C8(n) ROTKV_C4(n), ROTKV_C4(n + 4)
#define ROTKV_C16(n) ROTKV_C8(n), ROTKV_C8(n + 8)

// C (+)= A B, A [64][16] and B [cells][16] in shared memory, channels innermost; add = 0: C = A B.
#define ROTKV_SCORES(cells, c_names, a_name, b_name, add_name, ...)                             \
    __device__ inline void multiply_tiles(float (&c)[cells / 8][4], uint64_t a, uint64_t b,     \
                                          int add) {                                            \
        asm volatile("{.reg .pred add;\n setp.ne.b32 add, " add_name ", 0;\n"                   \
                     "wgmma.mma_async.sync.aligned.m64n" #cells "k16.f32.f16.f16 {" c_names "}, " \
                     a_name ", " b_name ", add, 1, 1, 0, 0;}\n"                                 \
                     : __VA_ARGS__ : "l"(a), "l"(b), "r"(add));                                 \
    }
ROTKV_SCORES(64, ROTKV_THIRTY "%30, %31", "%32", "%33", "%34", ROTKV_C8(0))
ROTKV_SCORES(128, ROTKV_SIXTY "%60, %61, %62, %63", "%64", "%65", "%66", ROTKV_C16(0))

// C += A B, A [64][16] in registers, B [16][channels] in shared memory, channels innermost, panel
// by panel.
#define ROTKV_VALUES(channels, c_names, a_names, b_name, ...)                                   \
    __device__ inline void multiply_add(float (&c)[channels / 8][4], const Fragment& a,         \
                                        uint64_t b) {                                           \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #channels "k16.f32.f16.f16 {" c_names  \
                     "}, {" a_names "}, " b_name ", 1, 1, 1, 1;\n"                              \
                     : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));       \
    }
ROTKV_VALUES(64, ROTKV_THIRTY "%30, %31", "%32, %33, %34, %35", "%36", ROTKV_C8(0))
ROTKV_VALUES(80, ROTKV_THIRTY "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39",
             "%40, %41, %42, %43", "%44",
             ROTKV_C8(0), ROTKV_C2(8))
ROTKV_VALUES(96, ROTKV_THIRTY ROTKV_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47",
             "%48, %49, %50, %51", "%52", ROTKV_C8(0), ROTKV_C4(8))
ROTKV_VALUES(112, ROTKV_THIRTY ROTKV_TEN(3) ROTKV_TEN(4) "%50, %51, %52, %53, %54, %55",
             "%56, %57, %58, %59", "%60", ROTKV_C8(0), ROTKV_C4(8), ROTKV_C2(12))
ROTKV_VALUES(128, ROTKV_SIXTY "%60, %61, %62, %63", "%64, %65, %66, %67", "%68", ROTKV_C16(0))
ROTKV_VALUES(192, ROTKV_SIXTY ROTKV_TEN(6) ROTKV_TEN(7) ROTKV_TEN(8) "%90, %91, %92, %93, %94, %95",
             "%96, %97, %98, %99", "%100", ROTKV_C16(0), ROTKV_C8(16))
// clang-format on

// 256 channels as twice 128: one instruction for all would not fit into the registers that a thread
// has before some are given away.
__device__ inline void multiply_add(float (&c)[32][4], const Fragment& a, uint64_t b,
                                    uint64_t b_behind) {
    multiply_add(reinterpret_cast<float(&)[16][4]>(c[0]), a, b);
    multiply_add(reinterpret_cast<float(&)[16][4]>(c[16]), a, b_behind);
}

#undef ROTKV_TEN
#undef ROTKV_THIRTY
#undef ROTKV_SIXTY
#undef ROTKV_C1
#undef ROTKV_C2
#undef ROTKV_C4
#undef ROTKV_C8
#undef ROTKV_C16
#undef ROTKV_SCORES
#undef ROTKV_VALUES

}  // namespace rotkv::cuda::prefill

#endif
