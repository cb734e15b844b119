#include "ref/cases/head_scores.h"

#include "ref/cases/case_of.h"

#include <algorithm>
#include <cmath>

namespace rotkv {

double HeadScores::largest() const {
    double top = sink;
    for (const auto& [cell, score] : of_cell) top = std::max(top, score);
    return top;
}

double HeadScores::denominator() const {
    const double top = largest();
    if (top == -INFINITY) return 0;
    double sum = sink == -INFINITY ? 0 : std::exp(sink - top);
    for (const auto& [cell, score] : of_cell) sum += std::exp(score - top);
    return sum;
}

// The sum is off like a probability's denominator, by u (walk(C) + 6 + (walk(D) + 6) S) of itself,
// and its log by as much, absolutely. The log is taken in units of exp(largest) and lies within
// |lse| + |largest| of 0, |largest| <= S: 2 u of that are its own; adding the largest score is
// u |lse|, and the reference's one rounding another. A sink that is the largest lies within
// log(C + 1) of lse, and so does the log then.
double lse_bound(const HeadScores& s, int64_t cells, int64_t d, float expected) {
    if (!std::isfinite(expected)) return 0;
    return k_unit *
           (walk(cells) + 6 + (walk(d) + 8) * s.magnitude + 4 * std::fabs(double(expected)));
}

void F16Error::add(const HeadScores& scores) {
    energy_ = std::max(energy_, scores.energy);
    const double sum = scores.denominator();
    if (sum == 0 || !std::isfinite(sum)) return;
    lost_ += double(scores.of_cell.size()) / (sum * sum);
    ++rows_;
}

// q, k, p and v are rounded to f16, each by a relative error of variance 2^-24 / 3 at most. Two of
// them move a score by an error of variance 2^-24 2/3 e^2, e^2 = sum (scale q_d k_d)^2, and
// probabilities by as much, relatively; p and v add 2^-24 2/3. Values that cancel in the sum make
// the result smaller than its terms: a factor of 16.
double F16Error::relative() const { return 16 * 0x1p-24 * 2 / 3 * (energy_ + 1); }

// Sum and number of the squares of what is finite.
static std::pair<double, double> squares(std::span<const float> values) {
    double square = 0, count = 0;
    for (const float x : values) {
        if (!std::isfinite(x)) continue;
        square += double(x) * double(x);
        ++count;
    }
    return {square, count};
}

// Small values lose what lies below f16's smallest step, 2^-24. v is off by half a step, times p;
// of blocks, whose p d may be what is rounded, by half a step times a code of at most 127, where p
// counts 64 at its largest. So each of the n terms is off by less than a step, with a variance of
// 2^-48 / 3, in units of Z, the sum of exp(score - largest): the square of an output's error is
// n 2^-48 / (3 Z^2), absolutely, and the rotation back keeps it in the mean.
double F16Error::bound(std::span<const float> expected) const {
    const auto [square, count] = squares(expected);
    if (rows_ == 0 || square == 0) return relative();
    return relative() + 16 * 0x1p-48 / 3 * lost_ / rows_ * count / square;
}

// lse moves by its scores' errors in the mean, and by those of the p it sums: by no more than one
// score and one p, absolutely, hence in units of its mean square; the 16 is four deviations.
double F16Error::lse_bound(std::span<const float> expected) const {
    const auto [square, count] = squares(expected);
    return count > 0 ? relative() * count / square : 0;
}

}  // namespace rotkv
