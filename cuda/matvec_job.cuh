#pragma once
// What a launch of products with weights computes (matvec.cu, matmul_few.cu): up to three weights
// of one src, the norm before them, act_mul or a sum behind. Docs: docs/08-backends.md

#include "cuda/activation.cuh"
#include "cuda/kernels.h"
#include "cuda/matvec.cuh"

#include <span>

namespace rotkv::cuda {

/// One weight: its rows belong to the blocks from `first_block` on, 2^split warps share one.
struct Product {
    TensorView dst, weight;
    uint32_t out, split, first_block, row_bytes;
};

/// The norm that makes the activations, of one token.
struct Norm {
    const float *src, *weight;  // weight: null where it has none
    float* dst;
    float epsilon;
};

/// What is added to the product: another summand, for each token.
struct Sum {
    Rows dst, other;
    bool is_asked_for, other_first;
};

/// All of it: the arguments of a kernel.
struct Job {
    Product product[k_most_products];
    TensorView src;
    uint32_t in, tokens;
    bool vectors;  // do the activations begin on 16 bytes?
    bool gated;    // are these gate and up, whose rows take turns, and is act_mul asked for?
    Activation activation;
    Norm norm;
    Sum sum;
};

/// Lays the products of a launch side by side; blocks_of(rows, split) are the blocks of one, whose
/// rows have 2^split warps each. Of gate and up the first one's blocks make both.
/// Returns: the blocks of all.
template <class BlocksOf>
unsigned place(Job& job, std::span<const MatmulArgs> calls, const BlocksOf& blocks_of) {
    unsigned blocks = 0;
    for (std::size_t i = 0; i < k_most_products; ++i) {
        Product& product = job.product[i];
        product.first_block = UINT32_MAX;
        if (i >= calls.size()) continue;
        const MatmulArgs& args = calls[i];
        product.dst = args.dst;
        product.weight = args.weight;
        product.out = uint32_t(args.weight.n[2]);
        product.split = split_of(args.weight.n[2], job.in);
        product.row_bytes = uint32_t(row_bytes(args.weight.type, job.in));
        if (job.gated && i > 0) continue;
        product.first_block = blocks;
        blocks += blocks_of(args.weight.n[2], product.split);
    }
    return blocks;
}

/// A product's sum of token t and row o, to where it belongs; `other` is what is added to it.
__device__ inline float other_of(const Job& job, uint32_t t, uint32_t o) {
    return job.sum.is_asked_for ? job.sum.other.row<const float>(t)[o] : 0.0f;
}
__device__ inline void store(const Job& job, const Product& product, uint32_t t, uint32_t o,
                             float y, float other) {
    reinterpret_cast<float*>(product.dst.data + t * product.dst.stride[2])[o] = y;
    if (!job.sum.is_asked_for) return;
    job.sum.dst.row<float>(t)[o] = job.sum.other_first ? other + y : y + other;
}

/// What `args`, behind a product, asks for; null: nothing.
inline Sum sum_of(const MatmulArgs& product, const AddArgs* args) {
    if (args == nullptr) return {Rows(product.dst), Rows(product.dst), false, false};
    const bool other_first = args->b == product.dst;
    return {Rows(args->dst), Rows(other_first ? args->a : args->b), true, other_first};
}

}  // namespace rotkv::cuda
