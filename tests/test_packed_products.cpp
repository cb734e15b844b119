// Every way to multiply by a weight as a column of the table, for as many tokens as the ways differ
// by; threads, neighbours and the terms of tiles.
#include "fast/bf16_terms.h"
#include "fast/kernels.h"
#include "fast/packed_products.h"
#include "ref/forwarding_backend.h"
#include "ref/quant.h"
#include "ref/random.h"
#include "tests/catch.h"
#include "tools/backends.h"
#include "tools/ladder_backends.h"
#include "tools/parity/parity.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

using namespace rotkv;
using namespace rotkv::tools;

namespace {

constexpr int k_threads = 3;

std::vector<Column> ways() {
    std::vector<Column> ways;
    for (LadderVersion& version : fast_ladder_versions(k_threads)) {
        if (version.ladder != "products") continue;
        ways.push_back({version.name, std::move(version.backend), ""});
    }
    return ways;
}

// fast on a processor that multiplies no tiles.
class TilesOff final : public ForwardingBackend {
  public:
    TilesOff() : ForwardingBackend(make_backend("fast", k_threads)) {}

  protected:
    void execute(const Call& call) override {
        const fast::WithoutTiles without;
        ForwardingBackend::execute(call);
        synchronize();
    }
};

// How many of the cases each column passes; a failure fails the test.
std::vector<int64_t> passed(const std::vector<std::string>& names,
                            const std::vector<Column>& columns) {
    std::vector<int64_t> ok(columns.size());
    for (const std::string& name : names) {
        const std::vector<CaseResult> cells = run_case(*make_case(name), columns);
        for (size_t i = 0; i < columns.size(); ++i) {
            INFO(columns[i].name << ": " << cells[i].text);
            CHECK(cells[i].outcome != Outcome::fail);
            ok[i] += cells[i].outcome == Outcome::ok;
        }
    }
    return ok;
}

// A product [tokens][n] x [out][n]^T in memory.
struct Product {
    int64_t tokens, n, out;
    DType type;
    std::vector<float> x, y;
    std::vector<std::byte> w;

    Product(DType of, int64_t t, int64_t in, int64_t rows)
        : tokens(t), n(in), out(rows), type(of), x(size_t(t * in)), y(size_t(t * rows)) {
        Random random(5);
        const auto fill = [&](std::vector<float>& to) {
            for (float& value : to) value = float(random.uniform() - 0.5);
        };
        fill(x);
        std::vector<float> row(static_cast<size_t>(n));
        w.resize(size_t(out * row_bytes(type, n)));
        for (int64_t r = 0; r < out; ++r) {
            fill(row);
            fast::quantize_row(type, w.data() + r * row_bytes(type, n), row.data(), n);
        }
    }
    const std::vector<float>& multiply(int threads) {
        std::fill(y.begin(), y.end(), -1.0f);
        const fast::ThreadCount count(threads);
        fast::matmul({.dst = view(y.data(), DType::f32, {tokens, out}),
                      .weight = view(w.data(), type, {out, n}),
                      .src = view(x.data(), DType::f32, {tokens, n})});
        return y;
    }
};

bool equal_bits(std::span<const float> a, std::span<const float> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace

TEST_CASE("packed products: every way is held to the table") {
    std::vector<std::string> names;
    for (const DType type : weight_types()) {
        const std::string of = std::string("matmul/type=") + type_info(type).name;
        // One group of tokens for tiles, two, four, and one more; rows and columns left over.
        for (const char* rest :
             {"/T=13/in=768", "/T=32/out=33", "/T=50/in=512/out=17", "/T=65/out=20",
              "/T=17/in=512/values=outliers", "/T=20/in=1792/out=9/values=outliers-zero-weight"}) {
            names.push_back(of + rest);
        }
    }
    for (const char* type : {"f32", "bf16", "q4_1", "q8_0"}) {
        for (const char* values : {"tiny", "huge", "inf", "nan", "zeros", "positive"}) {
            names.push_back(std::string("matmul/type=") + type +
                            "/T=40/in=288/out=35/values=" + values);
        }
    }
    for (const char* name :
         {"matmul/type=f32/T=18/in=515/out=21/values=wild-weight",
          "matmul/type=bf16/T=35/in=515/out=21/values=wild-weight",
          "matmul/type=q4_1/T=30/in=64/layout=padded", "matmul/type=q5_1/T=30/in=32/out=20",
          "matmul/type=q5_1/T=70/in=352/out=43/values=outliers"}) {
        names.push_back(name);
    }
    const std::vector<Column> columns = ways();
    REQUIRE(columns.size() == 4);
    const std::vector<int64_t> ok = passed(names, columns);
    CHECK(ok[0] == int64_t(names.size()));
    CHECK(ok[1] == ok[0]);
    CHECK(ok[2] == ok[0]);
    CHECK(ok[3] == (fast::has_tiles() ? ok[0] : 0));
}

// A weight without columns: sums of nothing, by whoever multiplies so many tokens.
TEST_CASE("packed products: of no columns all results are 0") {
    std::vector<std::string> names, of_matmul;
    for (const DType type : weight_types()) {
        for (const int tokens : {1, 3, 8, 16, 33, 70}) {
            const std::string rest =
                std::string("/type=") + type_info(type).name + "/T=" + std::to_string(tokens);
            of_matmul.push_back("matmul" + rest + "/in=0/out=40");
            names.push_back(of_matmul.back());
            names.push_back("expert_matmul" + rest + "/X=2/A=1/in=0/out=40");
        }
    }
    names.push_back("matmul/type=f32/T=70/in=0/out=40/layout=padded");
    passed(of_matmul, ways());
    std::vector<Column> columns;
    columns.push_back({"fast", make_backend("fast", k_threads), ""});
    columns.push_back({"without tiles", std::make_unique<TilesOff>(), ""});
    const std::vector<int64_t> ok = passed(names, columns);
    CHECK(ok[0] == int64_t(names.size()));
    CHECK(ok[1] == ok[0]);
}

TEST_CASE("packed products: a processor without tiles is held to the table") {
    std::vector<Column> columns;
    columns.push_back({"without tiles", std::make_unique<TilesOff>(), ""});
    std::vector<std::string> names;
    for (const char* type : {"f32", "q4_1", "q6_K"}) {
        const std::string of = std::string("/type=") + type;
        for (const char* rest : {"/T=37/in=512/out=40", "/T=113/out=40"}) {
            names.push_back("matmul" + of + rest);
        }
        names.push_back("expert_matmul" + of + "/T=200/X=2/A=1/in=8192/out=70");
        names.push_back("nll" + of + "/T=37/V=1100/E=512");
        names.push_back("nll" + of + "/T=70/V=1100/E=512");
        names.push_back("kld" + of + "/T=70/V=1100/E=512");
    }
    for (const std::string& name : case_names("attention/k=q8_0")) {
        const bool is_f32 = name.find("precision=") == std::string::npos;
        if (is_f32 && name.find("T=37") != std::string::npos) names.push_back(name);
    }
    CHECK(passed(names, columns)[0] == int64_t(names.size()));
    const fast::WithoutTiles without;
    CHECK_FALSE(fast::has_tiles());
    CHECK_FALSE(fast::team_multiplies(fast::k_strip_tokens + 1));
}

TEST_CASE("packed products: the number of threads changes no bit") {
    for (const int64_t tokens : {5, 16, 40, 150}) {
        for (const bool with_tiles : {false, true}) {
            INFO(tokens << ", tiles " << with_tiles);
            std::optional<fast::WithoutTiles> without;
            if (!with_tiles) without.emplace();
            if (!fast::team_multiplies(tokens)) continue;    // sgemm makes no such promise
            Product product(DType::q4_1, tokens, 576, 800);  // as many tasks as threads ask for
            const std::vector<float> alone = product.multiply(1);
            for (const int threads : {2, 5, 9}) CHECK(equal_bits(product.multiply(threads), alone));
        }
    }
}

// Groups of tokens of one to four, codes and terms: which others there are decides nothing.
TEST_CASE("packed products: what stands in a token is no other token's business") {
    for (const DType type : {DType::q8_0, DType::f16, DType::f32}) {
        for (const int64_t tokens : {5, 17, 33, 49, 65}) {
            Product product(type, tokens, 288, 70);
            const std::vector<float> before = product.multiply(2);
            for (const float odd : {NAN, INFINITY, 1e-30f, 3e38f, -1e-42f}) {
                INFO(type_info(type).name << ", " << tokens << " tokens, " << odd);
                // The last token is alone in its group, or the first of another pass.
                for (const int64_t token : {int64_t(3), tokens - 1}) {
                    const size_t at = size_t(token * product.n + 5);
                    const float value = std::exchange(product.x[at], odd);
                    const std::vector<float>& y = product.multiply(2);
                    product.x[at] = value;
                    const auto rows = [&](const std::vector<float>& of, int64_t first,
                                          int64_t end) {
                        return std::span(of).subspan(size_t(first * product.out),
                                                     size_t((end - first) * product.out));
                    };
                    CHECK(equal_bits(rows(y, 0, token), rows(before, 0, token)));
                    CHECK(equal_bits(rows(y, token + 1, tokens), rows(before, token + 1, tokens)));
                    CHECK_FALSE(
                        equal_bits(rows(y, token, token + 1), rows(before, token, token + 1)));
                }
            }
        }
    }
}

// A row with an infinite scale is multiplied again, and rows beside it: the same ones, however many
// rows a thread has taken.
TEST_CASE("packed products: nor where a row is multiplied again") {
    for (const DType type : {DType::q8_0, DType::q4_1}) {
        INFO(type_info(type).name);
        Product product(type, 16, 96, 800);
        const uint16_t infinite = 0x7C00;
        std::memcpy(product.w.data() + 333 * row_bytes(type, 96), &infinite, sizeof infinite);
        const std::vector<float> alone = product.multiply(1);
        CHECK_FALSE(std::isfinite(alone[333]));
        for (const int threads : {2, 5, 9}) CHECK(equal_bits(product.multiply(threads), alone));
    }
}

// A weight whose products would be lost in tiles: f32 holds 1e-30, and bf16 terms of it do not hold
// its last bits.
TEST_CASE("packed products: tiny weights are weights") {
    Product product(DType::f32, 16, 64, 33);
    std::fill(product.w.begin(), product.w.end(), std::byte(0));
    const float tiny = 1.2345678e-38f, large = 4.5678e10f;
    std::memcpy(product.w.data() + 3 * 4, &tiny, sizeof tiny);
    std::fill(product.x.begin(), product.x.end(), large);
    const std::vector<float>& y = product.multiply(2);
    const double expected = double(tiny) * double(large);
    CHECK(std::fabs(double(y[0]) - expected) <= 0x1p-22 * expected);
    CHECK(y[1] == 0.0f);
}

#if ROTKV_AMX
TEST_CASE("packed products: three terms are the value") {
    Random random(3);
    for (int round = 0; round < 200; ++round) {
        float values[32];
        for (float& value : values) {
            value = float(std::ldexp(random.uniform() - 0.5, int(random.below(120)) - 60));
        }
        const fast::Terms terms =
            fast::split_terms(_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16));
        double sums[32] = {};
        for (const __m512i& term : terms.of) {
            uint16_t bits[32];
            _mm512_storeu_si512(bits, term);
            for (int i = 0; i < 32; ++i) {
                sums[i % 2 * 16 + i / 2] += double(std::bit_cast<float>(uint32_t(bits[i]) << 16));
            }
        }
        for (int i = 0; i < 32; ++i) REQUIRE(sums[i] == double(values[i]));
    }
}

TEST_CASE("packed products: sixteen rows become columns") {
    __m512i rows[16];
    int32_t lanes[16][16];
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 16; ++j) lanes[i][j] = 100 * i + j;
        rows[i] = _mm512_loadu_si512(lanes[i]);
    }
    fast::transpose_16(rows);
    for (int i = 0; i < 16; ++i) {
        _mm512_storeu_si512(lanes[i], rows[i]);
        for (int j = 0; j < 16; ++j) REQUIRE(lanes[i][j] == 100 * j + i);
    }
}
#endif
