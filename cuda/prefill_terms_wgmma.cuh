#pragma once
// The products of prefill_terms.cuh and prefill_terms_values.cuh on the tensor cores of compute
// capability 9.0, which read tiles from shared memory themselves: the four warps of a block of
// threads are the group that multiplies together (prefill_wgmma.cuh). Docs: docs/05-attention.md

#include "cuda/prefill_terms_tile.cuh"
#include "cuda/prefill_wgmma.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace rotkv::cuda::prefill {

/// C += A B for 32 channels: A [64][16] in registers, B [16][32] as in multiply_add.
__device__ inline void multiply_add(float (&c)[4][4], const Fragment& a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, 1, 1, 1, 1;\n"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
          "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
          "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// 32 channels from d on of both terms of q~ with the tile of K: sum = high terms, small (+)= low
/// terms; add = 0: small = low terms.
template <int D>
__device__ void score_on_wgmma(float (&sum)[8][4], float (&small)[8][4], uint32_t q, uint32_t k,
                               int d, int add) {
    const Operand a(q, 0), b(k, 0);
    hold(sum);
    hold(small);
    begin_products();
#pragma unroll
    for (int e = d; e < d + 32; e += 16) {
        const uint32_t at = e / 64 * k_term_cells * 128 + e % 64 * 2;  // the swizzle follows
        multiply_tiles(small, a.at(k_term_rows * D * 2 + at), b.at(at), add != 0 || e != d);
        multiply_tiles(sum, a.at(at), b.at(at), e != d);
    }
    end_products();
    wait_for_products<0>();
    hold(sum);
    hold(small);
}

/// Both terms of p with N * 8 channels of the tile of V, from `channel` on: sum, high terms of 32
/// cells each, and small are 0 before.
template <int N>
__device__ void values_on_wgmma(float (&sum)[2][N][4], float (&small)[N][4],
                                const TermFragment (&p)[4], uint32_t v, uint32_t channel) {
    const Operand b(v, k_term_cells * 128);
    hold(sum[0]);
    hold(sum[1]);
    hold(small);
    begin_products();
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
        const uint32_t at = channel / 64 * k_term_cells * 128 + step * 16 * 128 + channel % 64 * 2;
        multiply_add(small, p[step].low, b.at(at));
        multiply_add(sum[step / 2], p[step].high, b.at(at));
    }
    end_products();
    wait_for_products<0>();
    hold(sum[0]);
    hold(sum[1]);
    hold(small);
}

}  // namespace rotkv::cuda::prefill

#endif
