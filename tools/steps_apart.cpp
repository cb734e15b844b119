#include "tools/steps_apart.h"

#include "ref/half.h"
#include "ref/quant.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rotkv::tools {

std::vector<float> values_of(DType type, std::span<const std::byte> rows, int64_t d) {
    const int64_t bytes = row_bytes(type, d);
    std::vector<float> values(rows.size() / size_t(bytes) * size_t(d));
    std::vector<std::byte> aligned(static_cast<size_t>(bytes));
    for (size_t r = 0; r * size_t(bytes) < rows.size(); ++r) {
        std::ranges::copy(rows.subspan(r * size_t(bytes), size_t(bytes)), aligned.begin());
        ref::dequantize_row(type, values.data() + int64_t(r) * d, aligned.data(), d);
    }
    return values;
}

// The distance of neighbours of a stored value.
static double step_at(DType type, const std::byte* row, int64_t j, float value) {
    if (is_block_type(type)) {
        uint16_t scale = 0;
        std::memcpy(&scale, row + block_offset(type, j / k_block * k_block), sizeof scale);
        const double d = std::fabs(double(f16_to_f32(scale)));
        return type == DType::iq4_nl ? 16 * d : d;
    }
    const int bits = type == DType::f32 ? 23 : type == DType::f16 ? 10 : 7;
    const int least = type == DType::f16 ? -14 : -126;  // exponent of the smallest normal number
    const int exponent = value == 0 || !std::isfinite(value) ? least : std::ilogb(value);
    return std::ldexp(1.0, std::max(exponent, least) - bits);
}

// Infinite where one is a number and the other is none.
static double steps_between(float theirs, float ours, double step) {
    if (theirs == ours || (std::isnan(theirs) && std::isnan(ours))) return 0;
    const double apart = std::fabs(double(theirs) - double(ours));
    return std::isfinite(apart) && step > 0 ? apart / step : INFINITY;
}

StepsApart steps_apart(DType type, std::span<const std::byte> theirs,
                       std::span<const std::byte> ours, int64_t d) {
    StepsApart result;
    const std::vector<float> a = values_of(type, theirs, d), b = values_of(type, ours, d);
    for (int64_t i = 0; i < int64_t(a.size()); ++i) {
        const std::byte* const row = ours.data() + i / d * row_bytes(type, d);
        const double step = step_at(type, row, i % d, b[size_t(i)]);
        result.take(steps_between(a[size_t(i)], b[size_t(i)], step), i / d, i % d);
    }
    return result;
}

}  // namespace rotkv::tools
