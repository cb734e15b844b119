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
    constexpr float louder[] = {1e1f, 1e2f, 1e3f, 1e4f, 1e5f, 1e6f};
    constexpr bool negative[4][2] = {{false, false}, {false, true}, {true, true}, {true, false}};
    const int64_t j = random.below(d);
    if (kind == "outlier") x[j] *= 1000;
    if (kind == "inf" && r % 2 == 1) x[j] = r % 4 == 1 ? inf : -inf;
    if (kind == "nan" && r % 2 == 1) x[j] = std::numeric_limits<float>::quiet_NaN();
    const bool channels = kind == "channels", outliers = kind == "outliers",
               is_tiny = kind == "tiny", is_huge = kind == "huge", zeros = kind == "zeros";
    for (int64_t i = 0; i < d; ++i) {
        if (channels && (i % 32 == 5 || i % 32 == 21)) x[i] *= 12;
        if (outliers && i % 32 == outlier_place(i / 32)) x[i] *= louder[i / 32 % 6];
        if (is_tiny) x[i] *= tiny[r % 4];
        if (is_huge) x[i] *= huge[r % 3];
        if (zeros) x[i] = negative[r % 4][i % 2] ? -0.0f : 0.0f;
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

namespace {

// Values halfway between two neighbours that a type stores, and the two ends of a block that make
// its scale 1.
struct Ties {
    std::vector<float> values;
    float ends[2];
};

// Of plain numbers: behind sixty of them from `first` on, which lie `apart`.
Ties plain_ties(float first, float apart) {
    Ties ties{{}, {1, -1}};
    for (int n = 0; n < 60; ++n) ties.values.push_back(first + (float(n) + 0.5f) * apart);
    return ties;
}

Ties code_ties(const CodeInfo& codes) {
    const auto level = [&](int32_t code) {
        return float(codes.levels == nullptr ? code - codes.zero() : codes.levels[code]);
    };
    const float lowest = level(codes.first), highest = level(codes.last);
    // The peak comes first: where one side is cut, the lowest level is its.
    const bool peak_is_low = codes.minimum || codes.cut;
    Ties ties{{}, {peak_is_low ? lowest : highest, peak_is_low ? highest : lowest}};
    for (int32_t code = codes.first; code < codes.last; ++code) {
        ties.values.push_back((level(code) + level(code + 1)) / 2);
    }
    return ties;
}

Ties ties_of(DType type) {
    switch (type) {
        case DType::f16:
            return plain_ties(1, 0x1p-10f);
        case DType::bf16:
            return plain_ties(1, 0x1p-7f);
        case DType::f32:
            return plain_ties(0, 1);  // no ties: stored as they are
        case DType::q8_0:
        case DType::q5_1:
        case DType::q5_0:
        case DType::q4_1:
        case DType::q4_0:
        case DType::iq4_nl:
            return code_ties(type_info(type).codes);
        case DType::q2_k:
        case DType::q3_k:
        case DType::q4_k:
        case DType::q5_k:
        case DType::q6_k:
        case DType::iq4_xs:
        case DType::mxfp4:
        case DType::i32:
        case DType::f64:
            break;
    }
    throw Error(ErrorCode::unsupported,
                std::string("values=ties: no cache uses ") + type_info(type).name);
}

}  // namespace

std::vector<float> tie_values(DType type, int64_t rows, int64_t d, uint64_t seed) {
    const Ties ties = ties_of(type);
    const int64_t count = int64_t(ties.values.size());
    Random random(seed);
    std::vector<float> values;
    for (int64_t i = 0; i < rows * d; ++i) {
        const float scale = std::ldexp(1.0f, int(i / d % 5) - 2);  // another power of two each row
        const int64_t place = i % d % k_block;
        const float value = place == 3    ? ties.ends[0]
                            : place == 17 ? ties.ends[1]
                                          : ties.values[size_t(random.below(count))];
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
