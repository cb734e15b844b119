#include "ref/rotation_matrix.h"

#include "ref/error.h"
#include "ref/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace rotkv {

RotationMatrix::RotationMatrix(std::string words, int64_t heads, int64_t d,
                               std::vector<float> values)
    : words_(std::move(words)), heads_(heads), d_(d), values_(std::move(values)) {
    require(heads > 0 && d > 0 && int64_t(values_.size()) == heads * d * d, ErrorCode::bad_argument,
            "rotation matrix: expected [heads][d][d] numbers");
    hash_ = splitmix64(uint64_t(heads), uint64_t(d));
    for (const float value : values_) {
        hash_ = splitmix64(hash_ ^ std::bit_cast<uint32_t>(value), 0);
    }
}

double RotationMatrix::departure(int64_t head) const {
    double largest = 0;
    for (int64_t a = 0; a < d_; ++a) {
        for (int64_t b = 0; b <= a; ++b) {
            double sum = 0;
            for (int64_t i = 0; i < d_; ++i) sum += double(at(head, i, a)) * double(at(head, i, b));
            const double off = std::fabs(sum - (a == b ? 1.0 : 0.0));
            if (std::isnan(off)) return std::numeric_limits<double>::quiet_NaN();
            largest = std::max(largest, off);
        }
    }
    return largest;
}

bool RotationMatrix::splits_at(int64_t first, int64_t count) const {
    const auto inside = [&](int64_t i) { return i >= first && i < first + count; };
    for (int64_t head = 0; head < heads_; ++head) {
        for (int64_t i = 0; i < d_; ++i) {
            for (int64_t j = 0; j < d_; ++j) {
                if (inside(i) != inside(j) && at(head, i, j) != 0) return false;
            }
        }
    }
    return true;
}

RotationMatrix RotationMatrix::part(int64_t first, int64_t count) const {
    std::vector<float> values;
    for (int64_t head = 0; head < heads_; ++head) {
        for (int64_t i = first; i < first + count; ++i) {
            for (int64_t j = first; j < first + count; ++j) values.push_back(at(head, i, j));
        }
    }
    return RotationMatrix(words_, heads_, count, std::move(values));
}

bool same_matrix(const MatrixPointer& a, const MatrixPointer& b) {
    if (a == b) return true;
    return a != nullptr && b != nullptr && a->hash() == b->hash();
}

int64_t MatrixPlace::d() const { return std::accumulate(parts.begin(), parts.end(), int64_t(0)); }

}  // namespace rotkv
