#pragma once
// Where the error of attention outputs comes from when keys and values are stored in another way:
// through the scores or through the values, and how much of the scores' part is nothing but
// another temperature. In f64, from the definitions.
// Docs: docs/13-where-the-error-comes-from.md

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

/// One query and the n cells it sees: keys [n][Dk] and values [n][Dv], as the base holds them and
/// as they come back from another cache, all rotated back to plain channels.
struct ObservedQuery {
    double scale = 1, softcap = 0;
    double sink = -HUGE_VAL;   ///< a score that takes probability and gives no value; -inf: none
    std::span<const float> q;  ///< [Dk]
    std::span<const float> k, v;
    std::span<const float> stored_k, stored_v;
};

/// Sums over queries. Outputs: o with both sides as in the base, o_K with stored keys only, o_V
/// with stored values only, o_KV with both; e = o_K - o; g = do / d ln beta at beta = 1, where all
/// scores are multiplied by beta (an inverse temperature). A row that came back as no number makes
/// NaN of every sum that it is in.
struct OutputErrors {
    int64_t queries = 0;
    double output = 0;              ///< |o|^2
    double both = 0;                ///< |o_KV - o|^2
    double keys = 0, values = 0;    ///< |e|^2, |o_V - o|^2
    double along = 0, turning = 0;  ///< e.g, |g|^2
    double own = 0;                 ///< (e.g)^2 / |g|^2, query by query
    double own_by_chance = 0;       ///< what own would be if scores had independent, equal noise
    double covariance = 0, score_variance = 0;  ///< of stored scores with scores; of scores

    void add(const OutputErrors& other);

    /// What the two sides make together beyond the sum of each alone; may be negative.
    double product() const { return both - keys - values; }

    /// The part of `keys` that one change of temperature, the same for all queries, explains: the
    /// least-squares fit of e by x g takes (e.g)^2 / |g|^2 off |e|^2.
    double temperature() const { return turning <= 0 ? 0 : along * along / turning; }

    /// Stored scores ~ slope * scores + a constant of the query; below 1 they have shrunk.
    double slope() const { return score_variance <= 0 ? 1 : covariance / score_variance; }
};

/// Splits the error of one query's output.
/// Math:   s_c = scale q.k_c, p = softmax(softcap tanh(s / softcap)) or softmax(s), the sink's exp
///         in its sum, o = sum p_c v_c
///         g = sum_c p_c (w_c s_c - sum_b p_b w_b s_b) v_c, w the softcap's slope (1 without)
///         covariance = sum_c p_c (s_c - mean)(s'_c - mean'), means weighted by p too,
///         whose sum is what the sink leaves
///         own_by_chance = |e|^2 sum_c (u_c.g)^2 / |g|^2 / sum_c |u_c|^2, u_c = p_c w_c (v_c - o)
/// Throws: Error(bad_argument) for rows of other lengths or no cell at all.
OutputErrors split_output_error(const ObservedQuery& query);

}  // namespace rotkv::tools
