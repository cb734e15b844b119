// The Hadamard transform against its definition, and the laws it lives by.
#include "ref/hadamard.h"
#include "ref/half.h"
#include "ref/kernels.h"
#include "tests/catch.h"
#include "tests/random.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

using namespace rotkv;
using rotkv::test::normal_vector;

namespace {

constexpr double k_unit = 0x1p-24;  // u: half the distance from 1 to the next f32

double norm(const std::vector<float>& x) {
    double sum = 0;
    for (const float value : x) sum += double(value) * double(value);
    return std::sqrt(sum);
}

Rotation sylvester(int64_t block) { return {Rotation::Kind::sylvester, block, 0, 0}; }
Rotation signs(int64_t block, uint64_t seed) { return {Rotation::Kind::signs, block, seed, 0}; }

std::vector<float> rotate(const std::vector<float>& x, const Rotation& rotation, bool inverse) {
    std::vector<float> y(x.size());
    ref::hadamard_row(y.data(), x.data(), int64_t(x.size()), rotation, inverse);
    return y;
}

// A type of two bytes: how it rounds, and half the distance between neighbours near 1 and near 0.
struct Half {
    DType type;
    uint16_t (*bits)(float);
    float (*value)(uint16_t);
    double relative, least;
    uint16_t nan;
};
constexpr Half k_halves[] = {
    {DType::f16, f32_to_f16, f16_to_f32, 0x1p-11, 0x1p-25, 0x7E00},
    {DType::bf16, f32_to_bf16, bf16_to_f32, 0x1p-8, 0x1p-134, 0x7FC0},
};

// One row through the operation.
std::vector<uint16_t> rotate_half(std::vector<uint16_t> x, DType type, const Rotation& rotation) {
    const TensorView row = view(x.data(), type, {int64_t(x.size())});
    ref::hadamard({row, row, rotation, false});
    return x;
}

}  // namespace

TEST_CASE("hadamard: butterflies equal the dense definition") {
    for (int64_t n = 1; n <= 1024; n *= 2) {
        const std::vector<float> x = normal_vector(n, uint64_t(n));
        const std::vector<double> dense = ref::hadamard_dense({x.begin(), x.end()});
        const std::vector<float> y = rotate(x, sylvester(n), false);
        // Every output is a sum of n scaled inputs through log2(n) rounded stages.
        const double bound = (std::log2(double(n)) + 2) * k_unit * norm(x);
        for (size_t i = 0; i < y.size(); ++i) CHECK(std::fabs(double(y[i]) - dense[i]) <= bound);
    }
}

TEST_CASE("hadamard: a row of halves is the dense definition of it, rounded once") {
    for (const Half& half : k_halves) {
        for (int64_t n = 1; n <= 1024; n *= 2) {
            std::vector<uint16_t> x;
            std::vector<float> values;  // rounded before: the row is exact
            for (const float value : normal_vector(n, uint64_t(n))) {
                x.push_back(half.bits(value));
                values.push_back(half.value(x.back()));
            }
            const std::vector<double> dense = ref::hadamard_dense({values.begin(), values.end()});
            const std::vector<uint16_t> y = rotate_half(x, half.type, sylvester(n));
            const double in_f32 = (std::log2(double(n)) + 2) * k_unit * norm(values);
            for (size_t i = 0; i < y.size(); ++i) {
                const double rounding = half.relative * (std::fabs(dense[i]) + in_f32);
                const double bound = in_f32 + std::max(rounding, half.least);
                CHECK(std::fabs(double(half.value(y[i])) - dense[i]) <= bound);
            }
        }
    }
}

TEST_CASE("hadamard: halves round to even at the end, and a NaN becomes the one of half.h") {
    for (const Half& half : k_halves) {
        // y_0 = (a + b) / 2 lies halfway between neighbours 2 r apart: below it the even one is the
        // lower, then the upper. y_1 = (a - b) / 2 needs no rounding.
        const float r = float(half.relative);
        for (const float a : {2.0f, 2 + 4 * r}) {
            const std::vector<uint16_t> y =
                rotate_half({half.bits(a), half.bits(2 * r), 0, 0}, half.type, sylvester(4));
            CHECK(half.value(y[0]) == (a == 2.0f ? 1.0f : 1 + 4 * r));
            CHECK(half.value(y[1]) == (a == 2.0f ? 1 - r : 1.0f));
        }
        // Every pattern is its own transform in blocks of 1.
        std::vector<uint16_t> all(65536), expected(65536);
        for (size_t i = 0; i < all.size(); ++i) {
            all[i] = uint16_t(i);
            expected[i] = std::isnan(half.value(all[i])) ? half.nan : all[i];
        }
        CHECK(rotate_half(all, half.type, sylvester(1)) == expected);
        CHECK(rotate_half(all, half.type, {}) == expected);
        // inf - inf, of which the machine makes a NaN with a sign of its own
        const uint16_t infinity = half.bits(std::numeric_limits<float>::infinity());
        CHECK(rotate_half({infinity, infinity}, half.type, sylvester(2)) ==
              std::vector<uint16_t>{infinity, half.nan});
    }
}

TEST_CASE("hadamard: the definition is Sylvester's recursion") {
    // H_2n = (H_n H_n; H_n -H_n) / sqrt 2, column by column
    for (size_t n = 1; n <= 64; n *= 2) {
        for (size_t column = 0; column < 2 * n; ++column) {
            std::vector<double> unit(2 * n, 0.0), half(n, 0.0);
            unit[column] = 1;
            half[column % n] = 1;
            const std::vector<double> whole = ref::hadamard_dense(unit);
            const std::vector<double> part = ref::hadamard_dense(half);
            for (size_t i = 0; i < 2 * n; ++i) {
                const bool minus = column >= n && i >= n;
                const double expected = (minus ? -1 : 1) * part[i % n] / std::sqrt(2.0);
                REQUIRE(std::fabs(whole[i] - expected) < 1e-15);
            }
        }
    }
}

TEST_CASE("hadamard: back undoes forward") {
    for (const int64_t d : {64, 128, 192, 256, 320}) {
        for (const Rotation& rotation : {sylvester(64), sylvester(d & -d), signs(32, 7)}) {
            const std::vector<float> x = test::loud_channels(1, d, 1, 16, 30.0);
            const std::vector<float> back = rotate(rotate(x, rotation, false), rotation, true);
            const double stages = std::log2(double(rotation.block)) + 2;
            const double bound = 2 * stages * k_unit * norm(x);
            for (size_t i = 0; i < x.size(); ++i)
                CHECK(std::fabs(double(back[i]) - double(x[i])) <= bound);
        }
    }
}

TEST_CASE("hadamard: scale first, then half-widths 1, 2, 4: the exact bits") {
    // With n = 2 and the scale applied last, or the stages the other way round, bits differ.
    const std::vector<float> x = normal_vector(8, 3);
    const float s = rotation_scale(8);
    CHECK(s == 1.0f / std::sqrt(8.0f));
    std::vector<float> a(8);
    for (size_t i = 0; i < 8; ++i) a[i] = x[i] * s;
    const std::vector<float> b = {a[0] + a[1], a[0] - a[1], a[2] + a[3], a[2] - a[3],
                                  a[4] + a[5], a[4] - a[5], a[6] + a[7], a[6] - a[7]};
    const std::vector<float> c = {b[0] + b[2], b[1] + b[3], b[0] - b[2], b[1] - b[3],
                                  b[4] + b[6], b[5] + b[7], b[4] - b[6], b[5] - b[7]};
    const std::vector<float> e = {c[0] + c[4], c[1] + c[5], c[2] + c[6], c[3] + c[7],
                                  c[0] - c[4], c[1] - c[5], c[2] - c[6], c[3] - c[7]};
    const std::vector<float> y = rotate(x, sylvester(8), false);
    CHECK(std::memcmp(y.data(), e.data(), 8 * sizeof(float)) == 0);
}

TEST_CASE("hadamard: random signs") {
    const std::string expected = "-++-+++-+-+-";
    for (size_t i = 0; i < expected.size(); ++i) {
        CHECK(rotation_sign(0, int64_t(i)) == (expected[i] == '-' ? -1.0f : 1.0f));
    }
    // Forward is H S, so the signs act before mixing: a constant vector is spread, where plain
    // Sylvester puts all of it on one channel.
    const std::vector<float> ones(64, 1.0f);
    const std::vector<float> plain = rotate(ones, sylvester(64), false);
    const std::vector<float> mixed = rotate(ones, signs(64, 0), false);
    CHECK(plain[0] == 8.0f);
    for (size_t i = 1; i < plain.size(); ++i) CHECK(plain[i] == 0.0f);
    for (const float value : mixed) CHECK(std::fabs(value) < 4.5f);

    // A row that starts inside the head takes the signs from there on.
    const std::vector<float> x = normal_vector(64, 5);
    Rotation inside = signs(32, 9);
    const std::vector<float> whole = rotate(x, inside, false);
    inside.first = 32;
    const std::vector<float> tail = rotate({x.begin() + 32, x.end()}, inside, false);
    CHECK(std::memcmp(tail.data(), whole.data() + 32, 32 * sizeof(float)) == 0);
}
