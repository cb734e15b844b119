#include "tools/gguf_diff.h"

#include "tools/gguf_words.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <span>
#include <type_traits>
#include <variant>

namespace rotkv::tools {
namespace {

uint32_t bits(float number) { return std::bit_cast<uint32_t>(number); }
uint64_t bits(double number) { return std::bit_cast<uint64_t>(number); }

template <class T>
bool same(const T& a, const T& b) {
    if constexpr (std::floating_point<T>) {
        return bits(a) == bits(b);
    } else {
        return a == b;
    }
}

/// What one file has, and what the other.
struct Sides {
    std::string a, b;
};

/// Two values that are no arrays and differ, in words that differ.
template <class T>
Sides sides_of(const T& a, const T& b) {
    const std::string mine = describe(GgufValue(a)), theirs = describe(GgufValue(b));
    if (mine != theirs) return {mine, theirs};
    if constexpr (std::floating_point<T>) {  // two of the many NaN
        return {fmt::format("{}, bits {:#x}", mine, bits(a)),
                fmt::format("{}, bits {:#x}", theirs, bits(b))};
    } else if constexpr (std::is_same_v<T, std::string_view>) {  // alike as far as they are shown
        const std::size_t at = std::size_t(std::ranges::mismatch(a, b).in1 - a.begin());
        return {fmt::format("{}, at byte {} {}", mine, at, in_quotes(a.substr(at))),
                fmt::format("at byte {} {}", at, in_quotes(b.substr(at)))};
    }
    return {mine, theirs + ", other contents"};
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return std::ranges::equal(a, b, [](const T& x, const T& y) { return same(x, y); });
}

template <class T>
Sides sides_of(const std::vector<T>& a, const std::vector<T>& b) {
    const std::string mine = describe(GgufValue(a)), theirs = describe(GgufValue(b));
    if (a.size() != b.size()) return {mine, theirs};
    std::size_t differing = 0, first = 0;
    for (std::size_t i = a.size(); i-- > 0;) {
        if (same<T>(a[i], b[i])) continue;
        ++differing;
        first = i;
    }
    const Sides values = sides_of<T>(a[first], b[first]);
    return {mine, fmt::format("{} of {} values differ, the first in place {}: {} | {}", differing,
                              a.size(), first, values.a, values.b)};
}

bool same(std::monostate, std::monostate) { return true; }
Sides sides_of(std::monostate, std::monostate) { return {}; }

/// Nothing where two values, or two arrays, are equal.
template <class Variant>
std::vector<Sides> compare(const Variant& a, const Variant& b) {
    if (a.index() != b.index()) return {{describe(a), describe(b)}};
    return std::visit(
        [&](const auto& mine) -> std::vector<Sides> {
            using T = std::decay_t<decltype(mine)>;
            const T& theirs = std::get<T>(b);
            if constexpr (std::is_same_v<T, GgufArray>) {
                return compare(mine, theirs);
            } else {
                if (same(mine, theirs)) return {};
                return {sides_of(mine, theirs)};
            }
        },
        a);
}

class Lines {
  public:
    void add(const std::string& what, const std::string& a, const std::string& b) {
        lines_.push_back(fmt::format("{}: {} | {}", printable(what), a, b));
    }
    std::vector<std::string> take() { return std::move(lines_); }

  private:
    std::vector<std::string> lines_;
};

void compare_metadata(const GgufFile& a, const GgufFile& b, Lines& lines) {
    for (const GgufEntry& entry : a.metadata()) {
        const GgufValue* other = b.find(entry.key);
        if (other == nullptr) {
            lines.add(entry.key, describe(entry.value), "absent");
            continue;
        }
        for (const Sides& sides : compare(entry.value, *other)) {
            lines.add(entry.key, sides.a, sides.b);
        }
    }
    for (const GgufEntry& entry : b.metadata()) {
        if (a.find(entry.key) == nullptr) lines.add(entry.key, "absent", describe(entry.value));
    }
}

std::string tensor_words(const GgufTensor& tensor) {
    const std::string words = fmt::format("{} {}", describe_type(tensor), shape_words(tensor));
    return tensor.readable ? words : fmt::format("{}, at most {} bytes", words, tensor.bytes);
}

void compare_tensors(const GgufFile& a, const GgufFile& b, Lines& lines) {
    for (const GgufTensor& tensor : a.tensors()) {
        const std::string mine = tensor_words(tensor);
        const GgufTensor* other = b.find_listed(tensor.name);
        const std::string theirs = other != nullptr ? tensor_words(*other) : "absent";
        if (mine != theirs) {
            lines.add(tensor.name, mine, theirs);
            continue;
        }
        const std::span<const std::byte> my_bytes = a.data(tensor), their_bytes = b.data(*other);
        int64_t differing = 0;
        for (std::size_t i = 0; i < my_bytes.size(); ++i) {
            differing += my_bytes[i] != their_bytes[i] ? 1 : 0;
        }
        if (differing == 0) continue;
        lines.add(tensor.name, mine,
                  fmt::format("{} of {} bytes differ", differing, my_bytes.size()));
    }
    for (const GgufTensor& tensor : b.tensors()) {
        if (a.find_listed(tensor.name) == nullptr) {
            lines.add(tensor.name, "absent", tensor_words(tensor));
        }
    }
}

}  // namespace

std::vector<std::string> differences(const GgufFile& a, const GgufFile& b) {
    Lines lines;
    compare_metadata(a, b, lines);
    compare_tensors(a, b, lines);
    return lines.take();
}

}  // namespace rotkv::tools
