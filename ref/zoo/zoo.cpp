#include "ref/zoo/zoo.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

namespace rotkv::zoo {

std::string BlockFormat::refusal(int64_t d) const {
    const int64_t block = block_of(d);
    if (d % block == 0) return {};
    return "needs a head size that is a multiple of " + std::to_string(block) + ", found " +
           std::to_string(d);
}

int64_t BlockFormat::row_bytes(int64_t d) const {
    return d / block_of(d) * block_bytes(block_of(d));
}

void BlockFormat::encode(std::span<std::byte> codes, std::span<const float> row,
                         const RowContext& context) const {
    const size_t n = size_t(block_of(int64_t(row.size())));
    const int64_t bytes = block_bytes(int64_t(n));
    std::ranges::fill(codes, std::byte{0});
    for (size_t b = 0; b < row.size() / n; ++b) {
        encode_block(codes.data() + int64_t(b) * bytes, row.subspan(b * n, n), context);
    }
}

void BlockFormat::decode(std::span<float> row, std::span<const std::byte> codes,
                         const RowContext& context) const {
    const size_t n = size_t(block_of(int64_t(row.size())));
    const int64_t bytes = block_bytes(int64_t(n));
    for (size_t b = 0; b < row.size() / n; ++b) {
        decode_block(row.subspan(b * n, n), codes.data() + int64_t(b) * bytes, context);
    }
}

void put_code(std::byte* bytes, int64_t i, int bits, uint32_t code) {
    for (int b = 0; b < bits; ++b) {
        const int64_t at = i * bits + b;
        bytes[at / 8] |= std::byte(uint8_t((code >> b & 1) << (at % 8)));
    }
}

uint32_t code_at(const std::byte* bytes, int64_t i, int bits) {
    uint32_t code = 0;
    for (int b = 0; b < bits; ++b) {
        const int64_t at = i * bits + b;
        code |= (std::to_integer<uint32_t>(bytes[at / 8]) >> (at % 8) & 1) << b;
    }
    return code;
}

bool all_finite(std::span<const float> x) {
    return std::ranges::all_of(x, [](float value) { return std::isfinite(value); });
}

void fill_with_nan(std::span<float> y) {
    std::ranges::fill(y, std::numeric_limits<float>::quiet_NaN());
}

double dot(std::span<const float> a, std::span<const float> b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += double(a[i]) * double(b[i]);
    return sum;
}

Parameters::Parameters(const std::string& text) {
    for (size_t begin = 0; !text.empty() && begin <= text.size();) {
        const size_t end = std::min(text.find('-', begin), text.size());
        left_.push_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
}

int64_t Parameters::number(int64_t least, int64_t most, int64_t otherwise) {
    for (auto part = left_.begin(); part != left_.end(); ++part) {
        int64_t value = 0;
        const char* const end = part->data() + part->size();
        const auto [stop, error] = std::from_chars(part->data(), end, value);
        if (error != std::errc() || stop != end || value < least || value > most) continue;
        left_.erase(part);
        return value;
    }
    return otherwise;
}

size_t Parameters::word(const std::vector<std::string>& words, size_t otherwise) {
    for (size_t i = 0; i < words.size(); ++i) {
        const auto part = std::ranges::find(left_, words[i]);
        if (part == left_.end()) continue;
        left_.erase(part);
        return i;
    }
    return otherwise;
}

}  // namespace rotkv::zoo
