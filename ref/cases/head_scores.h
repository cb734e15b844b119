#pragma once
// The scores of attention, and how far off it may be where they alone decide.
// Docs: docs/10-testing-your-engine.md

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace rotkv {

/// The scores of one head of one token over the cells it sees, in f64.
struct HeadScores {
    std::vector<std::pair<int64_t, double>> of_cell;
    double magnitude = 0;  ///< S, the largest finite scale * sum |q_d k_d|
    double energy = 0;     ///< the largest finite sum (scale q_d k_d)^2
    double sink = 0;       ///< -inf: none

    double largest() const;
    double denominator() const;  ///< Z, in units of exp(largest()); 0: nothing weighs anything
};

/// How far lse may be off by rounding, over a cache of `cells` cells and heads of d channels.
double lse_bound(const HeadScores& scores, int64_t cells, int64_t d, float expected);

/// Bounds of nmse in the precision of tensor cores, of the heads that were added.
class F16Error {
  public:
    void add(const HeadScores& scores);
    double bound(std::span<const float> expected) const;  ///< of the outputs
    double lse_bound(std::span<const float> expected) const;

  private:
    double relative() const;

    double energy_ = 0;           // the largest
    double lost_ = 0, rows_ = 0;  // sum of n / Z^2 over so many rows
};

}  // namespace rotkv
