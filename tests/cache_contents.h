#pragma once
// Whether a cache is as it was: all its bytes, on the host.
// Docs: docs/04-kv-cache.md

#include "tests/cached_attention.h"

#include <vector>

namespace rotkv::test {

/// All that a cache holds: positions, every byte of K and V, and states.
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
    for (int64_t stream = 0; cache.state() != nullptr && stream < cache.shape().streams; ++stream) {
        const std::vector<std::byte> state = cache.state()->contents(stream);
        all.insert(all.end(), state.begin(), state.end());
        all.push_back(std::byte(cache.state()->held()[size_t(stream)].next));
    }
    return all;
}

}  // namespace rotkv::test
