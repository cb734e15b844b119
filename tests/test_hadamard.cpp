// The Hadamard transform against its definition, and the laws it lives by.
#include "ref/hadamard.h"
#include "tests/catch.h"
#include "tests/random.h"

#include <cmath>
#include <cstring>
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
