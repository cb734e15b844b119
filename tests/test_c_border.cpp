// The border of the C ABI: the processor's mode for denormal numbers, structs of other sizes, texts
// that need room. The rest is tests/test_bindings.py's, which loads the library as others do.
#include "tests/catch.h"
#include "tools/bindings/rotkv.h"

#include <cfenv>
#include <cstring>
#include <string>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

using namespace rotkv::test;

namespace {

rotkv_array array_of(std::vector<float>& x, int64_t d) {
    return {x.data(), x.size() * sizeof(float), ROTKV_F32, {1, 1, int64_t(x.size()) / d, d}, {}};
}

// Rows of denormal numbers, turned by a backend of two threads.
std::vector<float> turned(const char* backend_name, std::vector<float> x) {
    constexpr int64_t d = 64;
    std::vector<float> y(x.size());
    const rotkv_array src = array_of(x, d), dst = array_of(y, d);
    const rotkv_rotation rotation{ROTKV_SYLVESTER, 64, 0, 0};
    rotkv_backend* backend = nullptr;
    REQUIRE(rotkv_backend_open(backend_name, 2, &backend) == ROTKV_OK);
    CHECK(rotkv_hadamard(backend, &rotation, 0, &dst, &src) == ROTKV_OK);
    rotkv_backend_close(backend);
    return y;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("C ABI: denormal numbers are numbers, whatever the caller's processor does with them") {
#if defined(__SSE2__)
    std::vector<float> x(4096 * 64);  // enough for several threads
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(int(i % 61) - 30) * 1e-43f;
    const std::vector<float> expected = turned("ref", x);
    CHECK(std::fpclassify(expected[0]) == FP_SUBNORMAL);
    const unsigned before = _mm_getcsr();
    const unsigned flushing = before | 0x8040;  // to zero, and read as zero
    _mm_setcsr(flushing);
    const std::vector<float> ref = turned("ref", x), fast = turned("fast", x);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK((after & 0x8040) == 0x8040);
    CHECK(same_bits(ref, expected));
    CHECK(same_bits(fast, expected));
#else
    skip("the caller's mode is set on x86 alone");
#endif
}

TEST_CASE("C ABI: a struct of an older caller is taken, one of a newer is not") {
    rotkv_windows windows{};
    rotkv_rows rows{};
    std::vector<float> x(64, 1.0f), y(64);
    std::vector<unsigned char> codes(68);
    rows.rows = 1;
    rows.d = 64;
    rows.side = 7;  // behind what an older caller knows
    rows.size = offsetof(rotkv_rows, side);
    CHECK(rotkv_encode("q8_0", &rows, x.data(), codes.data(), codes.size()) == ROTKV_OK);
    rows.size = sizeof rows;
    CHECK(rotkv_encode("q8_0", &rows, x.data(), codes.data(), codes.size()) == ROTKV_BAD_ARGUMENT);
    CHECK(std::string(rotkv_last_error()) == "rows.side: expected 0 to 1, found 7");
    rows.side = 0;
    for (const std::size_t size : {std::size_t(0), sizeof rows + 8, sizeof windows.size - 1}) {
        rows.size = size;
        CHECK(rotkv_encode("q8_0", &rows, x.data(), codes.data(), codes.size()) ==
              ROTKV_BAD_ARGUMENT);
    }
}

TEST_CASE("C ABI: a text says how much room it needs") {
    const rotkv_rotation rotation{ROTKV_SIGNS, 64, 7, 0};
    std::size_t length = 0;
    CHECK(rotkv_words_of_rotation(&rotation, nullptr, 0, &length) == ROTKV_OK);
    CHECK(length == 4);
    char text[5] = "????";
    CHECK(rotkv_words_of_rotation(&rotation, text, 4, &length) == ROTKV_BAD_ARGUMENT);
    CHECK(std::string(rotkv_last_error()) ==
          "capacity: expected room for 4 bytes and a 0, found 4");
    CHECK(std::string(text) == "????");
    CHECK(rotkv_words_of_rotation(&rotation, text, 5, nullptr) == ROTKV_OK);
    CHECK(std::string(text) == "64:7");
    CHECK(std::string(rotkv_last_error()).empty());
    CHECK(rotkv_words_of_rotation(&rotation, nullptr, 0, nullptr) == ROTKV_BAD_ARGUMENT);
}

TEST_CASE("C ABI: a view reaches no further than its bytes") {
    std::vector<float> x(128), y(128);
    rotkv_array src = array_of(x, 64), dst = array_of(y, 64);
    const rotkv_rotation rotation{ROTKV_SYLVESTER, 64, 0, 0};
    const auto turn = [&] { return rotkv_hadamard(nullptr, &rotation, 0, &dst, &src); };
    CHECK(turn() == ROTKV_OK);
    src.bytes = 511;
    CHECK(turn() == ROTKV_BAD_ARGUMENT);
    CHECK(std::string(rotkv_last_error()) ==
          "src: expected 512 bytes for f32 [1][1][2][64], found 511");
    src.bytes = 512;
    src.stride[3] = 4;  // all others 0: the first row, twice
    CHECK(turn() == ROTKV_OK);
    CHECK(std::memcmp(y.data(), y.data() + 64, 256) == 0);
    src.stride[2] = 260;
    CHECK(turn() == ROTKV_BAD_ARGUMENT);  // 516 bytes
    src.stride[2] = 254;
    CHECK(turn() == ROTKV_BAD_ARGUMENT);  // not on a multiple of 4
    src.stride[2] = 252;
    CHECK(turn() == ROTKV_OK);  // rows that overlap
    src.data = reinterpret_cast<char*>(x.data()) + 1;
    CHECK(turn() == ROTKV_BAD_ARGUMENT);
    src.n[1] = int64_t(1) << 62;
    CHECK(turn() == ROTKV_BAD_ARGUMENT);
}
