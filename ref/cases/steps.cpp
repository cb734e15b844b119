// Judging what another engine stored in a cache: its rotation may differ in the last bits, so that
// a value close to a tie may have fallen to the other side.
#include "ref/cases/agreement.h"
#include "ref/error.h"
#include "ref/half.h"
#include "ref/quant.h"
#include "ref/quant_parts.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace rotkv {

namespace {

using ref::BlockRange, ref::block_range;

constexpr double k_tie = 1e-5;  // of the type's largest code

// Where the values of a block lie on the scale of its codes (or of its levels, where those are
// uneven) before they are rounded to them.
struct Positions {
    double at[k_block];
    double largest;  // code of the type, or level
    bool defined;    // by ggml: whoever divides by so small a step turns infinities into codes
};

Positions positions(const CodeInfo& codes, const float* x) {
    const BlockRange range = block_range(x);
    const float steps = float(codes.steps);
    const float origin = codes.minimum ? range.min : 0.0f;
    const float d = codes.minimum ? (range.max - range.min) / steps
                    : codes.cut   ? range.peak / -steps
                                  : std::fabs(range.peak) / steps;
    const bool even = codes.levels == nullptr;
    const double zero = even ? codes.zero() : 0;
    const bool tiny = codes.fitted && std::fabs(range.peak) < k_iq4_nl_tiny;
    const bool defined = d == 0 || (std::isfinite(1.0f / d) && !tiny);
    Positions result{{}, double(even ? codes.last : codes.steps), defined};
    for (int64_t j = 0; j < k_block; ++j) {
        result.at[j] = d == 0 ? zero : (double(x[j]) - double(origin)) / double(d) + zero;
    }
    return result;
}

// The position between code and code + 1 at which rounding changes from one to the other.
double tie_above(const CodeInfo& codes, int code) {
    if (codes.levels == nullptr) return code + 0.5;
    return (codes.levels[code] + codes.levels[code + 1]) / 2.0;
}

int f16_steps(uint16_t a, uint16_t b) {
    const auto ordered = [](uint16_t h) { return (h & 0x8000) != 0 ? 0x8000 - h : int(h); };
    return std::abs(ordered(a) - ordered(b));
}

// The scale that these codes ask for: the least squares fit to their levels, weighted by x^2.
double fit(const int8_t* levels, const BlockParts& parts, const float* x) {
    double products = 0, squares = 0;
    for (int64_t j = 0; j < k_block; ++j) {
        const double w = double(x[j]) * double(x[j]), q = levels[parts.code[j]];
        products += w * q * double(x[j]);
        squares += w * q * q;
    }
    return squares > 0 ? products / squares : 0;
}

struct Counts {
    int64_t codes_off = 0, scales_off = 0, not_judged = 0;

    std::string words() const {
        std::string text;
        const auto say = [&](int64_t n, const char* what) {
            if (n > 0) text += (text.empty() ? "" : ", ") + std::to_string(n) + what;
        };
        say(codes_off, " codes one step off at a tie");
        say(scales_off, " scales one f16 off");
        say(not_judged, " blocks that ggml leaves undefined not judged");
        return text;
    }
};

// One row of both engines, and what they had to store.
struct Row {
    const std::byte *expected, *found;
    std::span<const float> unrounded, error;
    int64_t first;  // its first element's number in the tensor
};

void wrong(Verdict& verdict, int64_t index, double expected, double found, double allowed) {
    verdict.ok = false;
    ++verdict.wrong;
    if (verdict.first.size() < 10) verdict.first.push_back({index, expected, found, 0, allowed});
}

void judge_block(const CodeInfo& codes, const BlockParts& ours, const BlockParts& theirs,
                 const float* x, int64_t first, Verdict& verdict, Counts& counts) {
    const Positions position = positions(codes, x);
    bool same_codes = true;
    counts.not_judged += !position.defined;
    for (int64_t j = 0; j < k_block && position.defined; ++j) {
        const int a = ours.code[j], b = theirs.code[j];
        if (a == b) continue;
        same_codes = false;
        const bool neighbours = std::abs(a - b) == 1;
        const double tie = neighbours ? tie_above(codes, std::min(a, b)) : 0;
        if (neighbours && std::fabs(position.at[j] - tie) <= k_tie * position.largest) {
            ++counts.codes_off;
        } else {
            wrong(verdict, first + j, a, b, 1);
        }
    }
    const bool refit = codes.fitted && !same_codes;
    const uint16_t scale = refit ? f32_to_f16(float(fit(codes.levels, theirs, x))) : ours.scale;
    const auto compare = [&](uint16_t expected, uint16_t found) {
        const int steps = f16_steps(expected, found);
        counts.scales_off += steps == 1;
        if (steps <= 1) return;
        const float value = f16_to_f32(expected);
        const uint16_t next = uint16_t(expected + 1);
        wrong(verdict, first, double(value), double(f16_to_f32(found)),
              std::fabs(double(f16_to_f32(next)) - double(value)));
    };
    compare(scale, theirs.scale);
    compare(ours.minimum, theirs.minimum);
}

void judge_blocks(DType type, const Row& row, Verdict& verdict, Counts& counts) {
    const TypeInfo& info = type_info(type);
    for (int64_t i = 0; i < int64_t(row.unrounded.size()); i += k_block) {
        const int64_t offset = block_offset(type, i);
        const std::byte *expected = row.expected + offset, *found = row.found + offset;
        if (std::memcmp(expected, found, size_t(info.block_bytes)) == 0) continue;
        const BlockParts ours = block_parts(type, expected);
        if (!ref::finite_f16(ours.scale)) {  // ggml leaves these bytes undefined
            ++counts.not_judged;
            continue;
        }
        judge_block(info.codes, ours, block_parts(type, found), row.unrounded.data() + i,
                    row.first + i, verdict, counts);
    }
}

// What a plain type rounds a number to.
float rounded(DType type, float x) {
    alignas(float) std::byte stored[sizeof x];
    ref::quantize_row(type, stored, &x, 1);
    ref::dequantize_row(type, &x, stored, 1);
    return x;
}

void judge_numbers(DType type, const Row& row, Verdict& verdict) {
    std::vector<float> values(row.unrounded.size());
    ref::dequantize_row(type, values.data(), row.found, int64_t(values.size()));
    for (size_t i = 0; i < values.size(); ++i) {
        const float x = row.unrounded[i], e = row.error[i];
        const float low = rounded(type, x - e), high = rounded(type, x + e);
        if (values[i] >= low && values[i] <= high) continue;
        if (std::isnan(x) && std::isnan(values[i])) continue;
        if (std::isinf(e) && std::isfinite(x)) continue;  // not asked
        if (!std::isfinite(x) && values[i] == x) continue;
        wrong(verdict, row.first + int64_t(i), double(rounded(type, x)), double(values[i]),
              double(e));
    }
}

}  // namespace

Verdict compare_steps(DType type, int64_t d, std::span<const std::byte> expected,
                      std::span<const std::byte> found, std::span<const float> unrounded,
                      std::span<const float> error) {
    const size_t n = size_t(d), bytes = size_t(row_bytes(type, d));
    const size_t rows = n > 0 ? unrounded.size() / n : 0;
    require(unrounded.size() == rows * n && error.size() == rows * n &&
                expected.size() == rows * bytes && found.size() == rows * bytes,
            ErrorCode::bad_argument, "compare: expected bytes for each of the values");
    Verdict verdict;
    Counts counts;
    verdict.elements = int64_t(unrounded.size());
    for (size_t r = 0; r < rows; ++r) {
        const Row row{expected.data() + r * bytes, found.data() + r * bytes,
                      unrounded.subspan(r * n, n), error.subspan(r * n, n), int64_t(r * n)};
        if (is_block_type(type)) {
            judge_blocks(type, row, verdict, counts);
        } else {
            judge_numbers(type, row, verdict);
        }
    }
    verdict.words = counts.words();
    return verdict;
}

namespace {

// How far apart x and a number within e of it may be once both are rounded to f16.
double apart_in_f16(double x, double e) {
    const auto rounded = [](double y) { return double(f16_to_f32(f32_to_f16(float(y)))); };
    return std::max(rounded(x + e) - rounded(x), rounded(x) - rounded(x - e));
}

// May the other end of the block be its peak for somebody whose values are `e` off?
bool other_peak(const float* x, double e) {
    double low = 0, high = 0;
    for (int64_t j = 0; j < k_block; ++j) {
        low = std::max(low, -double(x[j])), high = std::max(high, double(x[j]));
    }
    return std::fabs(low - high) <= 2 * e + k_tie * std::max(low, high);
}

double level_step(const CodeInfo& codes, int below) {
    return codes.levels == nullptr ? 1 : codes.levels[below + 1] - codes.levels[below];
}

// Between which codes a value that lies `near` a tie may fall, as the distance of their levels.
double step_at_tie(const CodeInfo& codes, double at, int code, double near) {
    double step = 0;
    for (const int below : {code - 1, code}) {
        if (below < codes.first || below >= codes.last) continue;
        if (std::fabs(at - tie_above(codes, below)) <= near) step += level_step(codes, below);
    }
    return step;
}

void reach_of_block(const CodeInfo& codes, const BlockParts& ours, const float* x,
                    const float* error, float* reach) {
    const Positions position = positions(codes, x);
    const BlockRange range = block_range(x);
    const double d = std::fabs(double(f16_to_f32(ours.scale)));
    if (!position.defined || !ref::finite_f16(ours.scale)) {
        return void(std::fill_n(reach, k_block, INFINITY));
    }
    const double e = *std::max_element(error, error + k_block);
    const double near = k_tie * position.largest + (d > 0 ? 3 * e / d : INFINITY);
    const double across =
        codes.minimum ? double(range.max) - double(range.min) : std::fabs(double(range.peak));
    // Before it is rounded to f16. That of a fit changes by e sum |x|^3 / sum x^4 of itself, at
    // most 32^(1/4) e / peak, to the first order.
    const double scale = codes.fitted ? fit(codes.levels, ours, x) : across / codes.steps;
    const double times = codes.fitted ? 4 : codes.minimum ? 2 : 1;
    double off = times * e / codes.steps + std::fabs(scale) * 0x1p-22;
    double step[k_block];
    for (int64_t j = 0; j < k_block; ++j) {
        step[j] = step_at_tie(codes, position.at[j], ours.code[j], near);
        // The fit's scale changes by w (q' - q) (x - d (q' + q)) / sum w q^2, w = x^2, at a tie
        // d (q' - q) |q|^3 / sum q^4, and the peak's level alone makes that sum steps^4.
        if (codes.fitted) off += 2 * step[j] * d / codes.steps;
    }
    const double moved = apart_in_f16(scale, off);
    const double origin = codes.minimum ? apart_in_f16(double(range.min), e) : 0;
    // Levels of a fit are uneven and its scale follows them: nothing is promised there.
    const double off_peak = codes.fitted ? INFINITY : 2 * d;
    const double turned = codes.cut && other_peak(x, e) ? off_peak : 0;
    for (int64_t j = 0; j < k_block; ++j) {
        const int code = ours.code[j];
        const double level = codes.levels == nullptr ? code - codes.zero() : codes.levels[code];
        reach[j] = float((std::fabs(level) + step[j]) * moved + origin + step[j] * d + turned);
    }
}

}  // namespace

std::vector<float> reach_of_steps(DType type, int64_t d, std::span<const std::byte> ours,
                                  std::span<const float> unrounded, std::span<const float> error) {
    std::vector<float> reach(unrounded.size());
    const size_t bytes = size_t(row_bytes(type, d));
    for (size_t first = 0; first < reach.size(); first += size_t(d)) {
        const std::byte* const row = ours.data() + first / size_t(d) * bytes;
        std::vector<float> values(static_cast<size_t>(d));
        ref::dequantize_row(type, values.data(), row, d);
        for (size_t j = 0; j < size_t(d); j += is_block_type(type) ? k_block : 1) {
            const float *const x = &unrounded[first + j], *const e = &error[first + j];
            if (is_block_type(type)) {
                reach_of_block(type_info(type).codes,
                               block_parts(type, row + block_offset(type, int64_t(j))), x, e,
                               &reach[first + j]);
                continue;
            }
            reach[first + j] = std::max(std::fabs(rounded(type, *x - *e) - values[j]),
                                        std::fabs(rounded(type, *x + *e) - values[j]));
        }
    }
    return reach;
}

}  // namespace rotkv
