#pragma once
// The Hadamard transform four times, each version one idea further from ref's loops. The operation
// is the last; tests and benchmarks run all of them.
// Docs: docs/02-hadamard.md

#include "fast/kernels.h"

namespace rotkv::fast {

void hadamard_1_loops(const HadamardArgs& args);      ///< ref's loops, a row to a thread
void hadamard_2_vectors(const HadamardArgs& args);    ///< butterflies between vectors, in memory
void hadamard_3_registers(const HadamardArgs& args);  ///< a whole block in registers
void hadamard_4_memory(const HadamardArgs& args);     ///< fetched ahead, written past the caches

struct HadamardVersion {
    const char* name;
    void (*run)(const HadamardArgs& args);
};

inline constexpr HadamardVersion k_hadamard_ladder[] = {
    {"1_loops", hadamard_1_loops},
    {"2_vectors", hadamard_2_vectors},
    {"3_registers", hadamard_3_registers},
    {"4_memory", hadamard_4_memory},
};

}  // namespace rotkv::fast
