#pragma once
// Whether a cache is as it was: all its bytes, on the host.
// Docs: docs/04-kv-cache.md

#include "tests/cached_attention.h"

#include <vector>

namespace rotkv::test {

/// All that a cache holds: positions, and every byte of K and V.
inline std::vector<std::byte> contents(Backend& backend, const KvCache& cache) {
    std::vector<std::byte> all = download(backend, cache.positions());
    const auto append = [&](const TensorView& tensor) {
        const std::vector<std::byte> bytes = download(backend, tensor);
        all.insert(all.end(), bytes.begin(), bytes.end());
    };
    append(cache.used());
    for (int64_t l = 0; l < cache.shape().n_layers(); ++l) {
        const KvLayer& layer = cache.shape().layers[size_t(l)];
        if (layer.source) continue;
        append(cache.k(l));
        if (!layer.v_in_k) append(cache.v(l));  // else it lies in K
    }
    return all;
}

}  // namespace rotkv::test
