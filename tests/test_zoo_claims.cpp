// What has been claimed of formats and rotations elsewhere, and what is found. The table of claims
// is in the chapter; those that have a law of their own are in test_zoo_laws.cpp,
// test_zoo_forks.cpp, test_rotation_matrix.cpp and test_laws.cpp.
// Docs: docs/20-zoo.md
#include "ref/hadamard.h"
#include "ref/zoo/codebook.h"
#include "ref/zoo/random_matrix.h"
#include "ref/zoo/zoo.h"
#include "tests/zoo_rows.h"

#include <algorithm>
#include <cmath>

namespace rotkv::test {
namespace {

constexpr int64_t k_d = 128;

std::vector<float> direction(uint64_t seed) {
    std::vector<float> x = normal_vector(k_d, seed);
    const double length = std::sqrt(zoo::dot(x, x));
    for (float& value : x) value = float(double(value) / length);
    return x;
}

// <q, value> - 0.7 of unit vectors with <q, key> = 0.7: its mean, and 128 times its variance.
struct Scores {
    double bias, variance;
};

Scores scores_of(const std::function<std::string(int)>& name) {
    double sum = 0, sum2 = 0, count = 0;
    for (int seed = 0; seed < 8; ++seed) {
        const auto format = format_of(name(seed));
        for (uint64_t i = 0; i < 200; ++i) {
            const uint64_t row = uint64_t(seed) * 100000 + i * 20;
            const std::vector<float> key = direction(row), value = through(*format, key);
            const double along_key = zoo::dot(key, value);
            for (uint64_t other = 1; other <= 8; ++other) {
                const std::vector<float> o = direction(row + other);
                const double along = zoo::dot(key, o), across = std::sqrt(1 - along * along);
                const double u = (zoo::dot(o, value) - along * along_key) / across;
                const double e = 0.7 * along_key + std::sqrt(0.51) * u - 0.7;
                sum += e, sum2 += e * e, ++count;
            }
        }
    }
    const double bias = sum / count;
    return {bias, double(k_d) * (sum2 / count - bias * bias)};
}

}  // namespace

TEST_CASE("zoo claims: bias and variance of scores at four, three and two bits, and one") {
    // Of another program's 100000 pairs. An orthogonal sketch's variance is a third of a Gaussian
    // one's; a code of as many bits, with its norm corrected, has less than either.
    const struct {
        const char *name, *seed;  // in front of a seed; null: the format has none
        double bias, variance;
    } claimed[] = {{"tqmse4:raw", nullptr, -0.0062, 0.0168},
                   {"tqmse4:corrected", nullptr, -0.0032, 0.0049},
                   {"tqprod4", ":", 0, 0.0526},
                   {"tqprod4:orthogonal", "-", 0, 0.0194},
                   {"tqmse3:raw", nullptr, -0.0229, 0.0531},
                   {"tqmse3:corrected", nullptr, -0.0118, 0.0178},
                   {"tqprod3", ":", 0, 0.1755},
                   {"tqprod3:orthogonal", "-", 0, 0.0624},
                   {"qjl:1-gaussian", "-seed-", 0, 1.108},
                   {"qjl:1-orthogonal", "-seed-", 0, 0.334}};
    for (const auto& one : claimed) {
        const Scores found = scores_of([&](int seed) {
            return one.name + (one.seed == nullptr ? "" : one.seed + std::to_string(seed));
        });
        CAPTURE(one.name, one.bias, one.variance, found.bias, found.variance);
        // 1600 keys: four standard errors of a mean, three of a variance.
        CHECK(std::fabs(found.bias - one.bias) < 4 * std::sqrt(one.variance / k_d / 1600) + 5e-4);
        CHECK(std::fabs(found.variance / one.variance - 1) < 0.1);
    }
}

TEST_CASE("zoo claims: eight lopsided levels lose 3 % more than the best eight") {
    // The levels of TheTom/llama-cpp-turboquant's tq3_1s, for weights, called Lloyd-Max there.
    const std::vector<double> levels = {-1.996684, -1.291398, -0.740341, -0.247508,
                                        0.230106,  0.725222,  1.277503,  1.988943};
    double error = 0, all = 0;
    for (int i = 0; i < 200000; ++i) {
        const double x = -10 + 20 * (i + 0.5) / 200000, f = std::exp(-x * x / 2);
        double least = 1e9;
        for (const double level : levels) least = std::min(least, (x - level) * (x - level));
        error += f * least, all += f;
    }
    const double best = zoo::normal_codebook(8).distortion;
    CHECK(std::fabs(error / all - 0.03545) < 1e-5);
    CHECK(std::fabs(best - 0.03455) < 1e-5);
    CHECK(std::fabs(error / all / best - 1.026) < 1e-3);
}

TEST_CASE("zoo claims: a rest that is taken in another space is as large as the row, twice") {
    // A row is coded behind H, and the rest taken behind the transpose of a matrix that has nothing
    // to do with H: |x - Q^T c|^2 = 1 + |c|^2 = 2 - D on the average, instead of D.
    const auto format = format_of("tqmse3:raw");
    const double d = zoo::sphere_codebook(k_d, 8).distortion;
    const std::vector<double> q = zoo::orthogonal_matrix(k_d, 3);
    double wrong = 0, right = 0;
    const int rows = 400;
    for (uint64_t row = 0; row < rows; ++row) {
        const std::vector<float> x = direction(row);
        std::vector<float> y(x);
        ref::hadamard_row(y.data(), x.data(), k_d,
                          {.kind = Rotation::Kind::signs, .block = k_d, .seed = 42}, false);
        const std::vector<float> c = through(*format, y);
        for (int64_t i = 0; i < k_d; ++i) {
            double back = 0;
            for (int64_t j = 0; j < k_d; ++j) back += q[size_t(j * k_d + i)] * double(c[size_t(j)]);
            wrong += std::pow(double(x[size_t(i)]) - back, 2);
            right += std::pow(double(y[size_t(i)]) - double(c[size_t(i)]), 2);
        }
    }
    CHECK(std::fabs(wrong / rows - (2 - d)) < 0.05);
    CHECK(std::fabs(right / rows / d - 1) < 0.02);
}

TEST_CASE("zoo claims: dense rotations are not 71 to 281 % worse on Gaussian rows, but equal") {
    const auto format = format_of("tqmse4:raw");
    const std::vector<double> q = zoo::orthogonal_matrix(k_d, 7);
    const int rows = 6000;
    double dense = 0, fast = 0, apart = 0;
    for (uint64_t row = 0; row < rows; ++row) {
        const std::vector<float> x = normal_vector(k_d, row);
        std::vector<float> y(x), z(x);
        for (int64_t i = 0; i < k_d; ++i) {
            double sum = 0;
            for (int64_t j = 0; j < k_d; ++j) sum += q[size_t(i * k_d + j)] * double(x[size_t(j)]);
            y[size_t(i)] = float(sum);
        }
        ref::hadamard_row(z.data(), x.data(), k_d,
                          {.kind = Rotation::Kind::signs, .block = k_d, .seed = 7}, false);
        const auto error = [&](const std::vector<float>& of) {
            Moments one;
            one.add(of, through(*format, of));
            return one.relative();
        };
        const double a = error(y), b = error(z);
        dense += a, fast += b, apart += (a - b) * (a - b);
    }
    const double chance = 4 * std::sqrt(apart) / rows;
    CHECK(std::fabs(dense - fast) / rows < chance);
    CHECK(chance < 0.02 * fast / rows);  // two per cent would show
    CHECK(std::fabs(dense / rows / zoo::sphere_codebook(k_d, 16).distortion - 1) < 0.02);
}

TEST_CASE("zoo claims: an excess kurtosis of -1.56 is one channel with 88 % of the energy") {
    std::vector<float> x = direction(1);
    x[17] = 0;
    const double rest = zoo::dot(x, x);
    for (float& value : x) value = float(double(value) * std::sqrt(0.117 / rest));
    x[17] = float(std::sqrt(0.883));
    double p4 = 0, fourth = 0;
    for (const float value : x) p4 += std::pow(double(value), 4);
    for (uint64_t seed = 0; seed < 400; ++seed) {
        std::vector<float> y(x);
        ref::hadamard_row(y.data(), x.data(), k_d,
                          {.kind = Rotation::Kind::signs, .block = k_d, .seed = seed}, false);
        for (const float value : y) fourth += double(k_d) * std::pow(double(value), 4) / 400;
    }
    CHECK(std::fabs(-2 * p4 - -1.56) < 0.01);
    CHECK(std::fabs(fourth - 3 - -1.56) < 0.03);
}

TEST_CASE("zoo claims: signs behind a rotation change no code but its sign") {
    for (const char* name : {"tqmse2", "tqmse3:corrected", "tqmse4:lsq", "pq3_0"}) {
        CAPTURE(name);
        const auto format = format_of(name);
        for (uint64_t row = 0; row < 50; ++row) {
            const std::vector<float> x = normal_vector(k_d, row), signs = normal_vector(k_d, 99);
            std::vector<float> flipped(x), expected = through(*format, x);
            for (size_t i = 0; i < x.size(); ++i) {
                if (signs[i] < 0) flipped[i] = -flipped[i], expected[i] = -expected[i];
            }
            CHECK(through(*format, flipped) == expected);
        }
    }
}

}  // namespace rotkv::test
