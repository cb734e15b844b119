#pragma once
// Which word comes next: the likeliest, or one drawn from what the model expects.
// Docs: docs/14-generate.md

#include "ref/random.h"

#include <cstdint>
#include <optional>
#include <span>

namespace rotkv::tools {

/// Math:   temperature 0: the first v with the largest x_v. Otherwise the first v with
///         sum_{w <= v} p_w^(1/T) > u sum_w p_w^(1/T), p_w ~ exp(x_w), in f64, in index order.
/// Shapes: x [V], V > 0: logits or log-probabilities, which differ by a constant. T >= 0, u in
///         [0, 1). Nothing: some x is not finite.
std::optional<int32_t> choose_word(std::span<const float> x, double temperature, double u);
std::optional<int32_t> choose_word(std::span<const double> x, double temperature, double u);

/// Chooses one token after the other, u being the next SplitMix64 number: two samplers of one seed
/// choose alike wherever their distributions allow. Copies go on from the same place.
class Sampler {
  public:
    Sampler(double temperature, uint64_t seed) : temperature_(temperature), random_(seed) {}

    /// As choose_word(). Throws Error(bad_file) where that gives nothing.
    int32_t choose(std::span<const float> logits);
    int32_t choose(std::span<const double> log_p);

  private:
    double next() { return temperature_ == 0 ? 0 : random_.uniform(); }

    double temperature_;
    Random random_;
};

}  // namespace rotkv::tools
