#pragma once
// One instruction of the tensor cores of 9.0 for split_product.cuh: C [64][words] f32 (+)= A B,
// A [64][16] bf16 in registers, B [words][16] bf16 in shared memory. Who holds what:
// prefill_mma.cuh; what runs when: prefill_wgmma.cuh.
// Docs: docs/08-backends.md

#include "cuda/prefill_wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::split {

/// B at `address`, the same for the whole warp: rows of 64 bytes, eight of them 512 bytes, 64B
/// swizzle. As prefill::Operand.
__device__ inline uint64_t operand_at(uint32_t address) {
    return uint64_t(2u << 30 | 512 / 16) << 32 | 1u << 16 | (address & 0x3FFFFu) / 16;
}

// clang-format off
#define ROTKV_TEN(d) "%" #d "0, %" #d "1, %" #d "2, %" #d "3, %" #d "4, " \
                     "%" #d "5, %" #d "6, %" #d "7, %" #d "8, %" #d "9, "
#define ROTKV_THIRTY ROTKV_TEN() ROTKV_TEN(1) ROTKV_TEN(2)
#define ROTKV_C1(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define ROTKV_C3(n) ROTKV_C1(n), ROTKV_C1(n + 1), ROTKV_C1(n + 2)
#define ROTKV_C4(n) ROTKV_C3(n), ROTKV_C1(n + 3)
#define ROTKV_C6(n) ROTKV_C3(n), ROTKV_C3(n + 3)

// add = 0: C = A B
#define ROTKV_PRODUCT(words, c_names, a_names, b_name, add_name, ...)                            \
    __device__ inline void multiply(float (&c)[words / 8][4], const prefill::Fragment& a,        \
                                    uint64_t b, int add) {                                       \
        asm volatile("{.reg .pred add;\n setp.ne.b32 add, " add_name ", 0;\n"                    \
                     "wgmma.mma_async.sync.aligned.m64n" #words "k16.f32.bf16.bf16 {" c_names "}, {" \
                     a_names "}, " b_name ", add, 1, 1, 0;}\n"                                   \
                     : __VA_ARGS__                                                               \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));            \
    }
ROTKV_PRODUCT(24, ROTKV_TEN() "%10, %11", "%12, %13, %14, %15", "%16", "%17", ROTKV_C3(0))
ROTKV_PRODUCT(48, ROTKV_TEN() ROTKV_TEN(1) "%20, %21, %22, %23", "%24, %25, %26, %27", "%28", "%29",
              ROTKV_C6(0))
ROTKV_PRODUCT(72, ROTKV_THIRTY "%30, %31, %32, %33, %34, %35", "%36, %37, %38, %39", "%40", "%41",
              ROTKV_C6(0), ROTKV_C3(6))
ROTKV_PRODUCT(96, ROTKV_THIRTY ROTKV_TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47",
              "%48, %49, %50, %51", "%52", "%53", ROTKV_C6(0), ROTKV_C6(6))
ROTKV_PRODUCT(128, ROTKV_THIRTY ROTKV_TEN(3) ROTKV_TEN(4) ROTKV_TEN(5) "%60, %61, %62, %63",
              "%64, %65, %66, %67", "%68", "%69", ROTKV_C6(0), ROTKV_C6(6), ROTKV_C4(12))
// clang-format on

#undef ROTKV_TEN
#undef ROTKV_THIRTY
#undef ROTKV_C1
#undef ROTKV_C3
#undef ROTKV_C4
#undef ROTKV_C6
#undef ROTKV_PRODUCT

}  // namespace rotkv::cuda::split

#endif
