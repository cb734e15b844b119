#pragma once
// Rotary position embedding. Angles are computed once, here, in f64, and every backend receives
// the same f32 table of cosines and sines: positions then cost no backend its exactness.
// Docs: docs/05-attention.md

#include "ref/types.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv {

/// How positions become angles. The defaults leave every extension off.
struct RopeConfig {
    RopePairs pairs = RopePairs::norm;
    int64_t n_rot = 0;  ///< channels that turn; the others are copied
    int64_t first = 0;  ///< of a cached key: channels that stand still before them (latent heads)
    double base = 10000.0;
    std::vector<float> frequency_factors;  ///< [n_rot / 2] divisors of the angles, or empty
    double linear_factor = 1.0;            ///< positions are divided by it (position interpolation)

    // YaRN (Peng et al. 2023) as llama.cpp parametrizes it: pairs that turn often within the
    // original context keep their angle, slow ones are interpolated by linear_factor.
    double yarn_ext_factor = 0.0;  ///< 0 off, 1 the paper's method
    double yarn_attn_factor = 1.0;
    double yarn_beta_fast = 32.0, yarn_beta_slow = 1.0;
    int64_t original_context = 0;

    bool operator==(const RopeConfig&) const = default;
};

/// One row of {cos, sin} per position, ready for upload.
/// Math:   angle_i = position * f_i, f_i = base^(-2i / n_rot) / factor_i (then linear, YaRN);
///         entries are the magnitude times cos and sin of angle_i, rounded once to f32.
/// Shapes: result [positions][n_rot / 2][2].
/// Throws: Error(bad_argument) for an odd n_rot, a base <= 0 or factors of another count.
/// Source: Su et al. 2021; llama.cpp ggml_rope_ext (parameters and magnitude).
std::vector<float> rope_table(const RopeConfig& config, std::span<const int32_t> positions);

/// The table that moves cached keys by `differences` positions: magnitude 1, so that two shifts
/// compose into their sum (llama.cpp multiplies the magnitude in again at each shift).
std::vector<float> rope_shift_table(const RopeConfig& config, std::span<const int32_t> differences);

/// Angle per unit of position of pair i, in f64, every extension applied.
double rope_frequency(const RopeConfig& config, int64_t i);

/// The factor on cos and sin: yarn_attn_factor, times 1 + 0.1 ln(linear_factor) when YaRN is on.
double rope_magnitude(const RopeConfig& config);

}  // namespace rotkv
