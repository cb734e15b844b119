#pragma once
// The least that a forward pass computes and reads on any backend: the numerators of GFLOP/s and
// GB/s.
// Docs: docs/performance.md

#include "ref/files/gguf.h"
#include "ref/model.h"

#include <cstdint>

namespace rotkv::tools {

struct PassCost {
    double flops = 0;  ///< a product and its sum count as two
    double bytes = 0;  ///< read from weights and cache

    PassCost& operator+=(const PassCost& other) {
        flops += other.flops;
        bytes += other.bytes;
        return *this;
    }
};

/// One forward pass over `tokens` tokens of one sequence at positions `first`, first + 1, ..., and
/// the logits of its last token where `with_logits`.
/// Math: flops = 2 tokens (elements of the matrices, of X experts those of A)
///             + sum over layers and tokens of 2 H (Dk + Dv) (visible cells)
///             + 6 tokens Hv D^2 for each layer that keeps a state
///             + 2 V E for the logits
///       bytes = the matrices, of experts X (1 - (1 - A / X)^tokens): so many of X are expected
///               where tokens choose evenly; A for one token
///             + per layer every cell that some token sees, once, or its state, once
///             + the output matrix for the logits
/// Left out: norms, biases, rows of tables, activations, RoPE, the choice of experts beyond its
///       matrix, the rotations (rows with and without count the same work) and what is written.
PassCost cost_of_pass(const GgufFile& file, const Model& model, const KvShape& cache, int64_t first,
                      int64_t tokens, bool with_logits);

}  // namespace rotkv::tools
