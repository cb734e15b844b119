#include "ref/cases/case_values.h"

#include "ref/error.h"
#include "ref/quant.h"
#include "ref/random.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace rotkv {

// Irwin and Hall's sum of twelve uniform numbers: variance 1, no library function.
static float about_normal(Random& random) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += random.uniform();
    return float(sum);
}

static void spoil_row(const std::string& kind, int64_t r, float* x, int64_t d, Random& random) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    constexpr float tiny[] = {1e-8f, 1e-16f, 1e-30f, 1e-41f}, huge[] = {1e6f, 1e20f, 1e37f};
    constexpr bool negative[4][2] = {{false, false}, {false, true}, {true, true}, {true, false}};
    const int64_t j = random.below(d);
    if (kind == "outlier") x[j] *= 1000;
    if (kind == "inf" && r % 2 == 1) x[j] = r % 4 == 1 ? inf : -inf;
    if (kind == "nan" && r % 2 == 1) x[j] = std::numeric_limits<float>::quiet_NaN();
    for (int64_t i = 0; i < d; ++i) {
        if (kind == "channels" && (i % 32 == 5 || i % 32 == 21)) x[i] *= 12;
        if (kind == "tiny") x[i] *= tiny[r % 4];
        if (kind == "huge") x[i] *= huge[r % 3];
        if (kind == "zeros") x[i] = negative[r % 4][i % 2] ? -0.0f : 0.0f;
    }
}

std::vector<float> case_values(const std::string& kind, int64_t rows, int64_t d, uint64_t seed) {
    require(kind != "ties", ErrorCode::bad_argument, "values=ties: ties of which type?");
    Random random(seed);
    std::vector<float> values(size_t(rows * d));
    for (float& value : values) value = about_normal(random);
    for (int64_t r = 0; r < rows && d > 0; ++r) {
        spoil_row(kind, r, values.data() + r * d, d, random);
    }
    return values;
}

// The value halfway between a code and the next, in a block whose step is 1.
static float tie(DType type, int64_t code) {
    switch (type) {
        case DType::f16:
            return 1 + (float(code) + 0.5f) * 0x1p-10f;
        case DType::bf16:
            return 1 + (float(code) + 0.5f) * 0x1p-7f;
        case DType::iq4_nl:
            return float(k_iq4_levels[code] + k_iq4_levels[code + 1]) / 2;
        default:
            return float(code) + 0.5f;
    }
}

std::vector<float> tie_values(DType type, int64_t rows, int64_t d, uint64_t seed) {
    // The codes with a neighbour above, and what makes the step of a block 1: its ends.
    struct Range {
        int64_t first, count;
        float ends[2];
    };
    const auto range_of = [](DType t) -> Range {
        switch (t) {
            case DType::q8_0:
                return {-127, 254, {127, -127}};
            case DType::q5_0:
                return {-16, 31, {-16, 15}};
            case DType::q4_0:
                return {-8, 15, {-8, 7}};
            case DType::q5_1:
                return {0, 31, {0, 31}};
            case DType::q4_1:
                return {0, 15, {0, 15}};
            case DType::iq4_nl:
                return {0, 15, {-127, 113}};
            default:
                return {0, 60, {1, -1}};
        }
    };
    const Range range = range_of(type);
    Random random(seed);
    std::vector<float> values;
    for (int64_t i = 0; i < rows * d; ++i) {
        const float scale = std::ldexp(1.0f, int(i / d % 5) - 2);  // another power of two each row
        const int64_t place = i % d % k_block;
        const float value = place == 3    ? range.ends[0]
                            : place == 17 ? range.ends[1]
                                          : tie(type, range.first + random.below(range.count));
        values.push_back(scale * value);
    }
    return values;
}

std::vector<int32_t> permutation(int64_t n, uint64_t seed) {
    std::vector<int32_t> order(size_t(n), 0);
    std::iota(order.begin(), order.end(), 0);
    Random random(seed);
    for (int64_t i = n - 1; i > 0; --i) {
        std::swap(order[size_t(i)], order[size_t(random.below(i + 1))]);
    }
    return order;
}

}  // namespace rotkv
