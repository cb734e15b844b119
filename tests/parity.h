#pragma once
// What the parity tests share: the backends to be held to the reference, and how bytes are
// compared. Docs: docs/08-backends.md

#include "ref/error.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tools/backends.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace rotkv::test {

/// Every backend that is built and has its device here, except the one that is the measure, and
/// what is emulated: the table and tests of its own speak of that, whole models would take too
/// long.
inline std::vector<std::unique_ptr<Backend>> candidates() {
    std::vector<std::unique_ptr<Backend>> result;
    for (const tools::BackendEntry& entry : tools::backends()) {
        if (entry.make == nullptr || entry.emulated || std::string(entry.name) == "ref") continue;
        try {
            result.push_back(entry.make(0));
        } catch (const Error& error) {
            std::fprintf(stderr, "without %s: %s\n", entry.name, error.what());
            continue;
        }
        CHECK(result.back()->name() == entry.name);  // the one that is meant is the one that runs
    }
    return result;
}

inline void fill(Backend& backend, const TensorView& tensor, std::byte value) {
    backend.upload(tensor.data, std::vector<std::byte>(size_t(span_bytes(tensor)), value));
}

/// Equal bits; a NaN equals any NaN.
inline bool floats_equal(const std::vector<float>& a, const std::vector<float>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
        return std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y));
    });
}

}  // namespace rotkv::test
