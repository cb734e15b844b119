#pragma once
// A product with a weight for few tokens, where the weight's bytes set the pace.
// Docs: docs/08-backends.md

#include "ref/backend.h"

#include <cstdint>
#include <span>

namespace rotkv::fast {

/// So many tokens are few. Up to here a product is not rounded, can join others by any way
/// (joined.cpp), and is not worth making terms of its weight (packed_products.h).
inline constexpr int64_t k_few_tokens = 12;

/// y[t, o] = sum_i w[o, i] x[t, i], as matmul.
/// Cost: reads the weight once for four tokens. Error: below in * 2^-24 sum_i |w_i x_i|.
void matvec(const MatmulArgs& args);

/// The same for one token whose activations are digits of eight bits (digits.h), and the types of
/// weights that it takes. matvec_digits.cpp. Error: a third more than matvec's.
void matvec_digits(const MatmulArgs& args);
bool takes_digits(const MatmulArgs& args);

/// The product twice, the second version one idea further from ref's loops.
struct MatvecVersion {
    const char* name;
    bool (*takes)(const MatmulArgs& args);
    void (*run)(const MatmulArgs& args);
};
inline constexpr MatvecVersion k_matvec_ladder[] = {
    {"1_floats", takes_digits, matvec},
    {"2_digits", takes_digits, matvec_digits},
};

/// A weight [out][in] and the tokens that it meets, whose rows may lie anywhere:
/// y[t][o] = sum_i w[o, i] x[t][i].
struct RowsProduct {
    TensorView weight;
    std::span<const float* const> x;
    std::span<float* const> y;
};

/// Several of them in one round of work, whatever the types and shapes of their weights.
void matvec(std::span<const RowsProduct> products);

/// The same, of which the first half are gates of the second: y = act(gate) * up, in place of gate.
void matvec_gated(std::span<const RowsProduct> gates_and_ups, Activation activation);

}  // namespace rotkv::fast
