#pragma once
// From per-token numbers to the figures people quote: perplexity, KL divergence, agreement.
//
// THE RULE for what is not a number: where any value that a figure rests on is not finite, the
// figure is NaN, and it is said how many values are not. Nothing is left out of a mean, and nothing
// that has no order is sorted: a cache that overflows in one place must not look like a good one.
// Every NaN that leaves this file is positive, and prints as "nan".
// Docs: docs/07-measuring.md

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace rotkv {

/// Not a NaN, not infinite.
inline bool is_number(double x) { return std::isfinite(x); }

/// x, or NaN where it is not a number; never a negative NaN, whatever x was.
inline double number_or_nan(double x) {
    return is_number(x) ? x : std::numeric_limits<double>::quiet_NaN();
}

/// How many of the values are not numbers.
int64_t count_not_numbers(std::span<const double> x);

/// A mean and its standard error, both over tokens taken as independent.
struct Mean {
    double value = 0, error = 0;
};

/// Math:   mean = sum x / n, error = sqrt(sum (x - mean)^2 / n / (n - 1)); sums in index order.
///         Nothing has no mean and a single value no error: those are NaN. So are both where any
///         value is not a number.
Mean mean_of(std::span<const double> x);

/// The q-quantile (0 <= q <= 1) of the values, linear between order statistics; NaN of nothing
/// and where any value is not a number.
double quantile(std::vector<double> x, double q);

/// exp(mean nll), with the error carried through the exponential. NaN where that is more than a
/// double holds, from a mean of 710 nats on.
Mean perplexity(std::span<const double> nll);

/// One scored position under a base cache (a) and another one (b).
struct TokenPair {
    double kld = 0;  ///< sum_v p_a (log p_a - log p_b), nats
    double nll_a = 0, nll_b = 0;
    bool same_top = false;  ///< the same most likely word; says nothing unless comparable()
    bool tied = false;      ///< of a base in 16-bit codes: several words were its most likely one

    /// All three figures are numbers. Logits that are not have no most likely word.
    bool comparable() const { return is_number(kld) && is_number(nll_a) && is_number(nll_b); }
};

/// One figure of every pair: figures_of(pairs, &TokenPair::kld). NaN for what is not a number, and
/// for the KLD of every pair that is not comparable().
std::vector<double> figures_of(std::span<const TokenPair> pairs, double TokenPair::*figure);

/// The figures that need no sorting. Cheap enough to print after every window.
/// Math:   errors of derived figures to first order (delta method): ppl e, ratio e with e the error
///         of the logarithm; difference sqrt(e_a^2 + e_b^2 - 2 ppl_a ppl_b cov) with cov the
///         covariance of the two mean nll; rms e / (2 rms) with e that of the mean square.
struct KldMeans {
    /// Pairs that are not comparable(). With one of them every figure below is NaN, but for a
    /// perplexity whose own values are all numbers.
    int64_t not_numbers = 0;
    Mean kld;
    Mean delta_p;  ///< p_b - p_a of the true next token, in [-1, 1]
    Mean dp_rms;
    Mean same_top;  ///< share in [0, 1]
    Mean ppl_a, ppl_b;
    Mean log_ratio;          ///< mean of nll_b - nll_a = ln(ppl_b / ppl_a)
    Mean ratio;              ///< ppl_b / ppl_a
    Mean difference;         ///< ppl_b - ppl_a
    double correlation = 0;  ///< of nll_a and nll_b; NaN where one of them does not vary
};
KldMeans summarize_means(std::span<const TokenPair> tokens);

/// What llama-perplexity --kl-divergence prints, under the same names. Digits after a prefix are a
/// percentile: kld_90 is 90 %, kld_999 99.9 %, kld_01 0.1 %.
struct KldSummary : KldMeans {
    double kld_min = 0, kld_01 = 0, kld_1 = 0, kld_5 = 0, kld_10 = 0, kld_median = 0, kld_90 = 0,
           kld_95 = 0, kld_99 = 0, kld_999 = 0, kld_max = 0;
    double dp_min = 0, dp_01 = 0, dp_1 = 0, dp_5 = 0, dp_10 = 0, dp_25 = 0, dp_median = 0,
           dp_75 = 0, dp_90 = 0, dp_95 = 0, dp_99 = 0, dp_999 = 0, dp_max = 0;
};
KldSummary summarize(std::span<const TokenPair> tokens);

}  // namespace rotkv
