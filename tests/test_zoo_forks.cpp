// Formats that forks ship, byte for byte: rows that numpy made (tests/golden/make_fork_rows.py),
// the laws of their codebooks, and what is wrong with them.
// Docs: docs/20-zoo.md
#include "ref/zoo/codebook.h"
#include "ref/zoo/generator_signs.h"
#include "ref/zoo/zoo.h"
#include "tests/zoo_rows.h"

#include <algorithm>
#include <fstream>
#include <numbers>
#include <sstream>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// As make_fork_rows.py has them.
std::vector<float> fork_row(int64_t d, int row) {
    std::vector<float> x;
    for (int64_t i = 0; i < d; ++i) {
        const int64_t whole = (i * i * 37 + i * (11 + 2 * row) + 5 * row) % 509 - 254;
        const double value = std::ldexp(double(whole) / 64, row % 5 - 2);
        x.push_back(row == 3 ? 0.0f : row == 4 ? float(std::ldexp(value, -60)) : float(value));
    }
    return x;
}

double near(double value, double expected) { return std::fabs(value / expected - 1); }

// The mean square error of levels, x to the nearest one, for a coordinate of a random direction in
// n dimensions times sqrt(n), by strips.
double error_on_sphere(std::vector<double> levels, int64_t n) {
    const int strips = 200000;
    const double end = std::min(10.0, std::sqrt(double(n)));
    double error = 0, all = 0;
    for (int i = 0; i < strips; ++i) {
        const double x = -end + 2 * end * (i + 0.5) / strips;
        const double f = std::pow(std::max(0.0, 1 - x * x / double(n)), double(n - 3) / 2);
        double least = 1e9;
        for (const double level : levels) least = std::min(least, (x - level) * (x - level));
        error += f * least, all += f;
    }
    return error / all;
}

// Of the codes' levels in six digits.
double error_of_turbo(const std::vector<double>& positive) {
    std::vector<double> levels;
    for (const double level : positive) {
        levels.push_back(level * std::sqrt(128.0));
        levels.push_back(-level * std::sqrt(128.0));
    }
    return error_on_sphere(levels, 128);
}

}  // namespace

TEST_CASE("zoo forks: bytes and values are numpy's") {
    std::ifstream file(ROTKV_GOLDEN_DIR "/fork_rows.txt");
    REQUIRE(file.good());
    int rows = 0, values = 0;
    for (std::string line; std::getline(file, line); ++rows) {
        std::istringstream words(line);
        std::string name, side, hex, value_hex;
        int64_t d = 0;
        int row = 0;
        words >> name >> d >> row >> side >> hex >> value_hex;
        CAPTURE(name, d, row, side);
        const auto format = format_of(name);
        REQUIRE(format->refusal(d).empty());
        const RowContext context{.side = side == "k" ? Side::k : Side::v};
        const std::vector<std::byte> expected = bytes_of_hex(hex);
        const std::vector<std::byte> bytes = encoded(*format, fork_row(d, row), context);
        CHECK(bytes == expected);
        if (value_hex.empty()) continue;
        ++values;
        const std::vector<std::byte> raw = bytes_of_hex(value_hex);
        const std::vector<float> found = decoded(*format, expected, d, context);
        REQUIRE(raw.size() == found.size() * sizeof(float));
        float largest = 0;
        for (const float value : found) largest = std::max(largest, std::fabs(value));
        for (size_t i = 0; i < found.size(); ++i) {
            const float value = zoo::number_at<float>(raw.data() + i * sizeof(float));
            CAPTURE(i, value, found[i]);
            CHECK(std::fabs(found[i] - value) <= 2e-6f * largest);
        }
    }
    CHECK(rows == 168);
    CHECK(values == 19);
}

TEST_CASE("zoo forks: generators give what their authors' programs give") {
    // numpy.random.default_rng(42).choice([-1, 1], 8) and 128 signs later.
    CHECK(zoo::numpy_signs(42, 0, 8) == std::vector<float>{-1, 1, 1, -1, -1, 1, -1, 1});
    CHECK(zoo::numpy_signs(42, 128, 8) == std::vector<float>{1, 1, 1, 1, -1, 1, 1, -1});
    CHECK(zoo::golden_signs(8) == std::vector<float>{1, -1, 1, -1, 1, 1, -1, 1});
}

TEST_CASE("zoo forks: a block of 128 is refused on heads of 64") {
    for (const char* name : {"turbo2", "turbo3", "turbo4"}) {
        CAPTURE(name);
        CHECK(format_of(name)->refusal(64) ==
              "needs a head size that is a multiple of 128, found 64");
        CHECK(format_of(name)->refusal(192) != "");
        CHECK(!format_of(name)->unrotated_because().empty());
    }
    CHECK(format_of("pq3_0")->refusal(64) == "");
    CHECK(format_of("pq3_0")->refusal(192) ==
          "needs a head size of 64 or a multiple of 128, found 192");
    CHECK(format_of("q8_kv")->refusal(80) ==
          "needs a head size that is a multiple of 32, found 80");
    CHECK(!format_of("tq3_0")->unrotated_because().empty());
    CHECK(format_of("tbq4_0")->unrotated_because().empty());
    CHECK(format_of("q8_kv")->unrotated_because().empty());
}

TEST_CASE("zoo forks: the error is that of the levels, and what other levels would give") {
    // With a norm of |x| / |c|, the error is 2 - 2 sqrt(1 - D) for the best levels.
    const double best = zoo::sphere_codebook(128, 16).distortion;
    CHECK(near(error_of("tqmse4:128", 128), best) < 0.02);
    const double turbo2 = error_of_turbo({0.039994, 0.133462});
    const double turbo3 = error_of_turbo({0.021460, 0.065717, 0.117832, 0.190685});
    const double turbo4 = error_of_turbo(
        {0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926});
    CHECK(near(turbo2, zoo::sphere_codebook(128, 4).distortion) < 1e-3);
    CHECK(near(turbo3, zoo::sphere_codebook(128, 8).distortion) < 3e-3);
    CHECK(near(turbo4, 2.09 * best) < 0.01);  // levels that end too early
    CHECK(near(error_of("turbo2", 128), 2 - 2 * std::sqrt(1 - turbo2)) < 0.02);
    CHECK(near(error_of("turbo3", 128), 2 - 2 * std::sqrt(1 - turbo3)) < 0.02);
    CHECK(error_of("turbo4", 128) > 1.9 * error_of("tqmse4:128", 128));
    // 3.5 bits in tq3_0, rows of 32 normal numbers: their rms is their own.
    std::vector<double> four_digits;
    for (const double level : zoo::normal_codebook(8).levels) {
        four_digits.push_back(std::round(level * 1e4) / 1e4);
    }
    CHECK(near(error_of("tq3_0", 128), error_on_sphere(four_digits, 32)) < 0.02);
    CHECK(near(error_of("pq3_0", 128), zoo::sphere_codebook(128, 8).distortion) < 0.02);
    CHECK(near(error_of("pq4_0", 64), zoo::sphere_codebook(64, 16).distortion) < 0.02);
}

TEST_CASE("zoo forks: levels of an iteration that stopped") {
    for (const int64_t n : {64, 128}) {
        CAPTURE(n);
        const zoo::Codebook &best = zoo::sphere_codebook(n, 16),
                            &stopped = zoo::stopped_codebook(n, 16, 200);
        const double off = stopped.levels[11] / best.levels[11] - 1;
        CHECK(off < -3e-4);
        CHECK(off > -6e-4);
        CHECK(stopped.distortion > best.distortion);
        CHECK(stopped.distortion < 1.0001 * best.distortion);
        CHECK(near(zoo::stopped_codebook(n, 8, 200).levels[7],
                   zoo::sphere_codebook(n, 8).levels[7]) < 1e-8);
    }
}

TEST_CASE("zoo forks: a sketch of the rest is added to keys, and values do without") {
    // r = value_1 - x: a sketch with orthogonal rows leaves (pi / 2 - 1) |r|^2.
    for (const int64_t d : {64, 128}) {
        CAPTURE(d);
        const double rest = zoo::sphere_codebook(d, 8).distortion;
        Moments keys, values;
        for (const std::vector<float>& row : normal_rows(400, d, 41)) {
            keys.add(row, through(*format_of("tbq3_0"), row, {.side = Side::k}));
            values.add(row, through(*format_of("tbq3_0"), row, {.side = Side::v}));
        }
        CHECK(near(values.relative(), rest) < 0.02);
        CHECK(near(keys.relative(), (std::numbers::pi / 2 - 1) * rest) < 0.03);
        // Products: with the rest they shrink no longer, but for a tenth of it and less: what is
        // left of a large value is large, so that signs know of the codes, to order 1 / d.
        CHECK(near(values.xy / values.xx, 1 - rest) < 2e-3);
        CHECK(near(keys.xy / keys.xx, 1) < 0.3 / double(d));
    }
}

TEST_CASE("zoo forks: zeros of tq3_0 decode to a spike") {
    const std::vector<float> row = through(*format_of("tq3_0"), std::vector<float>(64));
    for (size_t i = 0; i < 64; ++i) {
        CAPTURE(i);
        // Code 3 everywhere, -0.2451, is one coordinate of a Hadamard matrix, sqrt(32) as large.
        CHECK(std::fabs(row[i] - (i % 32 == 0 ? -0.2451f * std::sqrt(32.0f) : 0)) < 1e-6f);
    }
}
