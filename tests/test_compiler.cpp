// What this compiler, with the flags of this build, must not get wrong.
#include "tests/catch.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

TEST_CASE("compiler: a constant whose last word is 0 is copied whole") {
    // g++ 12 with AVX-512 takes the last word for one more of the first three.
    const int64_t constant[4] = {4096, 4096, 4096, 0};
    const auto copy = std::make_unique<int64_t[]>(4);
    std::memcpy(copy.get(), constant, sizeof constant);
    const std::unique_ptr<int64_t[]>& hidden = copy;
    CHECK(hidden[2] == 4096);
    CHECK(hidden[3] == 0);
}
