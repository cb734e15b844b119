#pragma once
// Tensor cores, as prefill uses them: one function an instruction.
//
// A product takes A [16][16] and B [16][8] in f16 and adds A B to C [16][8] in f32. A warp holds
// them together; lane l, with r = l / 4 and c = 2 (l % 4), holds
//
//     a[0] = A[r][c, c+1]     a[1] = A[r+8][c, c+1]     C[r][c] = c[0]     C[r][c+1] = c[1]
//     a[2] = A[r][c+8, c+9]   a[3] = A[r+8][c+8, c+9]   C[r+8][c] = c[2]   C[r+8][c+1] = c[3]
//     b[0] = B[c, c+1][r]     b[1] = B[c+8, c+9][r]
//
// so that C of two neighbouring products, rounded to f16, is A of a third: the probabilities go
// from the scores to the sum of the values without leaving their registers.
// From compute capability 8.0 on.
// Docs: docs/05-attention.md

#include "cuda/device.cuh"

#include <cuda_fp16.h>

namespace rotkv::cuda::prefill {

using Fragment = uint32_t[4];  // of A, or of two B side by side

/// x, which is the same in all lanes, so that the compiler knows it too.
__device__ inline uint32_t uniform(uint32_t x) { return __shfl_sync(k_all_lanes, x, 0); }

/// C += A B
__device__ inline void multiply_add(float (&c)[4], const Fragment& a, uint32_t b_0, uint32_t b_1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_0), "r"(b_1));
}

/// Four matrices [8][8] of halves; lane l brings the address of row l % 8 of matrix l / 8 and
/// receives of each matrix M[r][c, c+1].
__device__ inline void load_matrices(Fragment& x, uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

/// As load_matrices, but M[c, c+1][r].
__device__ inline void load_transposed(Fragment& x, uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

}  // namespace rotkv::cuda::prefill
