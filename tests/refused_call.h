#pragma once
// Calls that are refused before they touch memory: what is said of them, and views to spoil.
// Docs: docs/08-backends.md

#include "ref/error.h"
#include "ref/types.h"
#include "tests/catch.h"

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>

namespace rotkv::test {

/// What the error says that the call ends with, which must have this code; or "accepted".
inline std::string refusal(const std::function<void()>& call, ErrorCode code) {
    try {
        call();
    } catch (const Error& error) {
        CHECK(error.code() == code);
        return error.what();
    }
    return "accepted";
}

/// Memory that nobody reads.
inline double unread[2048];

inline TensorView f32(std::initializer_list<int64_t> extents) {
    return view(unread, DType::f32, extents);
}
inline TensorView half(std::initializer_list<int64_t> extents) {
    return view(unread, DType::f16, extents);
}
inline TensorView i32(std::initializer_list<int64_t> extents) {
    return view(unread, DType::i32, extents);
}

inline TensorView f64(std::initializer_list<int64_t> extents) {
    return view(unread, DType::f64, extents);
}

}  // namespace rotkv::test
