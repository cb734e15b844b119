#include "ref/zoo/sphere_code.h"

#include "ref/zoo/codebook.h"

#include <cmath>

namespace rotkv::zoo {

double length_of(std::span<const float> x) { return std::sqrt(dot(x, x)); }

void put_direction(std::byte* bytes, std::span<const float> x, double length, int bits) {
    if (length == 0) return;
    const Codebook& book = sphere_codebook(int64_t(x.size()), int64_t(1) << bits);
    const double unit = std::sqrt(double(x.size())) / length;
    for (size_t i = 0; i < x.size(); ++i) {
        put_code(bytes, int64_t(i), bits, book.code(double(x[i]) * unit));
    }
}

std::vector<float> direction_at(const std::byte* bytes, int64_t n, int bits) {
    const Codebook& book = sphere_codebook(n, int64_t(1) << bits);
    const double unit = 1 / std::sqrt(double(n));
    std::vector<float> c;
    for (int64_t i = 0; i < n; ++i) {
        c.push_back(float(book.levels[code_at(bytes, i, bits)] * unit));
    }
    return c;
}

}  // namespace rotkv::zoo
