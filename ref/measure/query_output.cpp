#include "ref/measure/query_output.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace rotkv {

std::vector<double> query_scores(std::span<const float> q, std::span<const float> keys,
                                 double scale) {
    std::vector<double> scores;
    for (std::size_t at = 0; at < keys.size(); at += q.size()) {
        double sum = 0;
        for (std::size_t j = 0; j < q.size(); ++j) sum += double(q[j]) * double(keys[at + j]);
        scores.push_back(scale * sum);
    }
    return scores;
}

std::vector<double> weighted_sum(std::span<const double> weight, std::span<const float> values) {
    const std::size_t d = values.size() / weight.size();
    std::vector<double> sum(d, 0.0);
    for (std::size_t t = 0; t < weight.size(); ++t) {
        for (std::size_t j = 0; j < d; ++j) sum[j] += weight[t] * double(values[t * d + j]);
    }
    return sum;
}

static double sum_of_squares(std::span<const double> x) {
    double sum = 0;
    for (const double value : x) sum += value * value;
    return sum;
}

QueryOutput::QueryOutput(std::vector<double> scores, double softcap, std::span<const float> values,
                         double sink)
    : scores_(std::move(scores)), softcap_(softcap), sink_(sink), values_(values) {
    p_ = probabilities(scores_);
    output_ = weighted_sum(p_, values);
    const std::size_t d = output_.size();
    for (std::size_t t = 0; t < p_.size(); ++t) {
        double square = 0;
        for (std::size_t j = 0; j < d; ++j) {
            square += std::pow(double(values[t * d + j]) - output_[j], 2);
        }
        away_.push_back(square);
    }
}

std::vector<double> QueryOutput::probabilities(std::vector<double> p) const {
    for (double& s : p) s = softcap_ > 0 ? softcap_ * std::tanh(s / softcap_) : s;
    const double largest = std::max(*std::max_element(p.begin(), p.end()), sink_);
    double sum = std::exp(sink_ - largest);
    for (double& value : p) sum += value = std::exp(value - largest);
    for (double& value : p) value /= sum;
    return p;
}

double QueryOutput::slope(std::size_t t) const {
    const double part = softcap_ > 0 ? std::tanh(scores_[t] / softcap_) : 0;
    return 1 - part * part;
}

double QueryOutput::sink_share() const {
    if (sink_ == -HUGE_VAL) return 0;
    return 1 - std::accumulate(p_.begin(), p_.end(), 0.0);
}

double QueryOutput::square() const { return sum_of_squares(output_); }

double QueryOutput::key_error(std::span<const double> noise) const {
    std::vector<double> change = scores_;
    for (std::size_t t = 0; t < change.size(); ++t) change[t] += noise[t];
    change = probabilities(std::move(change));
    for (std::size_t t = 0; t < change.size(); ++t) change[t] -= p_[t];
    return sum_of_squares(weighted_sum(change, values_));
}

double QueryOutput::value_error(std::span<const float> errors) const {
    return sum_of_squares(weighted_sum(p_, errors));
}

double QueryOutput::expected_key_error(std::span<const double> variance) const {
    double sum = 0;
    for (std::size_t t = 0; t < p_.size(); ++t) {
        sum += std::pow(p_[t] * slope(t), 2) * variance[t] * away_[t];
    }
    return sum;
}

double QueryOutput::expected_value_error(std::span<const double> square) const {
    double sum = 0;
    for (std::size_t t = 0; t < p_.size(); ++t) sum += p_[t] * p_[t] * square[t];
    return sum;
}

}  // namespace rotkv
