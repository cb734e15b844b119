#include "ref/zoo/random_matrix.h"

#include "ref/random.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numbers>
#include <tuple>

namespace rotkv::zoo {

std::vector<double> normal_numbers(int64_t count, uint64_t seed) {
    Random random(seed);
    std::vector<double> numbers;
    while (int64_t(numbers.size()) < count) {
        const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
        const double angle = 2 * std::numbers::pi * random.uniform();
        numbers.push_back(radius * std::cos(angle));
        numbers.push_back(radius * std::sin(angle));
    }
    numbers.resize(size_t(count));
    return numbers;
}

// Rows first .. end of [m][d] become orthonormal.
static void make_orthonormal(std::vector<double>& s, int64_t d, int64_t first, int64_t end) {
    const auto row = [&](int64_t i) { return s.data() + i * d; };
    for (int64_t i = first; i < end; ++i) {
        for (int turn = 0; turn < 2; ++turn) {  // once more for what rounding left
            for (int64_t before = first; before < i; ++before) {
                double along = 0;
                for (int64_t j = 0; j < d; ++j) along += row(before)[j] * row(i)[j];
                for (int64_t j = 0; j < d; ++j) row(i)[j] -= along * row(before)[j];
            }
        }
        double square = 0;
        for (int64_t j = 0; j < d; ++j) square += row(i)[j] * row(i)[j];
        for (int64_t j = 0; j < d; ++j) row(i)[j] /= std::sqrt(square);
    }
}

std::vector<double> orthogonal_matrix(int64_t d, uint64_t seed) {
    std::vector<double> rows = normal_numbers(d * d, seed);
    make_orthonormal(rows, d, 0, d);
    return rows;
}

static std::vector<float> make_matrix(Sketch sketch, int64_t m, int64_t d, uint64_t seed) {
    std::vector<double> s = normal_numbers(m * d, seed);
    if (sketch == Sketch::orthogonal) {
        for (int64_t first = 0; first < m; first += d) {
            make_orthonormal(s, d, first, std::min(first + d, m));
        }
        for (double& entry : s) entry *= std::sqrt(double(d));
    }
    return std::vector<float>(s.begin(), s.end());
}

const std::vector<float>& random_matrix(Sketch sketch, int64_t m, int64_t d, uint64_t seed) {
    static std::mutex mutex;
    static std::map<std::tuple<Sketch, int64_t, int64_t, uint64_t>, std::vector<float>> known;
    const std::scoped_lock lock(mutex);
    const auto key = std::make_tuple(sketch, m, d, seed);
    const auto found = known.find(key);
    if (found != known.end()) return found->second;
    return known.emplace(key, make_matrix(sketch, m, d, seed)).first->second;
}

}  // namespace rotkv::zoo
