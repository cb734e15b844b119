#pragma once
// Operations of a mixture of experts: which experts a token has and how much each counts (route),
// products with the matrices of those alone (expert_matmul), and their sum (expert_sum).
// X experts lie in a weight [X][out][in]; a token uses A of them.
// Docs: docs/18-models.md

#include "ref/types.h"

#include <cstdint>

namespace rotkv {

/// What p of an expert is, from its logit z. GGUF's expert_gating_func counts them from 1.
enum class Gating {
    softmax,         ///< exp(z) / sum of exp(z) over all X
    sigmoid,         ///< 1 / (1 + exp(-z))
    softmax_chosen,  ///< exp(z) / sum of exp(z) over the chosen A; to choose by, z itself
    sqrt_softplus,   ///< sqrt(log(1 + exp(z)))
};

/// Chooses A experts for each token and weighs them.
///   s = p + selection_bias             the score of an expert; without a bias, experts are in the
///                                      order of z, which is that of p before it was rounded
///   a group's score                    sum of its two largest s (of its only one)
///   chosen                             the A largest of the `groups_used` largest groups, in this
///                                      order; of equals, groups too, the lower index
///   w = p / max(sum p, 2^-14)          with `normalise`, the sum over the chosen, in their order
///   weight = w * scale * expert_scale[id]
/// p, s and w are f64 made of operations that IEEE machines do alike (ref/experts.h), and weights
/// are rounded once: ids and weights are the same on every backend, to the bit.
/// A NaN counts as the largest: an expert whose logit or bias is not a number is chosen, and its
/// weight is a NaN. Ids are distinct numbers from 0 to X - 1, whatever the logits are.
struct RouteArgs {
    static constexpr const char* name = "route";

    TensorView id;                ///< [T][A] i32
    TensorView weight;            ///< [T][A] f32
    TensorView logits;            ///< [T][X] f32
    TensorView selection_bias{};  ///< [X] f32 or empty
    TensorView expert_scale{};    ///< [X] f32 or empty: of experts whose outputs are scaled
    Gating gating = Gating::softmax;
    int64_t groups = 1;       ///< of X / groups neighbours each
    int64_t groups_used = 1;  ///< these must have A experts
    bool normalise = false;
    float scale = 1;  ///< 0 counts as 1, as files have it

    bool operator==(const RouteArgs&) const = default;
};

/// y[t, a, o] = sum_i w[id[t, a], o, i] x[t, a, i] + bias[id[t, a], o].
/// Reads the matrices of the experts in `id` alone. What is the same for all a (or for all t, ids
/// too) has a stride of 0 there: x of one token for all its experts; matrices of heads, which are
/// experts that everybody has, id[t, h] = h.
/// Precondition: 0 <= id < X. It is not checked, as all contents of index views.
struct ExpertMatmulArgs {
    static constexpr const char* name = "expert_matmul";

    TensorView dst;                        ///< [T][A][out] f32
    TensorView weight;                     ///< [X][out][in] any weight type
    TensorView src;                        ///< [T][A][in] f32
    TensorView id;                         ///< [T][A] i32
    TensorView bias{};                     ///< [X][out] f32 or empty
    Precision precision = Precision::f32;  ///< of the products, as in MatmulArgs

    bool operator==(const ExpertMatmulArgs&) const = default;
};

/// y[t, i] = sum_a weight[t, a] x[t, a, i], in f64 from a = 0 on, rounded once.
struct ExpertSumArgs {
    static constexpr const char* name = "expert_sum";

    TensorView dst;     ///< [T][E] f32
    TensorView src;     ///< [T][A][E] f32
    TensorView weight;  ///< [T][A] f32

    bool operator==(const ExpertSumArgs&) const = default;
};

}  // namespace rotkv
