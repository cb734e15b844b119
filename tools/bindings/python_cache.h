#pragma once
// A cache of Python's.
// Docs: docs/25-bindings.md

#include "tools/bindings/python_call.h"

#include <cmath>
#include <utility>

namespace rotkv::python {

struct Cache {
    rotkv_cache* handle;
    explicit Cache(rotkv_cache* of) : handle(of) {}
    Cache(Cache&& other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
    Cache& operator=(Cache&&) = delete;
    ~Cache() { rotkv_cache_close(handle); }
};

}  // namespace rotkv::python
