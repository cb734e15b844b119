#pragma once
// How far another engine's output may lie from ours when all that differs is what the rules let it
// store, and the precision that it computes in.
// Docs: docs/10-testing-your-engine.md

#include "ref/cases/mistake.h"

#include <span>
#include <vector>

namespace rotkv {

/// What an engine may round on its way, beside what the cache's type rounds.
enum class PathPrecision {
    f32,  ///< nothing
    f16,  ///< q, K, V and the probabilities to f16
    q8    ///< as f16, and the rotated q to 8 bits: blocks of 32 with one scale, as q8_0
};

/// Bounds of |theirs - ours| for the output of attention over rows of which theirs differ from ours
/// by at most `k_reach` and `v_reach`.
/// Math:   a score of cell i moves by at most
///           D_i = scale sum_j (|q~_j| k_reach_ij + q_error_j (|k_ij| + k_reach_ij));
///         tanh moves less. With M = log sum_i p_i exp(D_i) a probability's ratio to ours lies
///         between exp(-D_i - M) and exp(D_i + M), and because theirs add up to 1 as ours do,
///           |o_j' - o_j| <= sum_i p_i (exp(D_i + M) - 1) |u_ij - o_j|
///                           + (1 / sqrt(N)) sum over j's block of sum_i p_i exp(D_i + M) v_reach_i
///         with u_i the values rotated back; a sink is a cell of value 0.
/// Shapes: k_reach, v_reach as in.k, in.v; result [T][H][Dv].
std::vector<double> path_allowance(const RowsOfAttention& in, std::span<const float> k_reach,
                                   std::span<const float> v_reach, PathPrecision precision);

}  // namespace rotkv
