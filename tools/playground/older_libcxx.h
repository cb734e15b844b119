#pragma once
// What C++20 has and the C++ library of Debian 12's emscripten (libc++ 13) has not, as far as ref/
// uses it: emcc includes this first (wasm.sh). Empty for every other library.
// Docs: docs/34-playground.md

#include <version>

#if defined(_LIBCPP_VERSION) && _LIBCPP_VERSION < 15000

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>
#include <type_traits>

namespace std {

template <class To, class From>
constexpr To bit_cast(const From& from) noexcept {
    static_assert(sizeof(To) == sizeof(From));
    return __builtin_bit_cast(To, from);
}

namespace ranges {

template <class Range, class Value, class Projection = identity>
auto find(Range&& range, const Value& value, Projection projection = {}) {
    return std::find_if(begin(range), end(range), [&](const auto& element) {
        return std::invoke(projection, element) == value;
    });
}

template <class Range, class Predicate>
auto find_if(Range&& range, Predicate predicate) {
    return std::find_if(begin(range), end(range), predicate);
}

template <class Range, class Predicate>
bool all_of(Range&& range, Predicate predicate) {
    return std::all_of(begin(range), end(range), predicate);
}

template <class Range, class Predicate>
bool any_of(Range&& range, Predicate predicate) {
    return std::any_of(begin(range), end(range), predicate);
}

template <class Range, class Value>
void fill(Range&& range, const Value& value) {
    std::fill(begin(range), end(range), value);
}

template <class Range, class Order = std::less<>, class Projection = identity>
void sort(Range&& range, Order order, Projection projection) {
    std::sort(begin(range), end(range), [&](const auto& a, const auto& b) {
        return order(std::invoke(projection, a), std::invoke(projection, b));
    });
}

template <class Range>
auto min(Range&& range) {
    return *std::min_element(begin(range), end(range));
}

template <class Range>
auto max(Range&& range) {
    return *std::max_element(begin(range), end(range));
}

template <class Range>
auto minmax(Range&& range) {
    const auto [least, greatest] = std::minmax_element(begin(range), end(range));
    return pair(*least, *greatest);
}

}  // namespace ranges
}  // namespace std

#endif
