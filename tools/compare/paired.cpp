#include "tools/compare/paired.h"

#include "ref/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rotkv::tools {

std::vector<double> window_means(std::span<const double> x, int64_t per_window) {
    require(per_window > 0 && int64_t(x.size()) % per_window == 0, ErrorCode::bad_argument,
            "statistics: expected whole windows");
    std::vector<double> means;
    for (std::size_t first = 0; first < x.size(); first += std::size_t(per_window)) {
        means.push_back(mean_of(x.subspan(first, std::size_t(per_window))).value);
    }
    return means;
}

Mean mean_by_windows(std::span<const double> x, int64_t per_window) {
    return mean_of(window_means(x, per_window));
}

Mean paired_difference(std::span<const double> a, std::span<const double> b, int64_t per_window) {
    require(a.size() == b.size(), ErrorCode::bad_argument, "statistics: expected the same tokens");
    std::vector<double> difference(a.size());
    for (std::size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
    return mean_by_windows(difference, per_window);
}

double student_p(double t, int64_t freedom) {
    const double theta = std::atan(std::fabs(t) / std::sqrt(double(freedom)));
    const double sine = std::sin(theta), cosine = std::cos(theta);
    const bool odd = freedom % 2 != 0;
    // sum of c^k, c^(k+2), ... up to c^(freedom - 2), each term with its ratio to the one before
    double sum = 0, term = odd ? cosine : 1;
    for (int64_t k = odd ? 1 : 0; k <= freedom - 2; k += 2) {
        sum += term;
        term *= cosine * cosine * double(k + 1) / double(k + 2);
    }
    const double inside = odd ? 2 / std::numbers::pi * (theta + sine * sum) : sine * sum;
    return std::clamp(1 - inside, 0.0, 1.0);
}

double p_of(const Mean& difference, int64_t windows) {
    if (!is_number(difference.value)) return number_or_nan(difference.value);
    if (windows < 2 || difference.value == 0 || std::isnan(difference.error)) return 1;
    if (difference.error == 0) return 0;
    return student_p(difference.value / difference.error, windows - 1);
}

bool StoppingRule::look(const Mean& difference, int64_t windows) {
    if (windows < k_fewest_windows) return false;
    ++looks_;
    return p_of(difference, windows) <= threshold(looks_);
}

std::vector<PositionBin> by_position(std::span<const double> x, int64_t per_window,
                                     int64_t first_scored, int64_t bins) {
    const int64_t windows = int64_t(x.size()) / per_window;
    bins = std::min(bins, per_window);
    std::vector<PositionBin> result;
    for (int64_t bin = 0; bin < bins; ++bin) {
        const int64_t begin = bin * per_window / bins, end = (bin + 1) * per_window / bins;
        std::vector<double> there;
        for (int64_t window = 0; window < windows; ++window) {
            const auto start = x.begin() + window * per_window;
            there.insert(there.end(), start + begin, start + end);
        }
        result.push_back(
            {first_scored + begin, first_scored + end - 1, mean_by_windows(there, end - begin)});
    }
    return result;
}

}  // namespace rotkv::tools
