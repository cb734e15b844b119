#pragma once
// A cache of Python's.
// Docs: docs/25-bindings.md

#include "tools/bindings/python_call.h"

#include <cmath>
#include <cstdint>
#include <utility>

namespace rotkv::python {

struct Cache {
    rotkv_cache* handle;
    uint64_t model;  ///< Model::number, 0: of none
    explicit Cache(rotkv_cache* opened, uint64_t of_model = 0) : handle(opened), model(of_model) {}
    Cache(Cache&& other) noexcept
        : handle(std::exchange(other.handle, nullptr)), model(other.model) {}
    Cache& operator=(Cache&&) = delete;
    ~Cache() { rotkv_cache_close(handle); }
};

}  // namespace rotkv::python
