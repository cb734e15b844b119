#pragma once
// Rows through formats of the zoo, for tests.
// Docs: docs/20-zoo.md

#include "ref/format.h"
#include "tests/catch.h"
#include "tests/random.h"

#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace rotkv::test {

inline std::shared_ptr<const Format> format_of(const std::string& name) {
    std::shared_ptr<const Format> format = find_format(name);
    REQUIRE(format != nullptr);
    return format;
}

/// Bytes of a file of rows that numpy made, two digits each.
inline std::vector<std::byte> bytes_of_hex(const std::string& hex) {
    std::vector<std::byte> bytes;
    for (size_t i = 0; i < hex.size(); i += 2) {
        bytes.push_back(std::byte(std::stoi(hex.substr(i, 2), nullptr, 16)));
    }
    return bytes;
}

/// Bytes of the rows that a format takes together: one, or those of a group.
inline size_t bytes_together(const Format& format, int64_t d) {
    return size_t(format.group() * format.row_bytes(d));
}

/// The bytes of a row, of a group its rows [G][d], in memory of exactly their size.
inline std::vector<std::byte> encoded(const Format& format, const std::vector<float>& rows,
                                      const RowContext& context = {}) {
    const int64_t d = int64_t(rows.size()) / format.group();
    std::vector<std::byte> codes(bytes_together(format, d), std::byte{0xA5});
    format.encode(codes, rows, context);
    return codes;
}

inline std::vector<float> decoded(const Format& format, const std::vector<std::byte>& codes,
                                  int64_t d, const RowContext& context = {}) {
    std::vector<float> rows(size_t(format.group() * d), -12345.0f);
    format.decode(rows, codes, context);
    return rows;
}

/// decode(encode(rows))
inline std::vector<float> through(const Format& format, const std::vector<float>& rows,
                                  const RowContext& context = {}) {
    const int64_t d = int64_t(rows.size()) / format.group();
    return decoded(format, encoded(format, rows, context), d, context);
}

/// Rows of d independent normal numbers.
inline std::vector<std::vector<float>> normal_rows(int64_t rows, int64_t d, uint64_t seed) {
    const std::vector<float> all = normal_vector(rows * d, seed);
    std::vector<std::vector<float>> result;
    for (int64_t r = 0; r < rows; ++r) {
        result.emplace_back(all.begin() + r * d, all.begin() + (r + 1) * d);
    }
    return result;
}

/// Sums over rows x and what a format makes of them, y.
struct Moments {
    double xx = 0, xy = 0, yy = 0, error = 0;

    void add(const std::vector<float>& x, const std::vector<float>& y) {
        for (size_t i = 0; i < x.size(); ++i) {
            const double a = x[i], b = y[i];
            xx += a * a, xy += a * b, yy += b * b, error += (a - b) * (a - b);
        }
    }
    double relative() const { return error / xx; }
};

inline Moments moments_of(const Format& format, const std::vector<std::vector<float>>& rows) {
    Moments sum;
    for (const std::vector<float>& row : rows) sum.add(row, through(format, row));
    return sum;
}

/// The relative square error of a format on normal rows, or groups of them.
inline double error_of(const std::string& name, int64_t d, int64_t rows = 400, uint64_t seed = 5) {
    const auto format = format_of(name);
    const int64_t group = format->group();
    return moments_of(*format, normal_rows((rows + group - 1) / group, group * d, seed)).relative();
}

}  // namespace rotkv::test
