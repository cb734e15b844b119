#pragma once
// What makes rows of K, V and Q hard to quantize, in numbers: statistics of heads, the error that a
// cache type must make by law and the one that it makes, and what a rotation changes of it.
// Docs: docs/11-outliers.md

#include "ref/cache_type.h"
#include "ref/measure/metrics.h"
#include "ref/types.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

namespace rotkv {

/// Peak over root mean square: of a block of 32 its crest factor, of a head its incoherence mu.
/// Math:   max |x| / sqrt(sum x^2 / n); 1 for a constant modulus, sqrt(n) for a single value.
/// NaN for a row of zeros, as are the next two.
double crest_factor(std::span<const float> x);

/// How few values hold the energy: P4 = sum x^4 / (sum x^2)^2, 1 / n for all alike, 1 for one
/// alone. Math:   under random signs the kurtosis of a rotated row is 3 - 2 P4, in the mean over
/// signs.
double participation(std::span<const float> x);

/// How much of a row is an offset of its blocks, which types with a minimum store for nothing.
/// Math:   sqrt(sum over blocks of 32 of n_b mean_b^2 / sum x^2), 0 to 1; Gaussian: sqrt(1 / 32).
double offset_share(std::span<const float> x);

/// The statistics of one head, over all rows that were added.
struct HeadFigures {
    int64_t rows = 0;
    double kurtosis = 0;       ///< m4 / m2^2 - 3, all values pooled, their mean removed
    double crest = 0;          ///< mean over blocks of 32
    double mu = 0;             ///< mean over rows of crest_factor(row)
    double p4 = 0;             ///< mean over rows
    double offset = 0;         ///< mean over rows of offset_share(row)
    double channel_ratio = 0;  ///< rms of the loudest channel over the median rms of the channels
    int64_t loudest = 0;       ///< that channel
    double norm = 0;           ///< sqrt(mean |x|^2)
};

/// x, but no negative NaN: it prints as "nan", wherever it came from.
inline double unsigned_nan(double x) {
    return std::isnan(x) ? std::numeric_limits<double>::quiet_NaN() : x;
}

/// Takes rows one by one and keeps 2 D + 9 sums, whatever the number of rows.
class HeadStatistics {
  public:
    explicit HeadStatistics(int64_t d) : square_(static_cast<std::size_t>(d)) {}
    void add(std::span<const float> x);
    HeadFigures figures() const;
    double mean_square(int64_t channel) const;           ///< of one channel over all rows
    std::size_t size() const { return square_.size(); }  ///< D

  private:
    // Sums of powers of the values, and of what is averaged over rows or blocks.
    double s1_ = 0, s2_ = 0, s3_ = 0, s4_ = 0, crest_ = 0, mu_ = 0, p4_ = 0, offset_ = 0;
    int64_t rows_ = 0, rows_not_zero_ = 0, blocks_not_zero_ = 0;
    std::vector<double> square_;  ///< [D] sum of x^2
};

/// The squared error that quantizing a block should make, from its peak and range alone where the
/// type has even steps. The sum over the block.
/// Math:   step^2 / 12 for every value but those that set the step (Bennett 1948):
///           q8_0, q5_0, q4_0  step = peak / 127, 16, 8; 31 values; at most sum x^2 - peak^2
///           q5_1, q4_1        step = range / 31, 15; 30 values; + 32 ulp16(minimum)^2 / 12
///           iq4_nl            step = the distance of the two levels around each value
///           f16, bf16         step = ulp of each value;  f32: 0
///         q5_0, q4_0, iq4_nl: the far end opposite the peak is cut at the last level.
/// Shapes: x [32]; floats take any number of values.
/// Throws: Error(unsupported) for a type that no cache uses.
double predicted_square_error(DType type, std::span<const float> x);

/// An error twice: what the law expects, and what it is.
struct ErrorPair {
    double predicted = 0, measured = 0;
};

/// The error of one type on the rows of one head: by law, and as it is. No law is known of formats
/// of the zoo: NaN.
class TypeErrors {
  public:
    /// Throws Error(bad_argument) where d is not whole blocks of the type, Error(unsupported) for a
    /// type that no cache uses or a format that does not take such heads. `of`: whose rows they
    /// are, for formats; all of them count as rows of position 0.
    TypeErrors(const CacheType& type, int64_t d, const RowContext& of = {});
    void add(std::span<const float> x);

    /// E |e|^2 / E |x|^2.
    ErrorPair relative() const;

    /// Mean square of q.e, of what the keys' errors add to scores before they are scaled.
    /// Math:   sum_j E[q_j^2] Var[e_j]: errors of channels taken as uncorrelated, and without what
    ///         is the same for all keys, which softmax does not see. `q_square` [D] is E[q_j^2].
    ErrorPair score_noise(std::span<const double> q_square) const;

    const CacheType& type() const { return type_; }

    // Of the row that was added last: e [D], and by law the sum of e^2 in each block [D / 32].
    std::span<const float> last_error() const { return error_; }
    std::span<const double> last_predicted() const { return last_predicted_; }

  private:
    void store(std::span<const float> x);

    CacheType type_;
    RowContext of_;
    std::vector<std::byte> packed_;
    std::vector<float> back_, error_;
    std::vector<double> last_predicted_;
    double square_ = 0;  ///< sum of |x|^2
    int64_t rows_ = 0;
    std::vector<double> predicted_;   ///< [D / 32] by law, summed over rows
    std::vector<double> sum_, sum2_;  ///< [D] of e and of e^2
};

/// ln(sum of plain / sum of rotated): above 0 rotation gains; and how far that hangs on single
/// heads: the jackknife's standard error, NaN for fewer than two.
/// Equal errors, of nothing too, are no gain: 0.
/// Shapes: plain, rotated [heads], errors of the same heads.
Mean log_gain(std::span<const double> plain, std::span<const double> rotated);

/// The head whose absence moves that gain the most.
std::size_t decisive_head(std::span<const double> plain, std::span<const double> rotated);

enum class Advice {
    rotate,
    indifferent,
    hurts,
    only_rotated,  ///< the errors of the plain rows are not numbers, those of the rotated ones are
    only_plain,
    neither,
};

/// Where the sum of errors of one way is not a number there is no gain to weigh; none where both
/// are.
std::optional<Advice> advise_without_gain(double plain, double rotated);

/// The rule of docs/11-outliers.md: a gain counts where it is larger than two of its errors and
/// larger than the distance between the measured and the predicted one.
Advice advise(const Mean& measured, const Mean& predicted);

}  // namespace rotkv
