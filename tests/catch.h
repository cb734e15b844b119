#pragma once
// What differs between Catch2 2 (Debian 12) and 3 (Debian 13), in one place.
// Docs: docs/CONTRIBUTING.md

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <cstdio>
#include <cstdlib>
#include <string>

#if __has_include(<catch2/catch_all.hpp>)
using Catch::Approx;
#endif

namespace rotkv::test {

/// A message that has this in it, for CHECK_THROWS_WITH.
inline auto containing(const std::string& text) {
#if __has_include(<catch2/catch_all.hpp>)
    return Catch::Matchers::ContainsSubstring(text);
#else
    return Catch::Contains(text);
#endif
}

/// Says aloud that a test could not run, and why. Version 2 has no SKIP, so that every skip takes
/// this one way: a line on stderr that ctest and `./dev test` show. The caller returns after it.
inline void skip(const std::string& reason) {
    const std::string name = Catch::getResultCapture().getCurrentTestName();
    std::fprintf(stderr, "SKIPPED %s: %s\n", name.c_str(), reason.c_str());
    SUCCEED("skipped: " << reason);
}

/// The folder with the large test data (text, vocabularies, other engines' logits), or "" when the
/// environment variable ROTKV_DATA is not set; tests that need it then skip.
inline std::string data_dir() {
    const char* dir = std::getenv("ROTKV_DATA");
    return dir == nullptr ? "" : dir;
}

}  // namespace rotkv::test
