// Judging what another engine stored in a cache: its rotation may differ in the last bits, so that
// a value close to a tie may have fallen to the other side.
#include "ref/cases/agreement.h"
#include "ref/error.h"
#include "ref/half.h"
#include "ref/quant.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

namespace rotkv {

namespace {

using ref::BlockRange, ref::block_range, ref::block_step, ref::fifth_bit, ref::nibble;

constexpr double k_tie = 1e-5;  // of the type's largest code

// A block taken apart.
struct Parts {
    uint16_t scale = 0, minimum = 0;  // f16 bits
    int code[k_block] = {};
};

// The fields that a format has; fifth bits and minima only where they exist.
template <class Block>
Parts take_apart(const Block& block) {
    Parts parts;
    parts.scale = block.d;
    if constexpr (requires { block.m; }) parts.minimum = block.m;
    for (int64_t j = 0; j < k_block; ++j) {
        if constexpr (sizeof block.qs == k_block) {
            parts.code[j] = block.qs[j];
        } else {
            parts.code[j] = nibble(block.qs, j);
        }
        if constexpr (requires { block.qh; }) parts.code[j] |= fifth_bit(block.qh, j) << 4;
    }
    return parts;
}

template <class Block>
Parts take_apart_at(const std::byte* bytes) {
    Block block;
    std::memcpy(&block, bytes, sizeof block);
    return take_apart(block);
}

Parts take_apart(DType type, const std::byte* bytes) {
    switch (type) {
        case DType::q8_0:
            return take_apart_at<BlockQ8_0>(bytes);
        case DType::q5_1:
            return take_apart_at<BlockQ5_1>(bytes);
        case DType::q5_0:
            return take_apart_at<BlockQ5_0>(bytes);
        case DType::q4_1:
            return take_apart_at<BlockQ4_1>(bytes);
        case DType::q4_0:
            return take_apart_at<BlockQ4_0>(bytes);
        default:
            return take_apart_at<BlockIq4Nl>(bytes);
    }
}

// Where the values of a block lie on the scale of its codes, before they are rounded to them.
struct Positions {
    double at[k_block];
    double largest;  // code of the type
};

Positions positions(DType type, const float* x) {
    const BlockRange range = block_range(x);
    const float magnitude = std::fabs(range.peak), width = range.max - range.min;
    float origin = 0, d = 0, zero = 0;  // code = (x - origin) / d + zero
    Positions result{{}, 127};
    switch (type) {
        case DType::q8_0:
            d = magnitude / 127;
            break;
        case DType::q5_0:
            d = range.peak / -16, zero = 16, result.largest = 31;
            break;
        case DType::q4_0:
            d = range.peak / -8, zero = 8, result.largest = 15;
            break;
        case DType::q5_1:
            d = width / 31, origin = range.min, result.largest = 31;
            break;
        case DType::q4_1:
            d = width / 15, origin = range.min, result.largest = 15;
            break;
        default:  // iq4_nl, in units of its levels
            d = range.peak / -127;
    }
    for (int64_t j = 0; j < k_block; ++j) {
        result.at[j] =
            d == 0 ? double(zero) : (double(x[j]) - double(origin)) / double(d) + double(zero);
    }
    return result;
}

// The position between code and code + 1 at which rounding changes from one to the other.
double tie_above(DType type, int code) {
    if (type != DType::iq4_nl) return code + 0.5;
    return (k_iq4_levels[code] + k_iq4_levels[code + 1]) / 2.0;
}

int f16_steps(uint16_t a, uint16_t b) {
    const auto ordered = [](uint16_t h) { return (h & 0x8000) != 0 ? 0x8000 - h : int(h); };
    return std::abs(ordered(a) - ordered(b));
}

// The scale that these codes of iq4_nl ask for: the least squares fit, weighted by x^2.
uint16_t fitted_scale(const Parts& parts, const float* x) {
    double products = 0, squares = 0;
    for (int64_t j = 0; j < k_block; ++j) {
        const double w = double(x[j]) * double(x[j]), q = k_iq4_levels[parts.code[j]];
        products += w * q * double(x[j]);
        squares += w * q * q;
    }
    return squares > 0 ? f32_to_f16(float(products / squares)) : uint16_t(0);
}

struct Counts {
    int64_t codes_off = 0, scales_off = 0, not_judged = 0;
};

void wrong(Verdict& verdict, int64_t index, double expected, double found, double allowed) {
    verdict.ok = false;
    ++verdict.wrong;
    if (verdict.first.size() < 10) verdict.first.push_back({index, expected, found, 0, allowed});
}

void judge_block(DType type, const Parts& ours, const Parts& theirs, const float* x, int64_t first,
                 Verdict& verdict, Counts& counts) {
    const Positions position = positions(type, x);
    bool same_codes = true;
    for (int64_t j = 0; j < k_block; ++j) {
        const int a = ours.code[j], b = theirs.code[j];
        if (a == b) continue;
        same_codes = false;
        const bool neighbours = std::abs(a - b) == 1;
        const double tie = neighbours ? tie_above(type, std::min(a, b)) : 0;
        if (neighbours && std::fabs(position.at[j] - tie) <= k_tie * position.largest) {
            ++counts.codes_off;
        } else {
            wrong(verdict, first + j, a, b, 1);
        }
    }
    const bool refit = type == DType::iq4_nl && !same_codes;
    const uint16_t scale = refit ? fitted_scale(theirs, x) : ours.scale;
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

Verdict judge_blocks(DType type, std::span<const std::byte> expected,
                     std::span<const std::byte> found, std::span<const float> unrounded) {
    const size_t bytes = size_t(type_info(type).block_bytes);
    Verdict verdict;
    Counts counts;
    verdict.elements = int64_t(unrounded.size());
    for (int64_t first = 0; first < verdict.elements; first += k_block) {
        const size_t offset = size_t(first / k_block) * bytes;
        if (std::memcmp(expected.data() + offset, found.data() + offset, bytes) == 0) continue;
        const Parts ours = take_apart(type, expected.data() + offset);
        if (!ref::finite_f16(ours.scale)) {  // ggml leaves these bytes undefined
            ++counts.not_judged;
            continue;
        }
        judge_block(type, ours, take_apart(type, found.data() + offset), unrounded.data() + first,
                    first, verdict, counts);
    }
    const auto say = [&](int64_t n, const char* what) {
        if (n == 0) return;
        verdict.words += (verdict.words.empty() ? "" : ", ") + std::to_string(n) + what;
    };
    say(counts.codes_off, " codes one step off at a tie");
    say(counts.scales_off, " scales one f16 off");
    say(counts.not_judged, " blocks that are not finite not judged");
    return verdict;
}

// What type a plain number rounds to, as f32.
float rounded(DType type, float x) {
    if (type == DType::f16) return f16_to_f32(f32_to_f16(x));
    if (type == DType::bf16) return bf16_to_f32(f32_to_bf16(x));
    return x;
}

}  // namespace

Verdict compare_steps(DType type, std::span<const std::byte> expected,
                      std::span<const std::byte> found, std::span<const float> unrounded,
                      std::span<const float> error) {
    const int64_t n = int64_t(unrounded.size());
    require(expected.size() == found.size() && int64_t(expected.size()) == row_bytes(type, n) &&
                error.size() == unrounded.size(),
            ErrorCode::bad_argument, "compare: expected bytes for each of the values");
    if (is_block_type(type)) return judge_blocks(type, expected, found, unrounded);
    std::vector<float> values(unrounded.size());
    ref::dequantize_row(type, values.data(), found.data(), n);
    Verdict verdict;
    verdict.elements = n;
    for (size_t i = 0; i < unrounded.size(); ++i) {
        const float x = unrounded[i], e = error[i];
        const float low = rounded(type, x - e), high = rounded(type, x + e);
        if (values[i] >= low && values[i] <= high) continue;
        if (std::isnan(x) && std::isnan(values[i])) continue;
        if (!std::isfinite(x) && values[i] == x) continue;
        wrong(verdict, int64_t(i), double(rounded(type, x)), double(values[i]), double(e));
    }
    return verdict;
}

}  // namespace rotkv
