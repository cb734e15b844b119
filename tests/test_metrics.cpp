// Figures that can be worked out by hand, and laws that hold for any numbers.
#include "ref/measure/metrics.h"
#include "tests/catch.h"
#include "tools/compare/not_numbers.h"

#include <cmath>
#include <limits>
#include <vector>

namespace {

using namespace rotkv;

bool near(double found, double expected) {
    return std::abs(found - expected) <= 1e-9 * std::max(1.0, std::abs(expected));
}

const double k_ln2 = std::log(2.0);

// nll_a = ln 2, ln 4, ln 8 (p = 1/2, 1/4, 1/8); nll_b = ln 4 each.
std::vector<TokenPair> three_tokens() {
    return {{0.1, k_ln2, 2 * k_ln2, true},
            {0.3, 2 * k_ln2, 2 * k_ln2, false},
            {0.2, 3 * k_ln2, 2 * k_ln2, true}};
}

constexpr double k_nan = std::numeric_limits<double>::quiet_NaN();

// Nothing that prints as "-nan", nothing infinite.
bool plain_nan(double x) { return std::isnan(x) && !std::signbit(x); }

bool plain_nan(const Mean& mean) { return plain_nan(mean.value) && plain_nan(mean.error); }

// 40 tokens that differ in everything.
std::vector<TokenPair> forty_tokens() {
    std::vector<TokenPair> tokens;
    for (int i = 0; i < 40; ++i) {
        tokens.push_back(
            {0.01 * (i * 7 % 40 + 1), 1 + 0.1 * i, 1 + 0.03 * (i * 3 % 40), i % 3 > 0});
    }
    return tokens;
}

// How many of the figures that compare the two runs are still something else than NaN.
int figures_left(const KldSummary& s) {
    const Mean means[] = {s.kld,       s.delta_p, s.dp_rms,    s.same_top,
                          s.log_ratio, s.ratio,   s.difference};
    const double others[] = {s.kld_min,    s.kld_01, s.kld_1,     s.kld_5,  s.kld_10,
                             s.kld_median, s.kld_90, s.kld_95,    s.kld_99, s.kld_999,
                             s.kld_max,    s.dp_min, s.dp_01,     s.dp_1,   s.dp_5,
                             s.dp_10,      s.dp_25,  s.dp_median, s.dp_75,  s.dp_90,
                             s.dp_95,      s.dp_99,  s.dp_999,    s.dp_max, s.correlation};
    int left = 0;
    for (const Mean& mean : means) left += !plain_nan(mean);
    for (const double figure : others) left += !plain_nan(figure);
    return left;
}

}  // namespace

TEST_CASE("metrics: a mean and its standard error", "[metrics]") {
    // deviations 1.5, 0.5, 0.5, 1.5: sum of squares 5, / 4 values / 3
    const Mean mean = mean_of(std::vector<double>{1, 2, 3, 4});
    CHECK(near(mean.value, 2.5));
    CHECK(near(mean.error, std::sqrt(5.0 / 12)));

    const Mean equal = mean_of(std::vector<double>(100, 0.1));
    CHECK(near(equal.value, 0.1));
    CHECK(equal.error < 1e-16);

    CHECK(std::isnan(mean_of(std::vector<double>{7}).error));
    CHECK(std::isnan(mean_of({}).value));
}

TEST_CASE("metrics: a small spread around a large mean keeps its error", "[metrics]") {
    // One pass over x and x^2 would cancel here: the squares differ by 1 part in 1e18.
    const Mean mean = mean_of(std::vector<double>{1e9 - 1, 1e9 + 1, 1e9 - 1, 1e9 + 1});
    CHECK(near(mean.error, std::sqrt(4.0 / 12)));
}

TEST_CASE("metrics: quantiles lie on straight lines between order statistics", "[metrics]") {
    const std::vector<double> x = {4, 1, 3, 2};
    CHECK(near(quantile(x, 0), 1));
    CHECK(near(quantile(x, 0.25), 1.75));
    CHECK(near(quantile(x, 0.5), 2.5));
    CHECK(near(quantile(x, 0.9), 3.7));
    CHECK(near(quantile(x, 1), 4));
    CHECK(near(quantile({5}, 0.3), 5));
    CHECK(std::isnan(quantile({}, 0.5)));
}

TEST_CASE("metrics: a perplexity beyond exp() is not a number, and which one is said",
          "[metrics]") {
    for (const double error : {0.0, 1.0}) {
        CHECK(is_number(perplexity(std::vector<double>{709 - error, 709 + error}).value));
        CHECK(std::isnan(perplexity(std::vector<double>{711 - error, 711 + error}).value));
        CHECK(std::isnan(perplexity(std::vector<double>{711 - error, 711 + error}).error));
    }
    // Squares of a perplexity go further than it does.
    const auto pairs_of = [](double nll_a, double nll_b) {
        return std::vector<TokenPair>{{1, nll_a - 1, nll_b, true}, {1, nll_a + 1, nll_b, true}};
    };
    const KldSummary large = summarize(pairs_of(600, 1));
    CHECK(large.difference.value == -std::exp(600.0) + std::exp(1.0));
    CHECK(near(large.difference.error, large.ppl_a.error));

    const WindowPlan plan{std::vector<int32_t>(6), 6, 6, 1, -1};
    const auto words = [&](double nll_a, double nll_b) {
        return rotkv::tools::words_of(rotkv::tools::not_numbers_of(pairs_of(nll_a, nll_b), plan));
    };
    const std::string rest = " is not a number: the mean NLL of 800 nats is more than exp() holds";
    CHECK(words(1, 800) == "the PPL" + rest);
    CHECK(words(800, 1) == "the base's PPL" + rest);
    CHECK(words(700, 700) == "all positions are numbers");
    // The value is one, its error is not: exp(709.5) times 5.
    CHECK(rotkv::tools::not_numbers_of(std::vector<double>{704.5, 714.5}, plan).any());
    CHECK_FALSE(rotkv::tools::not_numbers_of(std::vector<double>{700}, plan).any());
}

TEST_CASE("metrics: perplexity is the exponential of the mean", "[metrics]") {
    // ln 2 and ln 8: mean ln 4, error sqrt(2 (ln 2)^2 / 2 / 1) = ln 2
    const Mean ppl = perplexity(std::vector<double>{k_ln2, 3 * k_ln2});
    CHECK(near(ppl.value, 4));
    CHECK(near(ppl.error, 4 * k_ln2));
}

TEST_CASE("metrics: a summary of three tokens by hand", "[metrics]") {
    const KldSummary s = summarize(three_tokens());
    CHECK(near(s.kld.value, 0.2));
    CHECK(near(s.kld.error, std::sqrt(0.02 / 6)));
    CHECK(near(s.kld_min, 0.1));
    CHECK(near(s.kld_median, 0.2));
    CHECK(near(s.kld_90, 0.28));
    CHECK(near(s.kld_max, 0.3));

    CHECK(near(s.ppl_a.value, 4));
    CHECK(near(s.ppl_b.value, 4));
    CHECK(near(s.log_ratio.value, 0));
    CHECK(near(s.log_ratio.error, k_ln2 / std::sqrt(3.0)));
    CHECK(near(s.ratio.value, 1));
    CHECK(near(s.ratio.error, k_ln2 / std::sqrt(3.0)));
    // ppl_b has no error of its own, so all of the difference's is ppl_a's
    CHECK(near(s.difference.error, 4 * k_ln2 / std::sqrt(3.0)));
    CHECK(std::isnan(s.correlation));

    // p_b - p_a = -1/4, 0, 1/8
    CHECK(near(s.delta_p.value, -0.125 / 3));
    CHECK(near(s.dp_min, -0.25));
    CHECK(near(s.dp_25, -0.125));
    CHECK(near(s.dp_median, 0));
    CHECK(near(s.dp_max, 0.125));
    const double mean_square = (0.0625 + 0.015625) / 3;
    CHECK(near(s.dp_rms.value, std::sqrt(mean_square)));
    CHECK(std::abs(s.dp_rms.error - 0.0581844) < 1e-7);

    CHECK(near(s.same_top.value, 2.0 / 3));
    CHECK(near(s.same_top.error, 1.0 / 3));
}

TEST_CASE("metrics: each percentile stands under its own name", "[metrics]") {
    // KLDs 0 .. 1000 in no order, changes of p from -500 / 1002 to 500 / 1002: whatever share of
    // the tokens lies below is the figure itself.
    std::vector<TokenPair> tokens;
    for (int i = 0; i <= 1000; ++i) {
        const double x = 3 * i % 1001;
        tokens.push_back({x, -std::log((1001 - x) / 1002), k_ln2, true});
    }
    const KldSummary s = summarize(tokens);
    CHECK(near(s.kld_min, 0));
    CHECK(near(s.kld_01, 1));
    CHECK(near(s.kld_1, 10));
    CHECK(near(s.kld_5, 50));
    CHECK(near(s.kld_10, 100));
    CHECK(near(s.kld_median, 500));
    CHECK(near(s.kld_90, 900));
    CHECK(near(s.kld_95, 950));
    CHECK(near(s.kld_99, 990));
    CHECK(near(s.kld_999, 999));
    CHECK(near(s.kld_max, 1000));
    CHECK(near(s.dp_min, -500.0 / 1002));
    CHECK(near(s.dp_01, -499.0 / 1002));
    CHECK(near(s.dp_1, -490.0 / 1002));
    CHECK(near(s.dp_5, -450.0 / 1002));
    CHECK(near(s.dp_10, -400.0 / 1002));
    CHECK(near(s.dp_25, -250.0 / 1002));
    CHECK(near(s.dp_median, 0));
    CHECK(near(s.dp_75, 250.0 / 1002));
    CHECK(near(s.dp_90, 400.0 / 1002));
    CHECK(near(s.dp_95, 450.0 / 1002));
    CHECK(near(s.dp_99, 490.0 / 1002));
    CHECK(near(s.dp_999, 499.0 / 1002));
    CHECK(near(s.dp_max, 500.0 / 1002));
}

TEST_CASE("metrics: the correlation of nll_a and nll_b", "[metrics]") {
    std::vector<TokenPair> along, against;
    for (int i = 0; i < 10; ++i) {
        const double x = i * i;
        along.push_back({0, x, 2 * x + 1, true});
        against.push_back({0, x, 50 - x, true});
    }
    CHECK(near(summarize(along).correlation, 1));
    CHECK(near(summarize(along).log_ratio.value, 29.5));  // mean of x + 1
    CHECK(near(summarize(against).correlation, -1));
}

TEST_CASE("metrics: a run compared with itself differs by nothing, without error", "[metrics]") {
    std::vector<TokenPair> tokens;
    for (int i = 1; i <= 50; ++i) tokens.push_back({0, 0.1 * i, 0.1 * i, true});
    const KldSummary s = summarize(tokens);
    CHECK(s.difference.value == 0);
    CHECK(s.difference.error < 1e-6 * s.ppl_a.error);  // the variance cancels to rounding
    CHECK(s.log_ratio.error == 0);
    CHECK(s.dp_rms.value == 0);
    CHECK(s.same_top.error == 0);
    CHECK(near(s.correlation, 1));
}

TEST_CASE("metrics: what is not a number is in every figure, wherever it lies", "[metrics]") {
    REQUIRE(figures_left(summarize(forty_tokens())) == 32);
    for (const size_t place : {0u, 20u, 39u}) {
        for (const double bad : {k_nan, -k_nan, HUGE_VAL, -HUGE_VAL}) {
            for (double TokenPair::*figure :
                 {&TokenPair::kld, &TokenPair::nll_a, &TokenPair::nll_b}) {
                std::vector<TokenPair> tokens = forty_tokens();
                tokens[place].*figure = bad;
                const KldSummary s = summarize(tokens);
                CAPTURE(place, bad);
                CHECK(s.not_numbers == 1);
                CHECK(figures_left(s) == 0);
                // A perplexity rests on its own run alone.
                CHECK(plain_nan(s.ppl_a) == (figure == &TokenPair::nll_a));
                CHECK(plain_nan(s.ppl_b) == (figure == &TokenPair::nll_b));
                CHECK(plain_nan(figures_of(tokens, &TokenPair::kld)[place]));
            }
        }
    }
    CHECK(summarize(forty_tokens()).not_numbers == 0);
}

TEST_CASE("metrics: two runs without numbers do not agree on the top word", "[metrics]") {
    const std::vector<TokenPair> nothing(10, {-k_nan, -k_nan, -k_nan, true});
    const KldSummary s = summarize(nothing);
    CHECK(s.not_numbers == 10);
    CHECK(figures_left(s) == 0);
    CHECK(plain_nan(s.ppl_a));
}

TEST_CASE("metrics: no mean, no order and no perplexity with what is not a number", "[metrics]") {
    for (const size_t place : {0u, 2u, 4u}) {
        for (const double bad : {k_nan, -k_nan, HUGE_VAL, -HUGE_VAL}) {
            std::vector<double> x = {5, 1, 4, 2, 3};
            x[place] = bad;
            CHECK(count_not_numbers(x) == 1);
            CHECK(plain_nan(mean_of(x)));
            CHECK(plain_nan(perplexity(x)));
            for (const double q : {0.0, 0.3, 0.5, 1.0}) CHECK(plain_nan(quantile(x, q)));
        }
    }
    CHECK(number_or_nan(1.5) == 1.5);
    CHECK(plain_nan(number_or_nan(-k_nan)));
}
