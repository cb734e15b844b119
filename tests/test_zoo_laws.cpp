// What theory says about the formats of the zoo, against what they do.
// Docs: docs/20-zoo.md
#include "ref/quant.h"
#include "ref/zoo/codebook.h"
#include "ref/zoo/random_matrix.h"
#include "ref/zoo/small_floats.h"
#include "ref/zoo/zoo.h"
#include "tests/zoo_rows.h"

#include <algorithm>
#include <numbers>

using namespace rotkv;
using namespace rotkv::test;
using zoo::Codebook;

namespace {

double near(double value, double expected) { return std::fabs(value / expected - 1); }

// Unit vectors, evenly over the sphere.
std::vector<std::vector<float>> directions(int64_t rows, int64_t d, uint64_t seed) {
    std::vector<std::vector<float>> all = normal_rows(rows, d, seed);
    for (std::vector<float>& row : all) {
        double square = 0;
        for (const float value : row) square += double(value) * double(value);
        for (float& value : row) value = float(double(value) / std::sqrt(square));
    }
    return all;
}

// The mean of each cell and the mean square error, by a sum over 400000 strips: nothing of the
// solver is in it.
double worst_centroid(const Codebook& book, const std::function<double(double)>& density,
                      double end, double& distortion) {
    const int strips = 400000;
    std::vector<double> mass(book.levels.size()), first(book.levels.size());
    double error = 0, all = 0;
    for (int i = 0; i < strips; ++i) {
        const double x = -end + 2 * end * (i + 0.5) / strips, f = density(x);
        size_t cell = 0;
        for (size_t k = 1; k < book.levels.size(); ++k) {
            if (std::fabs(x - book.levels[k]) < std::fabs(x - book.levels[cell])) cell = k;
        }
        mass[cell] += f, first[cell] += f * x, all += f;
        error += f * (x - book.levels[cell]) * (x - book.levels[cell]);
    }
    distortion = error / all;
    double worst = 0;
    for (size_t k = 0; k < mass.size(); ++k) {
        worst = std::max(worst, std::fabs(first[k] / mass[k] - book.levels[k]));
    }
    return worst;
}

}  // namespace

TEST_CASE("zoo law: codebooks of the normal distribution are those of Max 1960") {
    const struct {
        int64_t levels;
        double distortion;
        std::vector<double> positive;
    } known[] = {{2, 0.3634, {0.7980}},
                 {4, 0.1175, {0.4528, 1.510}},
                 {8, 0.03454, {0.2451, 0.7560, 1.344, 2.152}},
                 {16, 0.009497, {0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733}}};
    for (const auto& row : known) {
        const Codebook& book = zoo::normal_codebook(row.levels);
        CAPTURE(row.levels);
        CHECK(near(book.distortion, row.distortion) < 5e-4);  // as exact as his figures
        for (size_t i = 0; i < row.positive.size(); ++i) {
            const size_t at = size_t(row.levels) / 2 + i;
            CHECK(near(book.levels[at], row.positive[i]) < 5e-4);
            CHECK(book.levels[at] == -book.levels[size_t(row.levels) - 1 - at]);
        }
    }
}

TEST_CASE("zoo law: every level of a codebook is the mean of its cell") {
    for (const int64_t n : {8, 64, 128, 256}) {
        for (const int64_t levels : {2, 4, 8, 16}) {
            CAPTURE(n, levels);
            const Codebook& book = zoo::sphere_codebook(n, levels);
            const auto density = [n](double t) {
                return std::pow(std::max(0.0, 1 - t * t / double(n)), double(n - 3) / 2);
            };
            double distortion = 0;
            CHECK(worst_centroid(book, density, std::min(10.0, std::sqrt(double(n))), distortion) <
                  5e-5);  // a strip's width
            CHECK(near(distortion, book.distortion) < 1e-5);
            // The least error that so many bits leave (Shannon), and Zador's constant above it.
            const double bound = 1 / double(levels * levels);
            CHECK(distortion > bound);
            CHECK(distortion < std::sqrt(3.0) * std::numbers::pi / 2 * bound);
        }
    }
    // More dimensions, the closer to the normal distribution.
    CHECK(near(zoo::sphere_codebook(65536, 8).levels[7], zoo::normal_codebook(8).levels[7]) < 2e-4);
}

TEST_CASE("zoo law: no format beats the rate-distortion bound") {
    for (const std::string& name : names_of_formats()) {
        CAPTURE(name);
        const double bits = format_of(name)->bits_per_value(128);
        const double error = error_of(name, 128, 100);
        CHECK(error > std::pow(4.0, -bits));  // of independent normal values
        CHECK(error < 8);                     // and is no nonsense: qjl:1 has pi/2 - 1/d
    }
}

TEST_CASE("zoo law: tqmse has its codebook's error, and shrinks by it") {
    for (const int64_t bits : {1, 2, 3, 4}) {
        CAPTURE(bits);
        const std::string name = "tqmse" + std::to_string(bits);
        const int64_t count = 4000;
        const auto rows = directions(count, 128, 11);
        const double d = zoo::sphere_codebook(128, int64_t(1) << bits).distortion;
        const Moments raw = moments_of(*format_of(name), rows);
        CHECK(near(raw.relative(), d) < 0.01);
        // E<x, y> = E|y|^2 = (1 - D)|x|^2; the others undo it in three ways.
        // Four standard errors of a mean over all values, of x e and of 2 x e.
        const double chance = 4 * std::sqrt(d / double(count * 128)) / (1 - d);
        CHECK(near(raw.xy / raw.xx, 1 - d) < chance);
        CHECK(near(raw.yy / raw.xx, 1 - d) < 2 * chance);
        const Moments corrected = moments_of(*format_of(name + ":corrected"), rows);
        CHECK(near(corrected.yy / corrected.xx, 1) < 1e-3);
        CHECK(near(corrected.xy / corrected.xx, std::sqrt(1 - d)) < chance);
        const Moments unbiased = moments_of(*format_of(name + ":unbiased"), rows);
        CHECK(near(unbiased.xy / unbiased.xx, 1) < 1e-3);
        CHECK(near(unbiased.relative(), d / (1 - d)) < 4.0 / 128);  // to order 1 / n
        const Moments lsq = moments_of(*format_of(name + ":lsq"), rows);
        CHECK(lsq.error < raw.error);
        CHECK(lsq.error < corrected.error);
        CHECK(lsq.error < unbiased.error);
        // A head of 128 is one block of 128.
        CHECK(encoded(*format_of(name + ":128"), rows[0]) == encoded(*format_of(name), rows[0]));
    }
}

TEST_CASE("zoo law: the error of tqprod's products is pi / 2 of what one bit less leaves") {
    // For a y in any direction E <y, e>^2 = |e|^2 / d, so that errors of rows are those of
    // products.
    for (const int64_t bits : {2, 3, 4}) {
        CAPTURE(bits);
        const double d_mse = zoo::sphere_codebook(128, int64_t(1) << (bits - 1)).distortion;
        Moments sum, orthogonal;
        for (const int seed : {0, 1, 2, 3, 4, 5, 6, 7}) {
            const auto rows = directions(60, 128, 20 + uint64_t(seed));
            const std::string name = "tqprod" + std::to_string(bits);
            const std::string end = std::to_string(seed);
            const Moments one = moments_of(*format_of(name + ":" + end), rows);
            const Moments two = moments_of(*format_of(name + ":orthogonal-" + end), rows);
            sum.error += one.error, sum.xx += one.xx, sum.xy += one.xy;
            orthogonal.error += two.error, orthogonal.xx += two.xx, orthogonal.xy += two.xy;
        }
        CHECK(near(sum.relative(), std::numbers::pi / 2 * d_mse) < 0.02);
        CHECK(near(sum.xy / sum.xx, 1) < 0.01);  // no shrink
        CHECK(near(orthogonal.xy / orthogonal.xx, 1) < 0.01);
        // Orthogonal rows: |S^T signs|^2 = d^2 whatever the signs, so that (pi / 2 - 1) is left.
        CHECK(near(orthogonal.relative(), (std::numbers::pi / 2 - 1) * d_mse) < 0.03);
    }
}

// The variance of <q, value> times m / (|q| |k|)^2 at a cosine, over pairs and seeds.
static double product_variance(const std::string& name, double cosine, double& bias) {
    const int64_t d = 128;
    double sum = 0, sum2 = 0, count = 0;
    for (int seed = 0; seed < 16; ++seed) {
        const auto format = format_of(name + "-seed-" + std::to_string(seed));
        const auto keys = directions(1000, d, 100 + uint64_t(seed));
        const auto others = directions(1000, d, 200 + uint64_t(seed));
        for (size_t i = 0; i < keys.size(); ++i) {
            // q = cos k + sin u, u at right angles to k
            const std::vector<float>&k = keys[i], &o = others[i];
            const double along = zoo::dot(k, o), across = std::sqrt(1 - along * along);
            const std::vector<float> value = through(*format, k);
            double product = 0;
            for (size_t j = 0; j < k.size(); ++j) {
                const double u = (double(o[j]) - along * double(k[j])) / across;
                const double q = cosine * double(k[j]) + std::sqrt(1 - cosine * cosine) * u;
                product += q * double(value[j]);
            }
            sum += product - cosine, sum2 += (product - cosine) * (product - cosine), ++count;
        }
    }
    bias = sum / count;
    return double(d) * (sum2 / count - bias * bias);
}

TEST_CASE("zoo law: QJL's variance, with a Gaussian and with an orthogonal sketch") {
    constexpr double k_half_pi = std::numbers::pi / 2;
    for (const double c : {0.0, 0.7}) {
        CAPTURE(c);
        double bias = 0;
        const double gaussian = product_variance("qjl:1-gaussian", c, bias);
        CHECK(std::fabs(bias) < 4 * std::sqrt(gaussian / 128 / 16000));
        CHECK(near(gaussian, k_half_pi - c * c) < 0.04);  // 3.5 sqrt(2 / 16000)
        // Orthogonal: across the key (pi / 2 - 1) d / (d - 1) of a row of fixed length, along it
        // the variance of mean |g| on a sphere, pi / 2 (1 - 3 / pi).
        const double orthogonal = product_variance("qjl:1-orthogonal", c, bias);
        CHECK(std::fabs(bias) < 4e-3);
        const double expected =
            (1 - c * c) * (k_half_pi - 1) * 128.0 / 127 + c * c * (k_half_pi - 1.5);
        CHECK(near(orthogonal, expected) < 0.04);
    }
}

TEST_CASE("zoo law: rows of random matrices are normal numbers, or orthogonal") {
    const std::vector<float>& s = zoo::random_matrix(zoo::Sketch::orthogonal, 96, 64, 3);
    for (int64_t i = 0; i < 96; ++i) {
        for (int64_t j = 0; j < 96; ++j) {
            const std::span<const float> a(s.data() + i * 64, 64), b(s.data() + j * 64, 64);
            if (i / 64 != j / 64) continue;  // d rows at a time
            CHECK(std::fabs(zoo::dot(a, b) - (i == j ? 64 : 0)) < 1e-4);
        }
    }
    const std::vector<double> g = zoo::normal_numbers(200000, 4);
    double sum = 0, sum2 = 0, sum4 = 0;
    for (const double x : g) sum += x, sum2 += x * x, sum4 += x * x * x * x;
    CHECK(std::fabs(sum / 200000) < 0.01);
    CHECK(near(sum2 / 200000, 1) < 0.012);
    CHECK(near(sum4 / 200000, 3) < 0.05);
}

TEST_CASE("zoo law: PolarQuant's error is the sum of its angles'") {
    // An angle's error turns what is behind it: R^2 times its mean square, and the pairs' even
    // steps of pi / 8 leave 2 (1 - sin(s) / s), s = pi / 16.
    const double s = std::numbers::pi / 16;
    double expected = 2 * (1 - std::sin(s) / s);
    for (const int64_t behind : {2, 4, 8}) expected += zoo::angle_codebook(behind, 4).distortion;
    CHECK(near(error_of("polar", 128), expected) < 0.03);
}

TEST_CASE("zoo law: exllamav3's midpoints, from the peak of a group") {
    // step = 2 s / 2^b: step^2 / 12 of a value, and the peak itself lies half a step off its level,
    // three times as much. 31 values and it: s^2 / (3 4^b) (1 + 2 / 32).
    const auto rows = normal_rows(600, 128, 31);
    for (const int bits : {4, 5, 6, 8}) {
        CAPTURE(bits);
        double peaks = 0, all = 0;
        for (const std::vector<float>& row : rows) {
            for (size_t b = 0; b < row.size(); b += 32) {  // H32 of normal numbers is such a row
                double peak = 0;
                for (size_t i = b; i < b + 32; ++i) {
                    peak = std::max(peak, std::fabs(double(row[i])));
                    all += double(row[i]) * double(row[i]);
                }
                peaks += 32 * peak * peak;
            }
        }
        const double expected = peaks / all / (3 * std::pow(4.0, bits)) * (1 + 2.0 / 32);
        CHECK(near(error_of("exl3:" + std::to_string(bits), 128, 600, 31), expected) < 0.03);
    }
}

TEST_CASE("zoo law: scales that are fitted have the least error, and are q4_0 to ggml") {
    const auto rows = normal_rows(400, 128, 32);
    Moments plain, fit, flat;
    for (const std::vector<float>& row : rows) {
        std::vector<std::byte> bytes(72);
        std::vector<float> back(128);
        ref::quantize_row(DType::q4_0, bytes.data(), row.data(), 128);
        ref::dequantize_row(DType::q4_0, back.data(), bytes.data(), 128);
        plain.add(row, back);
        const std::vector<std::byte> fitted = encoded(*format_of("q4_0fit"), row);
        ref::dequantize_row(DType::q4_0, back.data(), fitted.data(), 128);
        CHECK(back == through(*format_of("q4_0fit"), row));
        for (size_t i = 0; i < 72; ++i) {  // the codes are q4_0's
            if (i % 18 > 1) CHECK(fitted[i] == bytes[i]);
        }
        fit.add(row, back);
        flat.add(row, through(*format_of("q4_0fit:flat"), row));
    }
    CHECK(near(plain.relative(), 0.00738) < 0.01);
    CHECK(near(fit.relative(), 0.00725) < 0.01);
    CHECK(near(flat.relative(), 0.00714) < 0.01);
    CHECK(error_of("q6_0:fit", 128) < error_of("q6_0", 128));
    // 31 of 32 values within a step of peak / 32, uniformly.
    CHECK(near(error_of("q6_0", 128), error_of("exl3:6", 128) / 4 * 4 / (1 + 2.0 / 32)) < 0.1);
}

TEST_CASE("zoo law: q6_0 lies in its 26 bytes as in ik_llama.cpp") {
    // The peak -32 makes d = 1 and its own code 0; x = code - 32.
    std::vector<float> row(32);
    for (int i = 0; i < 32; ++i) row[size_t(i)] = float((i * 37 + 5) % 63 - 31);
    row[7] = -32;
    const std::vector<std::byte> bytes = encoded(*format_of("q6_0"), row);
    REQUIRE(bytes.size() == 26);
    CHECK(zoo::number_at<uint16_t>(bytes.data()) == 0x3C00);
    for (int i = 0; i < 16; ++i) {
        const int low = int(row[size_t(i)]) + 32, high = int(row[size_t(i + 16)]) + 32;
        CAPTURE(i);
        CHECK(std::to_integer<int>(bytes[size_t(10 + i)]) == ((low & 15) | (high & 15) << 4));
        const int both = std::to_integer<int>(bytes[size_t(2 + i % 8)]) >> 4 * (i / 8) & 15;
        CHECK(both == (low >> 4 | (high >> 4) << 2));
    }
}

TEST_CASE("zoo law: steps of a range, as q4_1 has them") {
    Moments plain;
    const auto rows = normal_rows(400, 128, 33);
    for (const std::vector<float>& row : rows) {
        std::vector<std::byte> bytes(80);
        std::vector<float> back(128);
        ref::quantize_row(DType::q4_1, bytes.data(), row.data(), 128);
        ref::dequantize_row(DType::q4_1, back.data(), bytes.data(), 128);
        plain.add(row, back);
    }
    CHECK(near(moments_of(*format_of("kivi:4"), rows).relative(), plain.relative()) < 0.01);
    // A quarter of the codes, five times the step.
    CHECK(near(moments_of(*format_of("kivi:2"), rows).relative(), 25 * plain.relative()) < 0.05);
    CHECK(error_of("q2row", 128) < 1.2 * error_of("kivi:2", 128));
}

TEST_CASE("zoo law: small floats are the nearest there are") {
    struct Named {
        const char* name;
        zoo::SmallFloat type;
    };
    for (const Named& one :
         {Named{"e4m3", zoo::k_e4m3}, Named{"e5m2", zoo::k_e5m2}, Named{"e2m1", zoo::k_e2m1}}) {
        CAPTURE(one.name);
        std::vector<double> values;
        for (uint32_t code = 0; code < 1u << one.type.bits(); ++code) {
            const float value = zoo::value_of(code, one.type);
            if (!std::isfinite(value)) continue;
            values.push_back(value);
            CHECK(zoo::small_float_of(value, one.type) == code);  // each value is its own code
        }
        CHECK(*std::ranges::max_element(values) == double(one.type.largest));
        Random random(34);
        for (int i = 0; i < 20000; ++i) {
            const double x = std::ldexp(normal(random), int(random.below(24)) - 16);
            const double kept = zoo::value_of(zoo::small_float_of(float(x), one.type), one.type);
            double least = INFINITY;
            for (const double value : values) {
                least = std::min(least, std::fabs(value - double(float(x))));
            }
            if (std::fabs(kept - double(float(x))) != least) {
                CAPTURE(x, kept);
                FAIL("another value is nearer");
            }
        }
    }
    const std::vector<float> e2m1 = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (uint32_t code = 0; code < 8; ++code) {
        CHECK(zoo::value_of(code, zoo::k_e2m1) == e2m1[code]);
        CHECK(zoo::value_of(code + 8, zoo::k_e2m1) == -e2m1[code]);
    }
    CHECK(zoo::value_of(0x7F, zoo::k_e4m3) != zoo::value_of(0x7F, zoo::k_e4m3));  // NaN
    CHECK(zoo::value_of(0x7C, zoo::k_e5m2) == INFINITY);
    CHECK(zoo::small_float_of(1e9f, zoo::k_e4m3) == 0x7E);  // cut, not infinite
    CHECK(zoo::small_float_of(2.5f, zoo::k_e2m1) == 4);     // halves go to the even code: 2
    CHECK(zoo::value_of_e8m0(127) == 1);
    CHECK(zoo::value_of_e8m0(0) == 0x1p-127f);
}
