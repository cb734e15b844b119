#include "ref/cases/case_cells.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rotkv {
namespace {

float largest_value(DType type) {
    if (type == DType::f32 || type == DType::bf16) return 1e6f;
    return type == DType::f16 || type_info(type).codes.minimum ? 6e4f : 2e5f;
}

// Every output sums rows of both sizes, so that neither hides behind the other.
void set_size(const std::string& kind, DType type, int64_t row, std::span<float> x) {
    if (kind == "tiny") {
        for (float& value : x) value *= row % 2 == 0 ? 1e-4f : 1e-5f;
    }
    if (kind == "faint") {
        for (float& value : x) value *= 3e-7f;
    }
    if (kind == "steep") {
        for (float& value : x) value *= std::pow(10.0f, float(row % 9 - 5));
    }
    if (kind == "positive") {
        for (float& value : x) value = std::fabs(value);
    }
    if (kind != "huge") return;
    float peak = 0;
    for (const float value : x) peak = std::max(peak, std::fabs(value));
    const float size = row % 2 == 0 ? largest_value(type) : largest_value(type) / 6;
    for (float& value : x) value *= size / peak;
}

void keep_one(std::span<float> x, size_t channel) {
    for (size_t j = 0; j < x.size(); ++j) {
        if (j != channel) x[j] = 0;
    }
}

// In one channel, in the same half of a head's in all cells: a rotation back in blocks of half a
// head leaves the other half finite.
void spoil(const std::string& kind, bool is_v, const SpoiltCells& spoilt, int64_t position,
           int64_t head, int64_t kv_heads, std::span<float> x) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    const bool seen =
        is_v ? (head > 0 || kv_heads == 1) && (position == spoilt.early || position == spoilt.late)
             : head == 0 && kv_heads > 1 && position == spoilt.late - 1;
    if (!seen && position != spoilt.newest) return;
    const bool late = position == spoilt.late;
    const size_t half = std::max<size_t>(1, x.size() / 2);
    const size_t j =
        size_t(head) % 2 * (x.size() - half) + size_t(29 * position + 7 * head + 3) % half;
    x[j] = kind == "nan" ? std::numeric_limits<float>::quiet_NaN() : late ? -inf : inf;
}

constexpr int32_t k_first_cells = 8;  // whose scores are -inf

size_t channel_of(int64_t head, size_t d) { return size_t(7 * head + 3) % d; }

void change_key(const std::string& kind, DType type, const SpoiltCells& spoilt, int32_t position,
                int64_t head, std::span<float> x) {
    float& one = x[channel_of(head, x.size())];
    if (kind == "far-keys" && position == spoilt.early) {
        const bool is_block = is_block_type(type);
        one = is_block ? 2e5f : type == DType::f16 ? 6e4f : 1e6f;
    }
    if (kind == "far-queries") {
        for (float& value : x) value *= 1e-4f;
    }
    if (kind == "outlier-zero-key") one = 0;
    if (kind == "minus-inf" && position < k_first_cells) {
        one = -std::numeric_limits<float>::infinity();
    }
}

}  // namespace

bool is_spoilt(const std::string& kind) { return kind == "nan" || kind == "inf"; }

void change_cells(const std::string& kind, DType type, bool is_v, const SpoiltCells& spoilt,
                  std::span<const int32_t> position, int64_t kv_heads, std::span<float> rows) {
    if (kind == "channels" || rows.empty()) return;
    const size_t d = rows.size() / (position.size() * size_t(kv_heads));
    for (size_t cell = 0; cell < position.size(); ++cell) {
        for (int64_t head = 0; head < kv_heads; ++head) {
            const size_t row = cell * size_t(kv_heads) + size_t(head);
            const std::span<float> x = rows.subspan(row * d, d);
            if (is_v) set_size(kind, type, int64_t(cell) + head, x);
            if (is_v && kind == "diagonal") keep_one(x, cell % d);
            if (!is_v) change_key(kind, type, spoilt, position[cell], head, x);
            if (is_spoilt(kind)) {
                spoil(kind, is_v, spoilt, position[cell], head, kv_heads, x);
            }
        }
    }
}

void change_queries(const std::string& kind, int64_t heads, int64_t group, int64_t d,
                    std::span<float> rows) {
    for (int64_t row = 0; row * d < int64_t(rows.size()); ++row) {
        float& one = rows[size_t(row * d) + channel_of(row % heads / group, size_t(d))];
        if (kind == "far-queries") one = row % 2 == 0 ? 1e6f : -1e6f;
        if (kind == "minus-inf") one = std::fabs(one) + 0.1f;
        if (kind == "outlier-zero-key") one *= 1e8f;
    }
}

std::string kind_refusal(const std::string& kind, DType k_type, bool is_rotated) {
    if (kind != "minus-inf") return "";
    if (is_rotated) return "rot-k=0 where single channels matter";
    return is_block_type(k_type) ? "k of a type that holds an infinity" : "";
}

}  // namespace rotkv
