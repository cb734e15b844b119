#pragma once
// A tile of 16 cells of any type: which of decode_products.cuh's and decode_terms.cuh's products
// take it.
// Docs: docs/05-attention.md

#include "cuda/decode_terms.cuh"

namespace rotkv::cuda::decode {

// Asked once a tile: all pairs of types run at the same speed without a kernel for each.
template <int Terms, int Steps>
__device__ void score_cells(DType type, bool on_words, float (&s)[4], const Query<Terms, Steps>& q,
                            const CodeConstants& constants, const TwoRows& rows) {
    // clang-format off
    switch (type) {
        case DType::f32:
            if constexpr (Terms == 1) return score_plain<float>(s, q, rows);
            break;
        case DType::f16:
            return on_words ? score_plain<F16OnWords>(s, q, rows) : score_plain<F16>(s, q, rows);
        case DType::bf16:
            if constexpr (Terms == 1) {
                return on_words ? score_plain<Bf16OnWords>(s, q, rows) : score_plain<Bf16>(s, q, rows);
            }
            break;
        case DType::q8_0: return score_blocks<BlockQ8_0>(s, q, constants, rows);
        case DType::q5_1: return score_blocks<BlockQ5_1>(s, q, constants, rows);
        case DType::q5_0: return score_blocks<BlockQ5_0>(s, q, constants, rows);
        case DType::q4_1: return score_blocks<BlockQ4_1>(s, q, constants, rows);
        case DType::q4_0: return score_blocks<BlockQ4_0>(s, q, constants, rows);
        case DType::iq4_nl: return score_blocks<BlockIq4Nl>(s, q, constants, rows);
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() and decode_8_terms have refused every other type
}

template <int Terms, int D_v>
__device__ void add_cells(DType type, bool on_words, State<D_v, Terms>& state,
                          const Weights<Terms>& p, const CodeConstants& constants,
                          const FourRows& rows) {
    // clang-format off
    switch (type) {
        case DType::f32:
            if constexpr (Terms == 1) return add_plain<float>(state, p, rows);
            break;
        case DType::f16:
            return on_words ? add_plain<F16OnWords>(state, p, rows) : add_plain<F16>(state, p, rows);
        case DType::bf16:
            if constexpr (Terms == 1) {
                return on_words ? add_plain<Bf16OnWords>(state, p, rows) : add_plain<Bf16>(state, p, rows);
            }
            break;
        case DType::q8_0: return add_blocks<BlockQ8_0>(state, p, constants, rows);
        case DType::q5_1: return add_blocks<BlockQ5_1>(state, p, constants, rows);
        case DType::q5_0: return add_blocks<BlockQ5_0>(state, p, constants, rows);
        case DType::q4_1: return add_blocks<BlockQ4_1>(state, p, constants, rows);
        case DType::q4_0: return add_blocks<BlockQ4_0>(state, p, constants, rows);
        case DType::iq4_nl: return add_blocks<BlockIq4Nl>(state, p, constants, rows);
        case DType::q2_k: case DType::q3_k: case DType::q4_k: case DType::q5_k: case DType::q6_k:
        case DType::iq4_xs: case DType::mxfp4: case DType::i32: case DType::f64: break;
    }
    // clang-format on
    __builtin_unreachable();  // check() and decode_8_terms have refused every other type
}

}  // namespace rotkv::cuda::decode
