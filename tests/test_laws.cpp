// Laws that hold for any implementation, each with its formula and where it comes from: what a
// transform, a quantizer and a cache must do whatever their code looks like. Checked on the
// reference and on every backend that is built, within bounds that follow from the formula: u for
// each rounding, five standard errors for each mean.
#include "tests/laws.h"

#include <numbers>

using namespace rotkv;
using namespace rotkv::test;

namespace {

std::vector<float> rotate(Backend& backend, const std::vector<float>& x, int64_t d,
                          const Rotation& rotation) {
    const Buffer memory = upload(backend, x);
    const TensorView view = memory.view(DType::f32, {int64_t(x.size()) / d, d});
    backend.run(HadamardArgs{.dst = view, .src = view, .rotation = rotation});
    return download_f32(backend, view);
}

/// The mean of samples, and the standard error of that mean.
struct Mean {
    double value = 0, error = 0;
    explicit Mean(const std::vector<double>& samples) {
        const double n = double(samples.size());
        for (const double x : samples) value += x / n;
        for (const double x : samples) error += (x - value) * (x - value) / (n - 1) / n;
        error = std::sqrt(error);
    }
};

double normal_density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

// Of n normal values: the mean of the largest square, and of the squared range. Both follow from
// E[y^2] = integral of 2 y P(Y > y), the range from the same in two dimensions.
double expected_peak2(int n) {
    constexpr double step = 1e-3;
    double sum = 0;
    for (double t = step / 2; t < 10; t += step)
        sum += 2 * t * (1 - std::pow(std::erf(t / std::sqrt(2.0)), n)) * step;
    return sum;
}
double expected_range2(int n) {
    constexpr double step = 0.02;
    const auto below = [](double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; };
    double sum = 0;
    for (double x = -8; x < 8; x += step) {
        for (double y = x; y < 8; y += step) {
            const double fx = below(x), fy = below(y);
            const double around = 1 - std::pow(fy, n) - std::pow(1 - fx, n) + std::pow(fy - fx, n);
            sum += (y == x ? 1 : 2) * around * step * step;  // the diagonal's cells count half
        }
    }
    return sum;
}

// What a signed format pays on the side that its largest element is not on: the codes end at Q - 1
// there, so that whoever lies in (Q - 1/2, Q] steps is stored one step too low, at the cost of
// (t - (Q - 1) step)^2 - (t - Q step)^2 = step (2 t - (2 Q - 1) step). Per element.
double expected_cut(int n, double steps) {
    constexpr double grid = 1e-3;
    double sum = 0;
    for (double peak = grid / 2; peak < 8; peak += grid) {
        const double within = std::erf(peak / std::sqrt(2.0)), step = peak / steps;
        const double density = n * std::pow(within, n - 1) * 2 * normal_density(peak);
        double cost = 0;
        for (int i = 0; i < 16; ++i) {
            const double t = peak - (i + 0.5) / 16 * step / 2;
            cost += step * (2 * t - (2 * steps - 1) * step) * normal_density(t) * step / 2 / 16;
        }
        sum += (n - 1.0) / n * density * cost / within * grid;
    }
    return sum;
}

/// The squared error of each block of 32 after quantizing, per element.
std::vector<double> block_errors(Backend& backend, DType type, const std::vector<float>& x) {
    const int64_t n = int64_t(x.size());
    const Buffer values = upload(backend, x), codes(backend, size_t(row_bytes(type, n)));
    const TensorView view = values.view(DType::f32, {1, n}), packed = codes.view(type, {1, n});
    backend.run(QuantizeArgs{.dst = packed, .src = view});
    backend.run(DequantizeArgs{.dst = view, .src = packed});
    const std::vector<float> y = download_f32(backend, view);
    std::vector<double> errors(x.size() / 32, 0.0);
    for (size_t i = 0; i < x.size(); ++i)
        errors[i / 32] += std::pow(double(y[i]) - double(x[i]), 2) / 32;
    return errors;
}

}  // namespace

TEST_CASE("law: the transform is linear and keeps lengths and dot products") {
    // H(a x + b y) = a Hx + b Hy;  |Hx| = |x|;  (Hx).(Hy) = x.y, because H^T H = 1 (Parseval).
    const int64_t d = 1024;
    const double a = 0.75, b = -3.5;
    const std::vector<float> x = loud_channels(1, d, 1, 16, 30.0), y = normal_vector(d, 2);
    std::vector<float> z(x.size());
    for (size_t i = 0; i < z.size(); ++i) z[i] = float(a * double(x[i]) + b * double(y[i]));
    const double nx = norm(x.data(), x.size()), ny = norm(y.data(), y.size());
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (int64_t n = 1; n <= d; n *= 2) {
            for (const Rotation::Kind kind : {Rotation::Kind::sylvester, Rotation::Kind::signs}) {
                const Rotation rotation = {kind, n, 7, 0};
                const std::vector<float> hx = rotate(*backend, x, d, rotation);
                const std::vector<float> hy = rotate(*backend, y, d, rotation);
                const std::vector<float> hz = rotate(*backend, z, d, rotation);
                std::vector<double> combined(z.size());
                double dot = 0, rotated_dot = 0;
                for (size_t i = 0; i < z.size(); ++i) {
                    combined[i] = a * double(hx[i]) + b * double(hy[i]);
                    dot += double(x[i]) * double(y[i]);
                    rotated_dot += double(hx[i]) * double(hy[i]);
                }
                const double error = hadamard_rounding(n);
                const double nz = norm(z.data(), z.size());
                INFO(backend->name() << " N = " << n);
                CHECK(farthest(hz, combined, d) <=
                      error * (nz + std::fabs(a) * nx + std::fabs(b) * ny) + k_unit * nz);
                CHECK(std::fabs(norm(hx.data(), hx.size()) - nx) <= error * nx);
                CHECK(std::fabs(rotated_dot - dot) <= 2 * error * nx * ny);
            }
        }
    }
}

TEST_CASE("law: kurtosis after random signs is 3 - 2 P4") {
    // For every x, the mean taken over signs: E y^4 / (E y^2)^2 = 3 - 2 sum x^4 / (sum x^2)^2.
    // It follows from y_j = sum_i s_i x_i H_ij with |H_ij| = 1 / sqrt(n): of E[s_i s_j s_k s_l]
    // only pairs remain, three ways of pairing, less the two that count i = j = k = l too often.
    // Each seed's sum of y^2 is |x|^2 exactly, so its kurtosis n sum y^4 / |x|^4 is one sample.
    constexpr uint64_t seeds = 1000;
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const int64_t n : {16, 64, 256}) {
            const size_t d = size_t(n);
            std::vector<std::vector<float>> sources = {normal_vector(n, 11), normal_vector(n, 12),
                                                       std::vector<float>(d, 1.0f),
                                                       std::vector<float>(d, 0.0f)};
            sources[1][5] = 12.0f;  // one loud channel
            sources[3][3] = 2.0f;   // one channel alone: kurtosis 1 under any signs
            for (size_t source = 0; source < sources.size(); ++source) {
                const std::vector<float>& x = sources[source];
                const double squares = std::pow(norm(x.data(), d), 2);
                double p4 = 0;
                for (const float value : x) p4 += std::pow(double(value), 4) / squares / squares;
                std::vector<double> kurtosis;
                for (uint64_t seed = 0; seed < seeds; ++seed) {
                    double m4 = 0;
                    for (const float value :
                         rotate(*backend, x, n, {Rotation::Kind::signs, n, seed, 0}))
                        m4 += std::pow(double(value), 4);
                    kurtosis.push_back(double(n) * m4 / squares / squares);
                }
                const Mean mean(kurtosis);
                // d(sum y^4) = 4 sum y^3 dy <= 4 |y|^3 |dy|
                const double rounding = 4 * double(n) * hadamard_rounding(n);
                INFO(backend->name()
                     << " N = " << n << ", source " << source << ": expected " << 3 - 2 * p4
                     << ", found " << mean.value << " +- " << mean.error);
                CHECK(std::fabs(mean.value - (3 - 2 * p4)) <= 5 * mean.error + rounding);
            }
        }
    }
}

TEST_CASE("law: the squared error of a block is its step squared over 12") {
    // Bennett 1948: step^2 / 12 for each element but those that set the step, which are exact.
    //   one scale        step = max |x| / Q,         E = E[max^2] / (12 Q^2) 31 / 32
    //   scale, minimum   step = (max - min) / L,     E = E[range^2] / (12 L^2) 30 / 32
    // Besides, q5_0 and q4_0 cut off the side that the peak is not on (expected_cut).
    const std::vector<float> x = normal_vector(1 << 20, 2);
    const double peak2 = expected_peak2(32), range2 = expected_range2(32);
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const DType type : quantized_types()) {
            const CodeInfo& codes = type_info(type).codes;
            if (codes.levels != nullptr) continue;  // uneven
            const double steps = codes.steps;
            const double step2 = (codes.minimum ? range2 : peak2) / (steps * steps);
            const double expected = step2 / 12 * (codes.minimum ? 30 : 31) / 32 +
                                    (codes.cut ? expected_cut(32, steps) : 0);
            // Not in the formula: scale (and minimum) go to f16, each off by at most 2^-11 of what
            // it gives; and the density's slope at the ends of the range, 0.06, where the first and
            // last step are half steps: step^2 times 0.06 (2 / 30 + 2 / 16) of the error at most.
            const double f16 = 0x1p-22 * (codes.minimum ? 2 * range2 : 1);
            const double slope = expected * step2 * 0.06 * (2.0 / 30 + 2.0 / 16);
            const Mean found(block_errors(*backend, type, x));
            INFO(backend->name() << " " << type_info(type).name << ": expected " << expected
                                 << ", found " << found.value << " +- " << found.error);
            CHECK(std::fabs(found.value - expected) <= 5 * found.error + f16 + slope);
        }
    }
}
