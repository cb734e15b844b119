// What rotkv-generate is made of: probabilities, draws, and characters that come in pieces.

#include "ref/error.h"
#include "ref/random.h"
#include "tests/catch.h"
#include "tools/generation.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace rotkv::tools {
namespace {

TEST_CASE("generation: a character is shown when its last byte has come") {
    const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
    Utf8Gate gate;
    std::vector<std::string> shown;
    for (const char c : text) {
        const std::string now = gate.push(std::string(1, c));
        if (!now.empty()) shown.push_back(now);
    }
    CHECK(shown ==
          std::vector<std::string>{"a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "z"});
    CHECK(gate.rest().empty());
}

TEST_CASE("generation: broken UTF-8 is neither lost nor kept for ever") {
    Utf8Gate gate;
    CHECK(gate.push("\x80\x80\x80\x80\x80") == "\x80\x80\x80\x80\x80");
    CHECK(gate.push("x\xFF") == "x\xFF");
    CHECK(gate.push("y\xE2\x82") == "y");
    CHECK(gate.push("z") == "\xE2\x82z");
    CHECK(gate.push("\xF0\x9F").empty());
    CHECK(gate.rest() == "\xF0\x9F");
    CHECK(gate.push("\xF0\x9F\x98").empty());
    CHECK(gate.push("\xE2") == "\xF0\x9F\x98");
    CHECK(gate.push("\x82").empty());
    CHECK(gate.push("\xAC!") == "\xE2\x82\xAC!");
}

TEST_CASE("generation: what cannot become a character is not waited for") {
    for (const char* broken : {"\xC0", "\xC1", "\xF5", "\xFF", "\xE0\x9F", "\xED\xA0", "\xF0\x8F",
                               "\xF4\x90", "\xC3(", "\xE2\x82(", "\xE2(", "\x80"}) {
        INFO(int(static_cast<unsigned char>(broken[0])));
        CHECK(Utf8Gate().push(broken) == broken);
    }
    for (const char* begun : {"\xC2", "\xDF", "\xE0\xA0", "\xE1\x80", "\xED\x9F", "\xEE\x80",
                              "\xF0\x90\x80", "\xF3\x80", "\xF4\x8F\xBF"}) {
        INFO(int(static_cast<unsigned char>(begun[0])));
        CHECK(Utf8Gate().push(begun).empty());
    }
}

TEST_CASE("generation: log-probabilities and their divergence") {
    const std::vector<float> a = {0, std::log(3.0f)}, b = {5, 5};
    const std::vector<double> p = log_softmax(a), q = log_softmax(b);
    CHECK(std::abs(std::exp(p[1]) - 0.75) < 1e-7);
    CHECK(std::abs(divergence(p, q) - (0.25 * std::log(0.5) + 0.75 * std::log(1.5))) < 1e-7);
    CHECK(divergence(p, p) == 0);
    CHECK_THROWS_AS(log_softmax(std::vector<float>{0, NAN}), Error);
    CHECK_THROWS_AS(log_softmax(std::vector<float>{0, INFINITY}), Error);
    CHECK_THROWS_AS(log_softmax(std::vector<float>{0, -INFINITY}), Error);  // KLDs would be NaN
}

TEST_CASE("generation: draws follow p^(1/T)") {
    const std::vector<double> log_p = log_softmax(std::vector<float>{0, std::log(3.0f), -1000});
    for (const double temperature : {1.0, 0.5}) {
        Sampler sampler(temperature, 1);
        const int64_t n = 20000;
        int64_t count[3] = {};
        for (int64_t i = 0; i < n; ++i) ++count[sampler.choose(log_p)];
        const double p = temperature == 1 ? 0.75 : 0.9;
        CHECK(std::abs(double(count[1]) / double(n) - p) < 5 * std::sqrt(p * (1 - p) / double(n)));
        CHECK(count[2] == 0);
    }
    CHECK(Sampler(0, 1).choose(std::vector<double>{-3, -1, -1}) == 1);
}

// The word by its definition, one after the other.
int32_t plain_word(const std::vector<float>& x, double temperature, double u) {
    const double most = *std::max_element(x.begin(), x.end());
    std::vector<double> sums;
    for (const float one : x) {
        sums.push_back((sums.empty() ? 0 : sums.back()) + std::exp((one - most) / temperature));
    }
    int32_t v = 0;
    while (std::size_t(v) + 1 < x.size() && !(sums[std::size_t(v)] > u * sums.back())) ++v;
    return v;
}

TEST_CASE("generation: a word is the one of its definition, wherever it stands") {
    Random random(7);
    for (const int64_t words : {1, 2, 255, 256, 257, 1000, 3000}) {
        std::vector<float> x;
        for (int64_t v = 0; v < words; ++v) x.push_back(float(8 * random.uniform() - 4));
        for (int i = 0; i < 200; ++i) {
            const double u = i == 0 ? 0 : i == 1 ? 1 - 0x1p-53 : random.uniform();
            CHECK(choose_word(x, 0.7, u) == plain_word(x, 0.7, u));
        }
        const std::vector<double> wide(x.begin(), x.end());
        for (const double u : {0.1, 0.9})
            CHECK(choose_word(wide, 0.7, u) == choose_word(x, 0.7, u));
        for (const int64_t top : {int64_t(0), words / 2, words - 1}) {
            std::vector<float> peaked = x;
            peaked[std::size_t(top)] = peaked[std::size_t(words) - 1] = 5;  // the first of equals
            CHECK(choose_word(peaked, 0, 0) == top);
            for (const float strange : {NAN, INFINITY, -INFINITY}) {
                std::vector<float> broken = peaked;
                broken[std::size_t(top)] = strange;
                CHECK(!choose_word(broken, 0, 0));
                CHECK(!choose_word(broken, 1, 0.5));
            }
        }
        CHECK(choose_word(std::vector<float>(std::size_t(words), -2.0F), 0, 0) == 0);
    }
    CHECK_THROWS_AS(Sampler(1, 1).choose(std::vector<float>{0, NAN}), Error);
}

}  // namespace
}  // namespace rotkv::tools
