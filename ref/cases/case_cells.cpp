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

// In the first 32 channels, so that a rotation back in blocks leaves the other blocks finite.
void spoil(const std::string& kind, bool is_v, const SpoiltCells& spoilt, int64_t position,
           int64_t head, int64_t kv_heads, std::span<float> x) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    const bool seen =
        is_v ? (head > 0 || kv_heads == 1) && (position == spoilt.early || position == spoilt.late)
             : head == 0 && kv_heads > 1 && position == spoilt.late - 1;
    if (!seen && position != spoilt.newest) return;
    const bool late = position == spoilt.late;
    const size_t j = size_t(7 * head + (late ? 19 : 3)) % std::min<size_t>(x.size(), 32);
    x[j] = kind == "nan" ? std::numeric_limits<float>::quiet_NaN() : late ? -inf : inf;
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
            if (!is_v && kind == "outlier-zero-key") x[0] = 0;
            if (is_spoilt(kind)) {
                spoil(kind, is_v, spoilt, position[cell], head, kv_heads, x);
            }
        }
    }
}

}  // namespace rotkv
