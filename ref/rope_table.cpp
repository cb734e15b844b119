// From positions to angles: rope_frequency, rope_magnitude, and the tables made of them.
#include "ref/rope_table.h"

#include "ref/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rotkv {

static void check_config(const RopeConfig& config) {
    require(config.n_rot >= 0 && config.n_rot % 2 == 0, ErrorCode::bad_argument,
            "rope: the number of turning channels must be even");
    require(config.base > 0 && config.linear_factor > 0, ErrorCode::bad_argument,
            "rope: base and linear factor must be positive");
    require(config.frequency_factors.empty() ||
                int64_t(config.frequency_factors.size()) == config.n_rot / 2,
            ErrorCode::bad_argument, "rope: expected one frequency factor per pair");
}

// The (real-valued) pair that turns `turns` times within the original context:
//   original_context * base^(-2i / n_rot) = 2 pi turns, solved for i.
static double yarn_pair(const RopeConfig& config, double turns) {
    const double wavelength_ratio =
        double(config.original_context) / (turns * 2.0 * std::numbers::pi);
    return double(config.n_rot) * std::log(wavelength_ratio) / (2.0 * std::log(config.base));
}

// 1 for pairs that turn fast and keep their angle, 0 for slow ones, a ramp in between.
static double yarn_keep(const RopeConfig& config, int64_t i) {
    const double low = std::max(0.0, std::floor(yarn_pair(config, config.yarn_beta_fast)));
    const double high =
        std::min(double(config.n_rot - 1), std::ceil(yarn_pair(config, config.yarn_beta_slow)));
    const double ramp = (double(i) - low) / std::max(0.001, high - low);
    return 1.0 - std::clamp(ramp, 0.0, 1.0);
}

double rope_frequency(const RopeConfig& config, int64_t i) {
    double frequency = std::pow(config.base, -2.0 * double(i) / double(config.n_rot));
    if (!config.frequency_factors.empty()) frequency /= double(config.frequency_factors[size_t(i)]);
    const double interpolated = frequency / config.linear_factor;
    if (config.yarn_ext_factor == 0.0) return interpolated;
    const double keep = yarn_keep(config, i) * config.yarn_ext_factor;
    return interpolated * (1.0 - keep) + frequency * keep;
}

double rope_magnitude(const RopeConfig& config) {
    if (config.yarn_ext_factor == 0.0) return config.yarn_attn_factor;
    return config.yarn_attn_factor * (1.0 + 0.1 * std::log(config.linear_factor));
}

static std::vector<float> make_table(const RopeConfig& config, std::span<const int32_t> steps,
                                     double magnitude) {
    check_config(config);
    std::vector<double> frequency;
    for (int64_t i = 0; i < config.n_rot / 2; ++i) frequency.push_back(rope_frequency(config, i));
    std::vector<float> table;
    table.reserve(steps.size() * frequency.size() * 2);
    for (const int32_t step : steps) {
        for (const double f : frequency) {
            const double angle = double(step) * f;
            table.push_back(float(magnitude * std::cos(angle)));
            table.push_back(float(magnitude * std::sin(angle)));
        }
    }
    return table;
}

std::vector<float> rope_table(const RopeConfig& config, std::span<const int32_t> positions) {
    return make_table(config, positions, rope_magnitude(config));
}

std::vector<float> rope_shift_table(const RopeConfig& config,
                                    std::span<const int32_t> differences) {
    return make_table(config, differences, 1.0);
}

}  // namespace rotkv
