#pragma once
// Statistics of figures that several caches gave on the same tokens: differences with an error of
// their own, when to stop, and where in a window it happened.
//
// The unit is the window. Windows share nothing but the text, while the tokens of one share a
// cache, a page and a difficulty; means of windows may therefore be taken as independent whatever
// the correlation inside. All windows have the same number of tokens.
// Docs: docs/07-measuring.md

#include "ref/measure/metrics.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv::tools {

/// The mean of each window; x holds whole windows of `per_window` values.
std::vector<double> window_means(std::span<const double> x, int64_t per_window);

/// The mean of x with the error that its windows show; NaN error for a single window.
/// Math:   error = sd(window means) / sqrt(windows)
Mean mean_by_windows(std::span<const double> x, int64_t per_window);

/// The mean of a - b, token by token, with the error of windows: what is hard for both caches is
/// in neither the difference nor its error.
Mean paired_difference(std::span<const double> a, std::span<const double> b, int64_t per_window);

/// The probability that a Student t variable of `freedom` >= 1 degrees exceeds |t|, either side.
/// Math:   theta = atan(|t| / sqrt(freedom)), then the finite sums in sin and cos of theta.
/// Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
double student_p(double t, int64_t freedom);

/// The chance of such a difference between equals: the two-sided t test over the windows; 1 where
/// there is nothing to tell (one window, or no difference), 0 for a difference that never varies.
/// NaN for a difference that is not a number: nothing is known of it, least of all that it is none.
double p_of(const Mean& difference, int64_t windows);

/// A difference with a smaller p counts as one where sentences are made of figures.
inline constexpr double k_doubt = 0.05;

/// The two-sided quantile of Student's t: the t > 0 of which student_p() is `p` in (0, 1), to 1e-9
/// of it for p >= 1e-6.
double student_t(double p, int64_t freedom);

/// The smallest difference, whatever its sign, of which p_of() would be `p` if it varied as this
/// one does: what so many windows can show at the two-sided level `p`. Its power is one half: of
/// texts of as many windows, every second would show a true difference of exactly this size (for
/// four in five it must be 1.3 to 1.4 times as large). NaN for fewer than two windows.
/// Math:   t(p, windows - 1) error
double smallest_difference(const Mean& difference, int64_t windows, double p);

/// When looking again and again is still honest: look k may stop with at most level / (k (k + 1))
/// of the error probability, and these shares add up to the whole over any number of looks.
class StoppingRule {
  public:
    /// A test of fewer windows rests on the shape of their distribution.
    static constexpr int64_t k_fewest_windows = 4;

    /// `certainty` in (0, 1), 0.99 for 99 %.
    explicit StoppingRule(double certainty) : error_(1 - certainty) {}

    /// Looks once more; true: the difference's sign is certain, stop. Too few windows are no look.
    bool look(const Mean& difference, int64_t windows);

    int64_t looks() const { return looks_; }

    /// What p the k-th look has to reach.
    double threshold(int64_t k) const { return error_ / double(k) / double(k + 1); }

  private:
    double error_ = 0;
    int64_t looks_ = 0;
};

/// Scored positions first .. last of the windows (counted from the window's beginning).
struct PositionBin {
    int64_t first = 0, last = 0;
    Mean mean;  ///< of x there, error by windows
};

/// Cuts the scored positions, the first of which is `first_scored`, into `bins` runs as equal as
/// they can be (fewer where there are fewer positions).
std::vector<PositionBin> by_position(std::span<const double> x, int64_t per_window,
                                     int64_t first_scored, int64_t bins);

}  // namespace rotkv::tools
