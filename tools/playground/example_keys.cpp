#include "tools/playground/example_keys.h"

#include "ref/error.h"
#include "ref/random.h"

#include <algorithm>

namespace rotkv::playground {

namespace {

constexpr const char* k_names[] = {"normal", "one loud channel", "a few loud", "real-like",
                                   "an offset"};

// Mean 0, variance 1: twelve uniform numbers, added in this order.
float normal(Random& random) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    return float(sum);
}

std::vector<float> normals(int64_t n, uint64_t seed) {
    Random random(seed);
    std::vector<float> row(static_cast<size_t>(n));
    for (float& x : row) x = normal(random);
    return row;
}

// Sizes from 1/8 to 2, most of them small; in each half of the head two loud ones at the slow end.
std::vector<float> real_like(int64_t d, uint64_t seed) {
    std::vector<float> row = normals(d, seed);
    Random random(seed + 1);
    for (float& x : row) {
        const double u = random.uniform();
        x *= float(0.125 + 1.875 * u * u);
    }
    for (const int64_t half : {d / 2, d}) {
        row[size_t(half - d / 16 - 1)] += 7.0f;
        row[size_t(half - d / 32 - 2)] -= 5.0f;
    }
    return row;
}

}  // namespace

std::span<const char* const> example_names() { return k_names; }

std::vector<float> example_row(const std::string& name, int64_t d, uint64_t seed) {
    const auto found = std::find(std::begin(k_names), std::end(k_names), name);
    if (found == std::end(k_names)) {
        throw Error(ErrorCode::usage, "example: unknown name '" + name + "'");
    }
    if (d < 16) {
        throw Error(ErrorCode::bad_argument,
                    "example: expected at least 16 channels, found " + std::to_string(d));
    }
    const auto which = found - std::begin(k_names);
    if (which == 3) return real_like(d, seed);
    std::vector<float> row = normals(d, seed);
    if (which == 1 || which == 2) row[size_t(d / 8 + 1)] = 12.0f;
    if (which == 2) {
        row[size_t(d / 2 - 2)] = -8.0f;
        row[size_t(d - d / 8)] = 6.0f;
    }
    if (which == 4) {
        for (float& x : row) x += 3.0f;
    }
    return row;
}

std::vector<float> keys_like(std::span<const float> row, int64_t n, uint64_t seed) {
    std::vector<float> keys(row.begin(), row.end());
    Random random(seed);
    for (int64_t i = 1; i < n; ++i) {
        for (const float x : row) {
            const float share = (3.0f + normal(random)) / 4.0f;
            keys.push_back(x * share + normal(random) / 2.0f);
        }
    }
    return keys;
}

std::vector<float> example_query(int64_t d, uint64_t seed) { return normals(d, seed); }

}  // namespace rotkv::playground
