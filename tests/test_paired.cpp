// Paired differences, their errors and the stopping rule against formulas written another way.
#include "ref/error.h"
#include "tests/catch.h"
#include "tests/random.h"
#include "tools/compare/kld_words.h"
#include "tools/compare/paired.h"

#include <cmath>
#include <numbers>
#include <vector>

namespace {

using namespace rotkv;
using namespace rotkv::tools;
using rotkv::test::normal;

bool near(double found, double expected, double tolerance = 1e-9) {
    return std::abs(found - expected) <= tolerance * std::max(1.0, std::abs(expected));
}

// The two tails of Student's t, by Simpson's rule over the density between -t and t.
double tails_by_integral(double t, double freedom) {
    const double log_scale = std::lgamma((freedom + 1) / 2) - std::lgamma(freedom / 2) -
                             0.5 * std::log(freedom * std::numbers::pi);
    const auto density = [&](double x) {
        return std::exp(log_scale - (freedom + 1) / 2 * std::log1p(x * x / freedom));
    };
    constexpr int k_steps = 20000;  // even
    double sum = density(0) + density(t);
    for (int i = 1; i < k_steps; ++i) sum += density(t * i / k_steps) * (i % 2 == 1 ? 4 : 2);
    return 1 - 2 * sum * t / k_steps / 3;
}

// How many of `trials` sequences of windows without any difference stop within 60 windows.
int false_stops(int trials, bool corrected) {
    Random random(7);
    int stopped = 0;
    for (int trial = 0; trial < trials; ++trial) {
        StoppingRule rule(0.95);
        std::vector<double> windows;
        for (int window = 1; window <= 60; ++window) {
            windows.push_back(normal(random));
            const Mean mean = mean_of(windows);
            const bool naive =
                window >= StoppingRule::k_fewest_windows && p_of(mean, window) <= 0.05;
            if (corrected ? rule.look(mean, window) : naive) {
                ++stopped;
                break;
            }
        }
    }
    return stopped;
}

}  // namespace

TEST_CASE("paired: the error of a mean by windows", "[paired]") {
    // window means 2, 4, 9 of two tokens each: mean 5, squares 9 + 1 + 16 = 26, / 3 windows / 2
    const std::vector<double> x = {1, 3, 4, 4, 0, 18};
    CHECK(window_means(x, 2) == std::vector<double>{2, 4, 9});
    CHECK(near(mean_by_windows(x, 2).value, 5));
    CHECK(near(mean_by_windows(x, 2).error, std::sqrt(26.0 / 6)));
    CHECK(std::isnan(mean_by_windows(x, 6).error));
    CHECK_THROWS_AS(window_means(x, 4), Error);
}

TEST_CASE("paired: what two caches share is not in their difference", "[paired]") {
    // Each window has a difficulty of its own, a thousand times the difference.
    Random random(3);
    std::vector<double> a, b, by_hand;
    for (int window = 0; window < 20; ++window) {
        const double difficulty = 1000 * random.uniform(), gap = 1 + random.uniform();
        double sum = 0;
        for (int token = 0; token < 5; ++token) {
            const double noise = random.uniform() / 10;
            b.push_back(difficulty + token);
            a.push_back(b.back() + gap + noise);
            sum += gap + noise;
        }
        by_hand.push_back(sum / 5);
    }
    const Mean difference = paired_difference(a, b, 5);
    double mean = 0, square = 0;
    for (const double d : by_hand) mean += d / 20;
    for (const double d : by_hand) square += (d - mean) * (d - mean);
    CHECK(near(difference.value, mean));
    CHECK(near(difference.error, std::sqrt(square / 19 / 20)));
    CHECK(difference.error < mean_by_windows(a, 5).error / 100);
    CHECK(near(paired_difference(b, a, 5).value, -mean));
}

TEST_CASE("paired: tokens of a window that move together count as one", "[paired]") {
    std::vector<double> a, b;
    for (const double d : {0.0, 1.0, 2.0, 3.0}) {
        for (int token = 0; token < 100; ++token) {
            a.push_back(d);
            b.push_back(0);
        }
    }
    CHECK(near(paired_difference(a, b, 100).error, std::sqrt(5.0 / 12)));
}

TEST_CASE("paired: student's t against its density", "[paired]") {
    for (const int64_t freedom : {1, 2, 3, 4, 7, 10, 63, 200}) {
        for (const double t : {0.1, 1.0, 2.5, 6.0}) {
            CHECK(near(student_p(t, freedom), tails_by_integral(t, double(freedom)), 1e-8));
            CHECK(student_p(-t, freedom) == student_p(t, freedom));
        }
    }
    CHECK(near(student_p(2.228138852, 10), 0.05, 1e-8));  // printed tables
    CHECK(student_p(0, 5) == 1);
}

TEST_CASE("paired: what no spread can tell", "[paired]") {
    CHECK(p_of({1, std::nan("")}, 1) == 1);
    CHECK(p_of({0, 0}, 10) == 1);
    CHECK(p_of({1, 0}, 10) == 0);
    CHECK(near(p_of({2.228138852, 1}, 11), 0.05, 1e-8));
}

TEST_CASE("paired: what is not a number is no difference, and no reason to call it none",
          "[paired]") {
    const double nan = std::nan("");
    for (const int64_t windows : {1, 2, 10}) {
        CHECK(std::isnan(p_of({nan, nan}, windows)));
        CHECK(!std::signbit(p_of({-nan, -nan}, windows)));
        CHECK(std::isnan(p_of({HUGE_VAL, 1}, windows)));
    }
    for (const size_t place : {0u, 5u, 11u}) {
        std::vector<double> a(12, 1.0), b(12, 2.0);
        b[place] = -nan;
        const Mean difference = paired_difference(a, b, 3);
        CHECK(std::isnan(difference.value));
        CHECK(std::isnan(p_of(difference, 4)));
        StoppingRule rule(0.99);
        CHECK(!rule.look(difference, 4));
        const std::vector<double> means = window_means(b, 3);
        for (size_t w = 0; w < 4; ++w) CHECK(std::isnan(means[w]) == (w == place / 3));
    }
}

TEST_CASE("paired: the shares of all looks add up to the error that was asked for", "[paired]") {
    const StoppingRule rule(0.99);
    double sum = 0;
    for (int64_t k = 1; k <= 100000; ++k) sum += rule.threshold(k);
    CHECK(near(sum, 0.01 * (1 - 1.0 / 100001), 1e-12));
    CHECK(near(rule.threshold(1), 0.005));
}

TEST_CASE("paired: looking often does not make differences", "[paired]") {
    constexpr int k_trials = 2000;
    // At 95 % at most 5 % of trials without a difference may stop, however often one looks.
    CHECK(false_stops(k_trials, true) < k_trials * 5 / 100);
    CHECK(false_stops(k_trials, false) > k_trials * 15 / 100);
}

TEST_CASE("paired: a real difference stops, but never on fewer than four windows", "[paired]") {
    StoppingRule rule(0.99);
    CHECK(!rule.look({1, 0}, 3));
    CHECK(rule.looks() == 0);
    CHECK(rule.look({1, 0}, 4));
    CHECK(rule.looks() == 1);
}

TEST_CASE("paired: positions fall into bins without gaps", "[paired]") {
    // Two windows of 7 scored positions, first at 8; the value is the place in the window.
    std::vector<double> x;
    for (int i = 0; i < 14; ++i) x.push_back(i % 7);
    const std::vector<PositionBin> bins = by_position(x, 7, 8, 3);
    REQUIRE(bins.size() == 3);
    CHECK(bins[0].first == 8);
    CHECK(bins[0].last == 9);
    CHECK(bins[1].first == 10);
    CHECK(bins[2].last == 14);
    CHECK(near(bins[0].mean.value, 0.5));
    CHECK(near(bins[1].mean.value, 2.5));
    CHECK(near(bins[2].mean.value, 5));
    CHECK(by_position(x, 7, 8, 100).size() == 7);
    CHECK(bins[2].mean.error == 0);  // the windows are equal, whatever differs within them
    for (int i = 7; i < 14; ++i) x[size_t(i)] += 2;
    CHECK(near(by_position(x, 7, 8, 3)[2].mean.error, 1));  // means that are 2 apart
}

TEST_CASE("paired: the smallest difference that shows is where p says so", "[paired]") {
    // Tables of Student's t, two-sided.
    CHECK(near(student_t(0.05, 1), 12.7062, 2e-6));
    CHECK(near(student_t(0.05, 2), 4.30265, 2e-6));
    CHECK(near(student_t(0.05, 3), 3.18245, 2e-6));
    CHECK(near(student_t(0.01, 3), 5.84091, 2e-6));
    CHECK(near(student_t(0.01, 63), 2.65615, 2e-6));
    CHECK(near(student_t(1e-6, 7), 15.7670, 1e-5));
    for (const int64_t windows : {2, 4, 9, 60}) {
        const double shows = smallest_difference({0.1, 0.03}, windows, 0.05);
        CHECK(p_of({-1.001 * shows, 0.03}, windows) < 0.05);
        CHECK(p_of({0.999 * shows, 0.03}, windows) > 0.05);
    }
    CHECK(std::isnan(smallest_difference({0.1, 0.03}, 1, 0.05)));
}

TEST_CASE("paired: a true difference of that size shows in every second text", "[paired]") {
    constexpr int k_texts = 4000, k_windows = 4;
    Random random(11);
    const auto text = [&]() {
        std::vector<double> windows(k_windows);
        for (double& x : windows) x = normal(random);
        return mean_of(windows);
    };
    int shown = 0;
    for (int i = 0; i < k_texts; ++i) {
        const double stated = smallest_difference(text(), k_windows, 0.05);
        Mean found = text();
        found.value += stated;
        shown += p_of(found, k_windows) < 0.05;
    }
    CHECK(shown > 0.47 * k_texts);
    CHECK(shown < 0.53 * k_texts);
}

TEST_CASE("paired: a difference in words", "[paired]") {
    const auto words = [](double a, double b, const Mean& difference, int64_t windows = 4) {
        return words_of_pair({"A", a}, {"B", b}, 1e-7, difference, windows);
    };
    // t(0.05, 3) = 3.182: an error of 0.002 shows 0.006365, 6.4 % of 0.1.
    CHECK(words(0.095, 0.1, {-0.005, 0.002}) ==
          "no difference found; 4 windows could show one of 6.4 %");
    CHECK(words(0.1, 0.1, {-1e-8, 2e-6}) ==
          "no difference found; 4 windows could show one of 0.006 %");
    CHECK(words(0.1, 0.09, {0.01, 0.04}) ==
          "no difference found; 4 windows could not even show one of 100 %");
    CHECK(words(0.09, 0.1, {-0.01, 0.002}) == "A loses 10 % less than B");
    CHECK(words(0.1, 0.09, {0.01, 0.002}) == "B loses 10 % less than A");
    CHECK(words(0.04, 0.1, {-0.06, 0.002}) == "A loses 2.5 x less than B");
    CHECK(words(0.1, 0.001, {0.099, 0.002}) == "B loses 100 x less than A");
    // p between 0.01 and 0.05: t = 4, three degrees.
    CHECK(words(0.09, 0.1, {-0.01, 0.0025}) == "A loses 10 % less than B");
    CHECK(words(-1e-7, 0.1, {-0.1, 0.002}) == "A loses less than B, and no more than rounding");
    CHECK(words(2e-7, 4e-7, {-2e-7, 1e-9}) == "both no more than rounding");
    CHECK(words(-3e-7, -4e-7, {1e-7, 1e-9}) == "both no more than rounding");
    CHECK(words(0.1, 0.1, {0, 0}) == "the same");
    CHECK(words(0.1, 0.09, {0.01, NAN}, 1) ==
          "one window has no error: no difference can be shown");
    CHECK(words(NAN, 0.09, {NAN, NAN}) == "not a number");
}

TEST_CASE("paired: a KLD in words", "[paired]") {
    const auto begins = [](double kld, const std::string& words) {
        return words_of_kld(kld, 1e-6).rfind(words + " (KLD ", 0) == 0;
    };
    CHECK(begins(9e-6, "rounding"));
    CHECK(begins(1.1e-5, "fine"));
    CHECK(begins(0.00099, "fine"));
    CHECK(begins(0.001, "slight"));
    CHECK(begins(0.01, "visible"));
    CHECK(begins(0.1, "heavy"));
    CHECK(words_of_kld(NAN, 1e-6) == "not a number");
}
