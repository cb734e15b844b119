#pragma once
// How kernels are laid out over threads: the grid of each, in plain C++, for every host.
// Docs: docs/22-metal.md

#include <cstdint>

namespace rotkv::metal {

constexpr uint32_t k_lanes = 32;      ///< of a simdgroup
constexpr uint32_t k_simdgroups = 4;  ///< of a threadgroup, where simdgroups work by themselves

/// Threadgroups and threads of a dispatch.
struct Grid {
    uint32_t groups[3] = {1, 1, 1};
    uint32_t threads = k_lanes;
    uint32_t memory = 0;  ///< bytes of threadgroup memory, a multiple of 16
};

/// One simdgroup for each of n pieces of work.
inline Grid by_simdgroups(uint32_t n) {
    return {{(n + k_simdgroups - 1) / k_simdgroups, 1, 1}, k_simdgroups * k_lanes, 0};
}

/// One thread for each of n.
inline Grid by_threads(uint32_t n) {
    const uint32_t threads = k_simdgroups * k_lanes;
    return {{(n + threads - 1) / threads, 1, 1}, threads, 0};
}

/// Channels of a row that one simdgroup turns: whole blocks of the rotation, and whole blocks of
/// the types that count 32 values together.
inline uint32_t channels_of_part(int64_t block) {
    return block > int64_t(k_lanes) ? uint32_t(block) : k_lanes;
}

}  // namespace rotkv::metal
