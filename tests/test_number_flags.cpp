// Numbers of the command line: all of them that are, and none that are not.
#include "ref/error.h"
#include "tests/catch.h"
#include "tools/number_flags.h"

#include <string>

using namespace rotkv;
using namespace rotkv::tools;

template <class Parse>
static std::string refusal(const Parse& parse) {
    try {
        parse();
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::usage);
        return error.what();
    }
    return "";
}

TEST_CASE("number_flags: whole numbers are decimal digits within their bounds") {
    CHECK(parse_whole("-t", "1", 1, 1024) == 1);
    CHECK(parse_whole("-t", "1024", 1, 1024) == 1024);
    CHECK(parse_whole("-t", "010", 1, 1024) == 10);
    CHECK(parse_whole("-t", "-3", -3, 3) == -3);
    CHECK(parse_whole("-t", "9223372036854775807", 0, INT64_MAX) == INT64_MAX);
    for (const char* text :
         {"", " 1", "1 ", "+1", "0", "1025", "1e3", "0x10", "4.0", "4x", "nan",
          "9223372036854775808", "18446744073709551617", "-9223372036854775809"}) {
        CAPTURE(text);
        CHECK(refusal([&] { parse_whole("-t", text, 1, 1024); }) ==
              "-t: expected a whole number from 1 to 1024, found '" + std::string(text) + "'");
    }
    CHECK(parse_limit("--chunks", "-1") == -1);
    CHECK(parse_limit("--chunks", "7") == 7);
    for (const char* text : {"0", "-2", "-5", "all", ""}) {
        CHECK(refusal([&] { parse_limit("--chunks", text); }) ==
              "--chunks: expected a whole number from 1 on, or -1 for all, found '" +
                  std::string(text) + "'");
    }
}

TEST_CASE("number_flags: real numbers are finite and within their bounds") {
    CHECK(parse_real("--temp", "0.8", 0, 100) == 0.8);
    CHECK(parse_real("--temp", "1e-3", 0, 100) == 1e-3);
    CHECK(parse_real("--temp", "100", 0, 100) == 100);
    CHECK(parse_real("--temp", ".5", 0, 100) == 0.5);
    for (const char* text : {"", "nan", "inf", "-0.1", "100.1", "1e999", "0x1p1", "1 ", " 1", "1,5",
                             "80%", "e", "1e", "--1"}) {
        CAPTURE(text);
        CHECK(refusal([&] { parse_real("--temp", text, 0, 100); }) ==
              "--temp: expected a number from 0 to 100, found '" + std::string(text) + "'");
    }
}
