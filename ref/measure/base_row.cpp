#include "ref/measure/base_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace rotkv {

static_assert(std::endian::native == std::endian::little, "base files are little endian");

static constexpr float k_span = 16.0f;  // nats that the codes cover

LogSum log_sum(std::span<const float> logits) {
    const std::size_t n = logits.size();
    LogSum result;
    for (std::size_t i = 1; i < n; ++i) {
        if (logits[i] > logits[std::size_t(result.top)]) result.top = int64_t(i);
    }
    result.max = logits[std::size_t(result.top)];
    double sum = 0;
    for (const float x : logits) sum += double(std::exp(x - result.max));
    result.log_sum = float(std::log(sum));
    return result;
}

LogSum encode_base_row(std::span<const float> logits, std::span<std::byte> row) {
    const LogSum sum = log_sum(logits);
    float min = logits[0];
    for (const float x : logits) min = std::min(min, x);
    min = std::max(min, sum.max - k_span);
    const float scale = (sum.max - min) / 65535.0f, inverse = 1.0f / scale;
    const float min_log_prob = (min - sum.max) - sum.log_sum;
    std::memcpy(row.data(), &scale, 4);
    std::memcpy(row.data() + 4, &min_log_prob, 4);
    std::memset(row.data() + 8, 0, row.size() - 8);
    if (scale == 0) return sum;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        if (!(logits[i] > min)) continue;
        // The bound matters only for a scale so small that its inverse overflows.
        const float code = std::min(std::rint(inverse * (logits[i] - min)), 65535.0f);
        const uint16_t stored = uint16_t(code);
        std::memcpy(row.data() + 8 + 2 * i, &stored, 2);
    }
    return sum;
}

namespace {

// A row as it lies in the file.
struct Codes {
    float scale = 0, min_log_prob = 0;
    const std::byte* first = nullptr;

    explicit Codes(std::span<const std::byte> row) : first(row.data() + 8) {
        std::memcpy(&scale, row.data(), 4);
        std::memcpy(&min_log_prob, row.data() + 4, 4);
    }
    uint16_t code(std::size_t i) const {
        uint16_t code = 0;
        std::memcpy(&code, first + 2 * i, 2);
        return code;
    }
    float log_prob(std::size_t i) const { return scale * float(code(i)) + min_log_prob; }
};

}  // namespace

void decode_base_row(std::span<const std::byte> row, std::span<float> log_prob) {
    const Codes codes(row);
    for (std::size_t i = 0; i < log_prob.size(); ++i) log_prob[i] = codes.log_prob(i);
}

std::string fault_of_base_row(std::span<const std::byte> row, int64_t n_vocab) {
    const Codes codes(row);
    if (std::isnan(codes.scale) || std::isnan(codes.min_log_prob)) return "";
    char words[160];
    if (!std::isfinite(codes.scale) || codes.scale < 0 || !std::isfinite(codes.min_log_prob)) {
        std::snprintf(words, sizeof words,
                      "scale %g, least log-probability %g, expected finite numbers and no scale "
                      "below 0",
                      double(codes.scale), double(codes.min_log_prob));
        return words;
    }
    double above = 0, at_0 = 0;
    for (std::size_t i = 0; i < std::size_t(n_vocab); ++i) {
        (codes.code(i) > 0 ? above : at_0) += std::exp(double(codes.log_prob(i)));
    }
    const bool cut = 65535 * double(codes.scale) > 0.999 * double(k_span);
    const double least = cut ? above : above + at_0, h = double(codes.scale) / 2 + 1e-5;
    if (least * std::exp(-h) <= 1 && (above + at_0) * std::exp(h) >= 1) return "";
    std::snprintf(words, sizeof words,
                  "probabilities with the sum %.6g, expected 1 (up to %.1g, and words cut off)",
                  above + at_0, h);
    return words;
}

TokenPair compare_with_base_row(std::span<const std::byte> row, std::span<const float> logits,
                                int32_t target) {
    const Codes base(row);
    const LogSum sum = log_sum(logits);
    const double log_total = double(sum.max) + double(sum.log_sum);
    std::size_t top = 0;
    float top_log_prob = base.log_prob(0);
    TokenPair pair;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const float log_a = base.log_prob(i);
        if (log_a > top_log_prob) {
            top_log_prob = log_a;
            top = i;
            pair.tied = false;
        } else if (i > top && log_a == top_log_prob) {
            pair.tied = true;
        }
        if (log_a <= -k_span) continue;
        const double log_b = double(logits[i]) - log_total;
        pair.kld += double(std::exp(log_a)) * (double(log_a) - log_b);
    }
    pair.nll_a = -double(base.log_prob(std::size_t(target)));
    pair.nll_b = nll_of(logits, sum, target);
    pair.same_top = int64_t(top) == sum.top;
    return pair;
}

}  // namespace rotkv
