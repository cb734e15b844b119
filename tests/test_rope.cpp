// RoPE: the table against the definition in complex numbers, and what turning must not change.
#include "ref/error.h"
#include "ref/kernels.h"
#include "ref/rope_table.h"
#include "tests/catch.h"
#include "tests/random.h"

#include <cmath>
#include <complex>
#include <cstring>
#include <vector>

using namespace rotkv;
using rotkv::test::normal_vector;

namespace {

RopeConfig plain(int64_t n_rot, RopePairs pairs) {
    RopeConfig config;
    config.n_rot = n_rot;
    config.pairs = pairs;
    return config;
}

std::vector<float> turn(const std::vector<float>& x, const RopeConfig& config, int32_t position) {
    const int32_t positions[] = {position};
    const std::vector<float> table = rope_table(config, positions);
    std::vector<float> y(x.size());
    ref::rope_row(y.data(), x.data(), int64_t(x.size()), table.data(), config.n_rot, config.pairs);
    return y;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
    return sum;
}

}  // namespace

TEST_CASE("rope: pairs are complex numbers times exp(i position base^(-2i/n))") {
    for (const RopePairs pairs : {RopePairs::norm, RopePairs::neox}) {
        const RopeConfig config = plain(64, pairs);
        const std::vector<float> x = normal_vector(80, 1);  // 16 channels do not turn
        const std::vector<float> y = turn(x, config, 1234);
        for (size_t i = 0; i < 32; ++i) {
            const size_t a = pairs == RopePairs::norm ? 2 * i : i;
            const size_t b = pairs == RopePairs::norm ? 2 * i + 1 : i + 32;
            const double angle = 1234.0 * std::pow(10000.0, -double(2 * i) / 64.0);
            const std::complex<double> z =
                std::complex<double>(double(x[a]), double(x[b])) * std::polar(1.0, angle);
            CHECK(std::fabs(double(y[a]) - z.real()) < 1e-6);
            CHECK(std::fabs(double(y[b]) - z.imag()) < 1e-6);
        }
        CHECK(std::memcmp(&x[64], &y[64], 16 * sizeof(float)) == 0);
    }
}

TEST_CASE("rope: scores depend on the distance alone") {
    const RopeConfig config = plain(64, RopePairs::neox);
    const std::vector<float> q = normal_vector(64, 2), k = normal_vector(64, 3);
    const double near = dot(turn(q, config, 17), turn(k, config, 5));
    const double far = dot(turn(q, config, 4017), turn(k, config, 4005));
    CHECK(std::fabs(near - far) < 1e-4);
    CHECK(std::fabs(near - dot(turn(q, config, 18), turn(k, config, 5))) > 1e-2);
}

TEST_CASE("rope: frequency factors, linear scaling and YaRN") {
    RopeConfig config = plain(8, RopePairs::norm);
    config.frequency_factors = {1, 2, 4, 8};
    CHECK(rope_frequency(config, 1) == std::pow(10000.0, -2.0 / 8) / 2);
    CHECK(rope_frequency(config, 3) == std::pow(10000.0, -6.0 / 8) / 8);
    config.frequency_factors.clear();
    config.linear_factor = 4;
    CHECK(rope_frequency(config, 2) == std::pow(10000.0, -4.0 / 8) / 4);
    CHECK(rope_magnitude(config) == 1.0);

    // YaRN with n = 128, base 10000, original context 4096: pair i turns
    // 4096 base^(-2i/128) / (2 pi) times. 32 turns lie between pairs 20 and 21, one turn between
    // 45 and 46: pairs up to 20 keep their angle, from 46 on they are interpolated.
    RopeConfig yarn = plain(128, RopePairs::neox);
    yarn.linear_factor = 16;
    yarn.yarn_ext_factor = 1;
    yarn.original_context = 4096;
    const RopeConfig bare = plain(128, RopePairs::neox);
    for (const int64_t i : {0, 10, 20}) {
        CHECK(rope_frequency(yarn, i) == rope_frequency(bare, i));
    }
    for (const int64_t i : {46, 50, 63}) {
        CHECK(rope_frequency(yarn, i) == rope_frequency(bare, i) / 16);
    }
    const double middle = rope_frequency(yarn, 33) / rope_frequency(bare, 33);
    CHECK(std::fabs(middle - (0.5 + 0.5 / 16)) < 1e-12);  // halfway between 20 and 46
    CHECK(std::fabs(rope_magnitude(yarn) - (1 + 0.1 * std::log(16.0))) < 1e-15);

    const int32_t zero[] = {0};
    CHECK(rope_table(yarn, zero)[0] == float(rope_magnitude(yarn)));
    CHECK(rope_shift_table(yarn, zero)[0] == 1.0f);
}

TEST_CASE("rope: impossible configurations are refused") {
    const int32_t zero[] = {0};
    RopeConfig odd = plain(63, RopePairs::norm);
    CHECK_THROWS_AS(rope_table(odd, zero), Error);
    RopeConfig base = plain(64, RopePairs::norm);
    base.base = 0;
    CHECK_THROWS_AS(rope_table(base, zero), Error);
    RopeConfig factors = plain(64, RopePairs::norm);
    factors.frequency_factors.assign(31, 1.0f);
    CHECK_THROWS_AS(rope_table(factors, zero), Error);
}
