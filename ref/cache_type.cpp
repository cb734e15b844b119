#include "ref/cache_type.h"

#include "ref/error.h"

#include <cstdio>
#include <utility>

namespace rotkv {

std::string CacheType::name() const { return format_ ? format_->name() : type_info(cells_).name; }

std::string CacheType::refusal(int64_t d) const {
    const TypeInfo& info = type_info(cells_);
    if (!info.cache) return "no cache type";
    if (format_) return format_->refusal(d);
    if (d % info.block_elements == 0) return {};
    return "needs a head size that is a multiple of " + std::to_string(info.block_elements) +
           ", found " + std::to_string(d);
}

std::string CacheType::words(int64_t d) const {
    if (!format_ || !refusal(d).empty()) return name();
    char bits[32];
    std::snprintf(bits, sizeof bits, "%.6g", format_->bits_per_value(d));
    return name() + ", " + bits + " bits per value";
}

int64_t row_bytes(const CacheType& type, int64_t d) {
    if (type.format() == nullptr) return row_bytes(type.cells(), d);
    const std::string refusal = type.refusal(d);
    if (!refusal.empty()) throw Error(ErrorCode::bad_argument, type.name() + ": " + refusal);
    return type.format()->row_bytes(d);
}

std::optional<CacheType> find_cache_type(const std::string& name) {
    std::string lower = name;
    for (char& c : lower) {
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    }
    for (const DType type : cache_types()) {
        if (lower == type_info(type).name) return type;
    }
    if (std::shared_ptr<const Format> format = find_format(lower)) {
        return CacheType(std::move(format));
    }
    return std::nullopt;
}

}  // namespace rotkv
