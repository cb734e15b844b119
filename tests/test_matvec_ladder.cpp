// Every version of the product of one token as a column of the table, and the digits of which the
// second is made.
#include "fast/digits.h"
#include "ref/random.h"
#include "tests/catch.h"
#include "tools/ladder_backends.h"
#include "tools/parity/parity.h"

#include <cmath>
#include <limits>

using namespace rotkv;
using namespace rotkv::tools;

namespace {

constexpr int k_threads = 3;

// Values of a row, from its digits.
std::vector<double> joined(const fast::DigitRow& row, size_t n) {
    constexpr int64_t quarter = fast::k_lanes / fast::k_digits;
    std::vector<double> x(n, 0.0);
    for (const fast::DigitBlock& block : row.blocks()) {
        for (int64_t i = 0; i < k_block; ++i) {
            double& to = x[size_t(block.block * k_block + i)];
            for (int64_t j = 0; j < fast::k_digits; ++j) {
                to += double(block.worth[j * quarter]) *
                      block.digits[i / fast::k_lanes][j][i % fast::k_lanes];
            }
        }
    }
    return x;
}

// The table's rows of one token, and those that it has for more.
std::vector<std::string> cases_of(const std::string& type) {
    const std::string one = "matmul/type=" + type + "/T=1/";
    std::vector<std::string> names = case_names("matmul/type=" + type + "/");
    std::erase_if(names, [&](const std::string& name) { return !name.starts_with(one); });
    names.push_back("matmul/type=" + type + "/T=1");
    for (const char* rest :
         {"values=outlier", "values=positive", "values=tiny", "values=huge", "values=zeros",
          "values=nan", "values=inf", "in=32/out=1", "in=1792/out=9/values=outliers-zero-weight"}) {
        names.push_back(one + rest);
    }
    return names;
}

// A step's lanes in plain whole numbers.
template <fast::Codes codes>
void check_products(const std::vector<uint8_t>& bytes, const int8_t (&digits)[4][fast::k_lanes]) {
    int32_t expected[fast::k_lanes] = {}, found[fast::k_lanes];
    for (int64_t i = 0; i < fast::k_lanes; ++i) {
        const int byte = bytes[size_t(i)];
        const int code = codes == fast::Codes::from_minus_128 ? int8_t(byte) + 128
                         : codes == fast::Codes::low_nibbles  ? byte % 16
                                                              : byte / 16;
        for (int64_t j = 0; j < fast::k_digits; ++j) {
            expected[j * (fast::k_lanes / 4) + i / 4] += code * digits[j][i] + (i % 4 == 0 ? 7 : 0);
        }
    }
    fast::add_products<codes>(fast::Ints(7), bytes.data(), digits).store_unaligned(found);
    CHECK(std::equal(found, found + fast::k_lanes, expected));
}

}  // namespace

TEST_CASE("matvec_ladder: products of codes and digits are whole numbers, the largest too") {
    Random random(2);
    for (int round = 0; round < 50; ++round) {
        std::vector<uint8_t> bytes(fast::k_lanes);
        int8_t digits[4][fast::k_lanes];
        for (uint8_t& byte : bytes) {
            byte = uint8_t(round == 0 ? 0xFF : round == 1 ? 0x7F : random.below(256));
        }
        for (auto& row : digits) {
            for (int8_t& digit : row) {
                digit = int8_t(round < 2 ? -128 : round == 2 ? 127 : random.below(256) - 128);
            }
        }
        check_products<fast::Codes::from_minus_128>(bytes, digits);
        check_products<fast::Codes::low_nibbles>(bytes, digits);
        check_products<fast::Codes::high_nibbles>(bytes, digits);
    }
}

TEST_CASE("matvec_ladder: every version is held to the table") {
    std::vector<Column> versions;
    for (LadderVersion& version : fast_ladder_versions(k_threads)) {
        if (version.ladder != "matvec") continue;
        versions.push_back({version.name, std::move(version.backend), ""});
    }
    REQUIRE(versions.size() == 2);
    std::vector<int64_t> ok(versions.size());
    for (const char* type : {"q8_0", "q4_0", "q4_1"}) {
        for (const std::string& name : cases_of(type)) {
            const std::vector<CaseResult> cells = run_case(*make_case(name), versions);
            for (size_t i = 0; i < cells.size(); ++i) {
                INFO(versions[i].name << ": " << cells[i].text);
                CHECK(cells[i].outcome != Outcome::fail);
                ok[i] += cells[i].outcome == Outcome::ok;
            }
        }
    }
    CHECK(ok[0] >= 24);
    CHECK(ok[1] == ok[0]);
}

TEST_CASE("matvec_ladder: a row in digits is the row, whatever is loud in it") {
    Random random(1);
    fast::DigitRow row;
    for (int round = 0; round < 100; ++round) {
        std::vector<float> x;
        for (int i = 0; i < 96; ++i) {
            const int exponent = -int(random.below(1 + round / 2));
            x.push_back(float(std::ldexp(random.uniform() - 0.5, exponent)));
        }
        std::fill(x.begin() + 32, x.begin() + 64, 0.0f);
        REQUIRE(row.assign(x.data(), 96, 0));
        const std::vector<double> found = joined(row, x.size());
        for (size_t i = 0; i < x.size(); ++i) {
            INFO(round << ", " << i);
            REQUIRE(std::fabs(found[i] - double(x[i])) <= 0x1p-22 * std::fabs(double(x[i])));
        }
        // Four digits where values are alike, more where they are not; none of zeros.
        CHECK(row.blocks().size() >= (round < 60 ? 2 : 3));
        if (round < 4) CHECK(row.blocks().size() <= 4);
    }
}

TEST_CASE("matvec_ladder: rows that have no digits") {
    fast::DigitRow row;
    for (const float odd : {NAN, INFINITY, -INFINITY, 1e37f, 1e-37f, 1e-44f}) {
        std::vector<float> x(64, 0.0f);
        x[40] = odd;
        CHECK_FALSE(row.assign(x.data(), 64, 0));
        std::fill(x.begin(), x.begin() + 32, 1.0f);
        CHECK_FALSE(row.assign(x.data(), 64, 0));
    }
    const std::vector<float> zeros(64, -0.0f);
    CHECK(row.assign(zeros.data(), 64, 0));
    CHECK(row.blocks().empty());
}
