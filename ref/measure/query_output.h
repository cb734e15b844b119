#pragma once
// One query's attention in f64, straight from the definition, and how far errors of the keys and
// values that it reads move its output.
// Docs: docs/11-outliers.md

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace rotkv {

/// scale q.k_t for every row of keys [n][d], d the length of q.
std::vector<double> query_scores(std::span<const float> q, std::span<const float> keys,
                                 double scale);

/// sum_t weight_t v_t of values [n][d], n the number of weights.
std::vector<double> weighted_sum(std::span<const double> weight, std::span<const float> values);

/// The output o = sum_t p_t v_t of one query, p = softmax(c tanh(s / c)), or softmax(s) where
/// c = 0. A sink is one more term of softmax's sum, without a value: then the p_t sum to less than
/// 1. Errors are squares of lengths.
class QueryOutput {
  public:
    /// Shapes: scores [n], n > 0, before the softcap c; values [n][d], which must outlive this.
    /// `sink`: its score, which no cap meets; -inf: none.
    QueryOutput(std::vector<double> scores, double softcap, std::span<const float> values,
                double sink = -HUGE_VAL);

    const std::vector<double>& scores() const { return scores_; }
    const std::vector<double>& p() const { return p_; }            ///< [n]
    const std::vector<double>& output() const { return output_; }  ///< [d]
    double square() const;                                         ///< |o|^2
    double sink_share() const;                                     ///< 1 - sum_t p_t

    /// softmax of other scores under the same softcap.
    std::vector<double> probabilities(std::vector<double> scores) const;

    /// The softcap's slope at the score of row t: 1 - tanh(s_t / c)^2, 1 without.
    double slope(std::size_t t) const;

    /// |o' - o|^2 with `noise` [n] added to the scores: exact, whatever its size.
    double key_error(std::span<const double> noise) const;

    /// |sum_t p_t e_t|^2 for errors [n][d] of the values.
    double value_error(std::span<const float> errors) const;

    /// What the law expects of the two, to first order, for errors of keys that know nothing of
    /// each other: sum_t p_t^2 slope_t^2 variance_t |v_t - o|^2, and sum_t p_t^2 square_t.
    /// `variance` [n] is the noise's, `square` [n] that of |e_t|.
    double expected_key_error(std::span<const double> variance) const;
    double expected_value_error(std::span<const double> square) const;

  private:
    std::vector<double> scores_, p_, output_;  ///< [n], [n], [d]
    std::vector<double> away_;                 ///< [n] |v_t - o|^2
    double softcap_, sink_;
    std::span<const float> values_;
};

}  // namespace rotkv
