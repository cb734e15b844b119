// Products with 8-bit instructions: the formulas of docs/performance.md#eight-bits-at-a-time, and
// rows that refute too few digits.
#include "ref/cases/case_of.h"
#include "ref/cases/case_values.h"
#include "ref/random.h"
#include "tests/catch.h"

#include <algorithm>
#include <cmath>
#include <string>

using namespace rotkv;

namespace {

constexpr int64_t k_digits_block = 32;

// (256^n - 1) / 255: n digits of 1.
int64_t ones(int n) { return n == 0 ? 0 : ones(n - 1) * 256 + 1; }

// The step of a block of n digits: its largest value is n digits of 127.
double digit_step(std::span<const float> x, int n) {
    double largest = 0;
    for (const float value : x) largest = std::max(largest, std::fabs(double(value)));
    return largest / double(127 * ones(n));
}

// Signed digits a_0 .. a_(n-1) of an integer, -128 .. 127.
std::vector<int> digits_of(int64_t value, int n) {
    std::vector<int> digits;
    for (int j = 0; j < n; ++j) {
        const int digit = int(((value % 256) + 256 + 128) % 256) - 128;
        digits.push_back(digit);
        value = (value - digit) / 256;
    }
    REQUIRE(value == 0);
    return digits;
}

// y[o] = sum_i w[o, i] x[i], every block of x cut into n digits; nothing else is rounded. Codes of
// weights would be integers: what they are multiplied with is what matters here.
std::vector<double> product_of_digits(std::span<const float> w, std::span<const float> x, int n) {
    std::vector<double> y(w.size() / x.size());
    for (size_t first = 0; first < x.size(); first += k_digits_block) {
        const std::span block = x.subspan(first, std::min(x.size() - first, size_t(32)));
        const double step = digit_step(block, n);
        for (size_t i = 0; i < block.size(); ++i) {
            const double cut = step > 0 ? step * std::nearbyint(double(block[i]) / step) : 0;
            for (size_t o = 0; o < y.size(); ++o) y[o] += double(w[o * x.size() + first + i]) * cut;
        }
    }
    return y;
}

// The largest error of n digits on a case of one token, in units of its bound.
double bound_used(const std::string& name, int n) {
    const std::unique_ptr<Case> one = make_case(name);
    std::vector<CaseTensor> tensors = one->tensors();
    one->fill(tensors);
    const std::vector<float> w = named(tensors, "weight").values(),
                             x = named(tensors, "src").values();
    std::vector<float> exact(w.size() / x.size());
    for (size_t o = 0; o < exact.size(); ++o) {
        double sum = 0;
        for (size_t i = 0; i < x.size(); ++i) sum += double(w[o * x.size() + i]) * double(x[i]);
        exact[o] = float(sum);
    }
    const std::vector<double> bound = one->bound("dst", tensors, exact);
    const std::vector<double> found = product_of_digits(w, x, n);
    double worst = 0;
    for (size_t o = 0; o < exact.size(); ++o) {
        worst = std::max(worst, std::fabs(found[o] - double(exact[o])) / bound[o]);
    }
    return worst;
}

}  // namespace

TEST_CASE("digits: an integer is its signed digits, and Horner's rule joins their sums exactly") {
    for (const int n : {1, 2, 3, 4, 5}) {
        const int64_t most = 127 * ones(n);
        for (const int64_t value : {int64_t(0), most, -most, most - 1, most / 3, -most / 7}) {
            const std::vector<int> digits = digits_of(value, n);
            int64_t joined = 0;
            for (int j = n - 1; j >= 0; --j) joined = joined * 256 + digits[size_t(j)];
            CHECK(joined == value);
            CHECK(*std::min_element(digits.begin(), digits.end()) >= -128);
            CHECK(*std::max_element(digits.begin(), digits.end()) <= 127);
        }
    }
    // Sums of products with codes of 0 .. 255, digit by digit, then joined.
    const int64_t values[4] = {-8000000, 77, 4194303, -129}, codes[4] = {255, 3, 0, 128};
    int64_t direct = 0, joined = 0;
    for (int i = 0; i < 4; ++i) direct += codes[i] * values[i];
    for (int j = 2; j >= 0; --j) {
        int64_t dot = 0;
        for (int i = 0; i < 4; ++i) dot += codes[i] * digits_of(values[i], 3)[size_t(j)];
        joined = joined * 256 + dot;
    }
    CHECK(joined == direct);
}

TEST_CASE("digits: which values of a block n of them hold as exactly as f32") {
    const double shares[] = {3.984, 1020, 261121};  // of the largest, for 3, 4, 5 digits
    Random random(1);
    for (const int n : {3, 4, 5}) {
        const double least = 0x1p21 / double(127 * ones(n));
        CHECK(1 / least == Approx(shares[n - 3]).epsilon(0.001));
        for (int round = 0; round < 500; ++round) {
            std::vector<float> x;
            for (int i = 0; i < 32; ++i) {
                x.push_back(float(std::ldexp(random.uniform() - 0.5, -int(random.below(24)))));
            }
            double largest = 0;
            for (const float value : x) largest = std::max(largest, std::fabs(double(value)));
            const double step = digit_step(x, n);
            for (const float value : x) {
                const double whole = std::nearbyint(double(value) / step);
                const double off = std::fabs(double(value) - step * whole);
                CHECK(std::fabs(whole) <= double(127 * ones(n)));
                CHECK(off <= step / 2);
                if (std::fabs(double(value)) < least * largest) continue;
                CHECK(off <= 4 * k_unit * std::fabs(double(value)));
            }
        }
    }
    // The picture of the page.
    const std::vector<float> picture = {1000, 0.7f, -0.01f};
    const double step = digit_step(picture, 3);
    CHECK(step == Approx(0.00012).epsilon(0.01));
    const std::vector<int> digits[3] = {{127, 127, 127}, {-39, 23, 0}, {-84, 0, 0}};
    for (size_t i = 0; i < 3; ++i) {
        CHECK(digits_of(int64_t(std::nearbyint(double(picture[i]) / step)), 3) == digits[i]);
    }
}

TEST_CASE("digits: three are refuted by quiet values beside a loud one, and by nothing normal") {
    for (const char* type : {"f32", "q8_0", "q4_1", "q4_K", "q6_K"}) {
        INFO(type);
        const std::string name = "matmul/type=" + std::string(type) + "/T=1";
        const std::string loud = name + "/values=outliers-zero-weight";
        CHECK(bound_used(name, 3) < 0.03);
        CHECK(bound_used(loud, 3) > 100);
        CHECK(bound_used(loud, 5) < 1);
    }
}

TEST_CASE("cases: outliers meet weights of zero, where a format has that level") {
    for (const DType type : weight_types()) {
        const std::string word = type_info(type).name;
        if (word == "iq4_nl" || word == "iq4_xs") continue;  // their least levels are -10 and 1
        INFO(word);
        const std::unique_ptr<Case> one =
            make_case("matmul/type=" + word + "/T=2/in=512/values=outliers-zero-weight");
        std::vector<CaseTensor> tensors = one->tensors();
        one->fill(tensors);
        const std::vector<float> w = named(tensors, "weight").values();
        for (int64_t i = 0; i < 512; ++i) {
            bool zero = true;
            for (size_t at = size_t(i); at < w.size(); at += 512) zero = zero && w[at] == 0;
            CHECK(zero == (i % 32 == outlier_place(i / 32)));
        }
    }
}
