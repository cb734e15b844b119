#include "ref/measure/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace rotkv {

static constexpr double k_unknown = std::numeric_limits<double>::quiet_NaN();

static double plain_mean(std::span<const double> x) {
    double sum = 0;
    for (const double value : x) sum += value;
    return x.empty() ? k_unknown : number_or_nan(sum / double(x.size()));
}

// Covariance of the means of x and y. Two passes: with the products of deviations nothing cancels,
// so that equal values have an error of exactly 0.
static double covariance_of_means(std::span<const double> x, std::span<const double> y) {
    if (x.size() < 2) return k_unknown;
    const double n = double(x.size()), mean_x = plain_mean(x), mean_y = plain_mean(y);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - mean_x) * (y[i] - mean_y);
    return number_or_nan(sum / n / (n - 1));
}

int64_t count_not_numbers(std::span<const double> x) {
    return std::count_if(x.begin(), x.end(), [](double value) { return !is_number(value); });
}

Mean mean_of(std::span<const double> x) {
    return {plain_mean(x), std::sqrt(covariance_of_means(x, x))};
}

// What is not a number has no place in an order: with it, nothing is left.
static std::vector<double> sorted_numbers(std::vector<double> x) {
    if (count_not_numbers(x) > 0) return {};
    std::sort(x.begin(), x.end());
    return x;
}

static double sorted_quantile(std::span<const double> x, double q) {
    if (x.empty()) return k_unknown;
    const double place = std::clamp(q, 0.0, 1.0) * double(x.size() - 1);
    const std::size_t below = std::size_t(place), above = std::min(below + 1, x.size() - 1);
    const double part = place - double(below);
    return (1 - part) * x[below] + part * x[above];
}

double quantile(std::vector<double> x, double q) {
    return sorted_quantile(sorted_numbers(std::move(x)), q);
}

// exp of a mean: to first order the error grows by the derivative, which is the value itself.
static Mean exponential(Mean log) {
    const double value = number_or_nan(std::exp(log.value));  // e^710 is more than a double holds
    return {value, number_or_nan(value * log.error)};
}

Mean perplexity(std::span<const double> nll) { return exponential(mean_of(nll)); }

std::vector<double> figures_of(std::span<const TokenPair> pairs, double TokenPair::*figure) {
    std::vector<double> figures;
    for (const TokenPair& pair : pairs) {
        const bool known = figure != &TokenPair::kld || pair.comparable();
        figures.push_back(known ? number_or_nan(pair.*figure) : k_unknown);
    }
    return figures;
}

static double delta_p(const TokenPair& token) {
    if (!token.comparable()) return k_unknown;
    return std::exp(-token.nll_b) - std::exp(-token.nll_a);
}

// Both runs saw the same tokens, so their errors are largely shared; the covariance takes that out
// of every comparison.
static void compare_perplexities(KldMeans& s, std::span<const double> nll_a,
                                 std::span<const double> nll_b) {
    const Mean log_a = mean_of(nll_a), log_b = mean_of(nll_b);
    s.ppl_a = exponential(log_a);
    s.ppl_b = exponential(log_b);
    std::vector<double> change;
    for (std::size_t i = 0; i < nll_a.size(); ++i) change.push_back(nll_b[i] - nll_a[i]);
    s.log_ratio = mean_of(change);
    s.ratio = exponential(s.log_ratio);
    const double covariance = covariance_of_means(nll_a, nll_b);
    // In units of the larger one, whose square may be more than a double holds.
    const double unit = std::max(s.ppl_a.value, s.ppl_b.value);
    const double a = s.ppl_a.value / unit, b = s.ppl_b.value / unit;
    const double variance = a * a * log_a.error * log_a.error + b * b * log_b.error * log_b.error -
                            2 * a * b * covariance;
    // Rounding may leave a little less than nothing; in this order max() keeps a NaN.
    s.difference = {number_or_nan(s.ppl_b.value - s.ppl_a.value),
                    number_or_nan(unit * std::sqrt(std::max(variance, 0.0)))};
    const double both = log_a.error * log_b.error;
    s.correlation = both > 0 ? covariance / both : k_unknown;
}

KldMeans summarize_means(std::span<const TokenPair> tokens) {
    std::vector<double> dp, dp_square, same_top;
    const std::vector<double> nll_a = figures_of(tokens, &TokenPair::nll_a);
    const std::vector<double> nll_b = figures_of(tokens, &TokenPair::nll_b);
    for (const TokenPair& token : tokens) {
        dp.push_back(delta_p(token));
        dp_square.push_back(dp.back() * dp.back());
        same_top.push_back(!token.comparable() ? k_unknown : token.same_top ? 1 : 0);
    }
    KldMeans s;
    s.not_numbers = count_not_numbers(same_top);
    s.kld = mean_of(figures_of(tokens, &TokenPair::kld));
    s.delta_p = mean_of(dp);
    s.same_top = mean_of(same_top);
    const Mean square = mean_of(dp_square);
    const double rms = std::sqrt(square.value);
    s.dp_rms = {rms, rms > 0 ? square.error / (2 * rms) : square.error};
    compare_perplexities(s, nll_a, nll_b);
    if (s.not_numbers == 0) return s;
    s.log_ratio = s.ratio = s.difference = {k_unknown, k_unknown};
    s.correlation = k_unknown;
    return s;
}

KldSummary summarize(std::span<const TokenPair> tokens) {
    KldSummary s{summarize_means(tokens)};
    std::vector<double> changes;
    for (const TokenPair& token : tokens) changes.push_back(delta_p(token));
    const std::vector<double> kld = sorted_numbers(figures_of(tokens, &TokenPair::kld));
    const std::vector<double> dp = sorted_numbers(std::move(changes));
    s.kld_min = sorted_quantile(kld, 0);
    s.kld_01 = sorted_quantile(kld, 0.001);
    s.kld_1 = sorted_quantile(kld, 0.01);
    s.kld_5 = sorted_quantile(kld, 0.05);
    s.kld_10 = sorted_quantile(kld, 0.10);
    s.kld_median = sorted_quantile(kld, 0.50);
    s.kld_90 = sorted_quantile(kld, 0.90);
    s.kld_95 = sorted_quantile(kld, 0.95);
    s.kld_99 = sorted_quantile(kld, 0.99);
    s.kld_999 = sorted_quantile(kld, 0.999);
    s.kld_max = sorted_quantile(kld, 1);
    s.dp_min = sorted_quantile(dp, 0);
    s.dp_01 = sorted_quantile(dp, 0.001);
    s.dp_1 = sorted_quantile(dp, 0.01);
    s.dp_5 = sorted_quantile(dp, 0.05);
    s.dp_10 = sorted_quantile(dp, 0.10);
    s.dp_25 = sorted_quantile(dp, 0.25);
    s.dp_median = sorted_quantile(dp, 0.50);
    s.dp_75 = sorted_quantile(dp, 0.75);
    s.dp_90 = sorted_quantile(dp, 0.90);
    s.dp_95 = sorted_quantile(dp, 0.95);
    s.dp_99 = sorted_quantile(dp, 0.99);
    s.dp_999 = sorted_quantile(dp, 0.999);
    s.dp_max = sorted_quantile(dp, 1);
    return s;
}

}  // namespace rotkv
