#include "ref/zoo/sketch.h"

#include <cmath>
#include <numbers>

namespace rotkv::zoo {

Sketch sketch_of(Parameters& words) {
    return words.word({"gaussian", "orthogonal"}, 0) == 1 ? Sketch::orthogonal : Sketch::gaussian;
}

void put_signs(std::byte* bytes, std::span<const float> x, std::span<const float> s, int64_t m) {
    for (int64_t i = 0; i < m; ++i) {
        put_code(bytes, i, 1, dot(x, s.subspan(size_t(i) * x.size(), x.size())) < 0);
    }
}

std::vector<float> unsketched(const std::byte* bytes, std::span<const float> s, int64_t m,
                              int64_t d) {
    std::vector<double> sum(static_cast<size_t>(d));
    for (int64_t i = 0; i < m; ++i) {
        const double sign = code_at(bytes, i, 1) ? -1 : 1;
        const float* row = s.data() + i * d;
        for (int64_t j = 0; j < d; ++j) sum[size_t(j)] += sign * double(row[j]);
    }
    std::vector<float> x;
    const double scale = std::sqrt(std::numbers::pi / 2) / double(m);
    for (const double value : sum) x.push_back(float(scale * value));
    return x;
}

}  // namespace rotkv::zoo
