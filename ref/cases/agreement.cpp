// Comparing results: exactly, within rounding, by mean squared error. Codes of other engines are
// judged in steps.cpp.
#include "ref/cases/agreement.h"

#include "ref/error.h"
#include "ref/quant.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace rotkv {

const char* agreement_name(Agreement agreement) {
    switch (agreement) {
        case Agreement::exact:
            return "exact";
        case Agreement::rounding:
            return "rounding";
        case Agreement::nmse:
            return "nmse";
        case Agreement::steps:
            return "steps";
    }
    return "?";
}

namespace {

constexpr size_t k_shown = 10;
constexpr int64_t k_far = std::numeric_limits<int64_t>::max();

// Floats in the order of their values, as integers: neighbours differ by one.
template <class Bits, class Float>
int64_t ordered(Float x) {
    const Bits bits = std::bit_cast<Bits>(x), sign = Bits(1) << (8 * sizeof(Bits) - 1);
    return (bits & sign) != 0 ? -int64_t(bits ^ sign) : int64_t(bits);
}

template <class Bits, class Float>
int64_t distance(Float a, Float b) {
    if (std::isnan(a) || std::isnan(b)) return k_far;
    const int64_t i = ordered<Bits>(a), j = ordered<Bits>(b);
    const uint64_t apart = uint64_t(std::max(i, j)) - uint64_t(std::min(i, j));
    return apart > uint64_t(k_far) ? k_far : int64_t(apart);
}

void add_wrong(Verdict& verdict, const Difference& difference) {
    verdict.ok = false;
    ++verdict.wrong;
    if (verdict.first.size() < k_shown) verdict.first.push_back(difference);
}

// Lengths that differ are a mistake of the caller, not a verdict.
void same_length(std::span<const std::byte> expected, std::span<const std::byte> found) {
    if (expected.size() == found.size()) return;
    throw Error(ErrorCode::bad_argument, "compare: expected " + std::to_string(expected.size()) +
                                             " bytes, found " + std::to_string(found.size()));
}

template <class T>
T element(std::span<const std::byte> bytes, size_t i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    return value;
}

// Numbers that are computed (f32, f64, i32): bit by bit, but for NaN.
template <class T>
Verdict compare_numbers(std::span<const std::byte> expected, std::span<const std::byte> found) {
    Verdict verdict;
    verdict.elements = int64_t(expected.size() / sizeof(T));
    for (size_t i = 0; i < size_t(verdict.elements); ++i) {
        const T a = element<T>(expected, i), b = element<T>(found, i);
        if (std::memcmp(&a, &b, sizeof(T)) == 0) continue;
        int64_t ulps = 0;
        if constexpr (std::is_floating_point_v<T>) {
            if (std::isnan(a) && std::isnan(b)) continue;
            ulps = ulps_between(a, b);
        } else {
            ulps = std::abs(int64_t(a) - int64_t(b));
        }
        add_wrong(verdict, {int64_t(i), double(a), double(b), ulps, 0});
    }
    return verdict;
}

// Stored bytes: block by block. An element whose value is unchanged is shown only when the whole
// block means the same in other bytes (-0 and 0, NaNs).
Verdict compare_blocks(DType type, std::span<const std::byte> expected,
                       std::span<const std::byte> found) {
    const TypeInfo& info = type_info(type);
    const size_t bytes = size_t(info.block_bytes), elements = size_t(info.block_elements);
    std::vector<float> a(elements), b(elements);
    Verdict verdict;
    verdict.elements = int64_t(expected.size() / bytes * elements);
    for (size_t block = 0; block < expected.size() / bytes; ++block) {
        const std::byte* left = expected.data() + block * bytes;
        const std::byte* right = found.data() + block * bytes;
        if (std::memcmp(left, right, bytes) == 0) continue;
        ref::dequantize_row(type, a.data(), left, info.block_elements);
        ref::dequantize_row(type, b.data(), right, info.block_elements);
        const int64_t before = verdict.wrong;
        for (size_t j = 0; j < elements; ++j) {
            if (a[j] == b[j] || (std::isnan(a[j]) && std::isnan(b[j]))) continue;
            add_wrong(verdict, {int64_t(block * elements + j), double(a[j]), double(b[j]),
                                ulps_between(a[j], b[j]), 0});
        }
        if (verdict.wrong == before) {
            add_wrong(verdict, {int64_t(block * elements), double(a[0]), double(b[0]), 0, 0});
            verdict.words = "some blocks mean the same values in other bytes";
        }
    }
    return verdict;
}

}  // namespace

int64_t ulps_between(float a, float b) { return distance<uint32_t>(a, b); }
int64_t ulps_between(double a, double b) { return distance<uint64_t>(a, b); }

Verdict compare_exact(DType type, std::span<const std::byte> expected,
                      std::span<const std::byte> found) {
    same_length(expected, found);
    if (type == DType::f32) return compare_numbers<float>(expected, found);
    if (type == DType::f64) return compare_numbers<double>(expected, found);
    if (type == DType::i32) return compare_numbers<int32_t>(expected, found);
    return compare_blocks(type, expected, found);
}

template <class T>
static bool agree(T a, T b, NotFinite not_finite) {
    if (a == b || (std::isnan(a) && std::isnan(b))) return true;
    return not_finite == NotFinite::any && !std::isfinite(a) && !std::isfinite(b);
}

template <class T>
static Verdict within(std::span<const std::byte> expected, std::span<const std::byte> found,
                      std::span<const double> bound, NotFinite not_finite) {
    Verdict verdict;
    verdict.elements = int64_t(bound.size());
    for (size_t i = 0; i < bound.size(); ++i) {
        const T a = element<T>(expected, i), b = element<T>(found, i);
        if (agree(a, b, not_finite)) continue;
        const double apart = std::fabs(double(a) - double(b));
        if (std::isinf(bound[i]) && std::isfinite(a)) continue;  // not asked
        if (bound[i] > 0) verdict.worst = std::max(verdict.worst, apart / bound[i]);
        if (apart <= bound[i] && std::isfinite(apart)) continue;
        add_wrong(verdict, {int64_t(i), double(a), double(b), ulps_between(a, b), bound[i]});
    }
    return verdict;
}

Verdict compare_rounding(DType type, std::span<const std::byte> expected,
                         std::span<const std::byte> found, std::span<const double> bound,
                         NotFinite not_finite) {
    same_length(expected, found);
    const bool f64 = type == DType::f64;
    require(expected.size() == bound.size() * (f64 ? sizeof(double) : sizeof(float)),
            ErrorCode::bad_argument, "compare: expected one bound per element");
    return f64 ? within<double>(expected, found, bound, not_finite)
               : within<float>(expected, found, bound, not_finite);
}

Verdict compare_nmse(std::span<const std::byte> expected, std::span<const std::byte> found,
                     double bound, NotFinite not_finite) {
    same_length(expected, found);
    Verdict verdict;
    verdict.elements = int64_t(expected.size() / sizeof(float));
    double error = 0, energy = 0;
    for (size_t i = 0; i < size_t(verdict.elements); ++i) {
        const double a = double(element<float>(expected, i)), b = double(element<float>(found, i));
        if (!std::isfinite(a) && agree(a, b, not_finite)) continue;
        error += (a - b) * (a - b);
        energy += a * a;
    }
    if (error == 0) return verdict;
    const double nmse = error / energy;
    verdict.worst = nmse / bound;
    char text[80];
    std::snprintf(text, sizeof text, "nmse %.3g, allowed %.3g", nmse, bound);
    verdict.words = text;
    if (nmse <= bound) return verdict;
    for (size_t i = 0; i < size_t(verdict.elements); ++i) {
        const float a = element<float>(expected, i), b = element<float>(found, i);
        if (agree(a, b, not_finite)) continue;
        add_wrong(verdict, {int64_t(i), double(a), double(b), ulps_between(a, b), 0});
    }
    verdict.ok = false;
    return verdict;
}

std::string Verdict::summary() const {
    if (ok) return words;
    std::string text = std::to_string(wrong) + " of " + std::to_string(elements) + " elements";
    if (!likeness.empty()) text += ", " + likeness;
    return words.empty() ? text : text + " (" + words + ")";
}

// "[1][0][63]": element `index` of a packed tensor.
static std::string place_of(int64_t index, std::span<const int64_t> extents) {
    std::string text;
    for (size_t axis = extents.size(); axis-- > 0;) {
        text = "[" + std::to_string(index % extents[axis]) + "]" + text;
        index /= extents[axis];
    }
    return text;
}

std::string Verdict::report(std::span<const int64_t> extents) const {
    if (ok) return words;
    const bool places = extents.size() > 1;
    const int width = places ? 18 : 0;
    char line[200];
    std::snprintf(line, sizeof line, "\n%11s %*s%16s %16s %11s %11s\n", "index", -width,
                  places ? "at" : "", "expected", "found", "ulps", "allowed");
    std::string text = summary() + line;
    for (const Difference& d : first) {
        const std::string place = places ? place_of(d.index, extents) : "";
        char ulps[32] = "NaN";
        if (d.ulps != k_far) std::snprintf(ulps, sizeof ulps, "%lld", (long long)(d.ulps));
        std::snprintf(line, sizeof line, "%11lld %*s%16.9g %16.9g %11s %11.3g\n",
                      (long long)(d.index), -width, place.c_str(), d.expected, d.found, ulps,
                      d.allowed);
        text += line;
    }
    return text;
}

std::vector<double> numbers_of(DType type, std::span<const std::byte> bytes) {
    std::vector<double> all;
    if (type == DType::i32) return all;
    if (type == DType::f64) {
        for (size_t i = 0; i < bytes.size() / sizeof(double); ++i) {
            all.push_back(element<double>(bytes, i));
        }
        return all;
    }
    const TypeInfo& info = type_info(type);
    std::vector<float> values(bytes.size() / size_t(info.block_bytes) *
                              size_t(info.block_elements));
    ref::dequantize_row(type, values.data(), bytes.data(), int64_t(values.size()));
    return {values.begin(), values.end()};
}

std::string likeness(DType type, std::span<const std::byte> expected,
                     std::span<const std::byte> found) {
    same_length(expected, found);
    const std::vector<double> a = numbers_of(type, expected), b = numbers_of(type, found);
    double aa = 0, bb = 0, ab = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        if (!std::isfinite(a[i]) || !std::isfinite(b[i])) continue;
        aa += a[i] * a[i];
        bb += b[i] * b[i];
        ab += a[i] * b[i];
    }
    if (aa == 0) return "";
    if (bb == 0) return "all found are 0";
    char text[80];
    std::snprintf(text, sizeof text, "cos %.4g, norm x %.4g", ab / std::sqrt(aa) / std::sqrt(bb),
                  std::sqrt(bb / aa));
    return text;
}

}  // namespace rotkv
