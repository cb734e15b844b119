#pragma once
// The Hadamard transform four times, each version one idea further from ref's loops. The operation
// is the last; tests and benchmarks run all of them.
// Docs: docs/02-hadamard.md

#include "cuda/kernels.h"

namespace rotkv::cuda {

void hadamard_1_loops(const HadamardArgs& args, Stream stream);     ///< ref's loops, thread a block
void hadamard_2_shared(const HadamardArgs& args, Stream stream);    ///< a stage between barriers
void hadamard_3_shuffles(const HadamardArgs& args, Stream stream);  ///< a warp, in registers
void hadamard_4_vectors(const HadamardArgs& args, Stream stream);   ///< 16 bytes at a time

struct HadamardVersion {
    const char* name;
    void (*run)(const HadamardArgs& args, Stream stream);
};

inline constexpr HadamardVersion k_hadamard_ladder[] = {
    {"1_loops", hadamard_1_loops},
    {"2_shared", hadamard_2_shared},
    {"3_shuffles", hadamard_3_shuffles},
    {"4_vectors", hadamard_4_vectors},
};

}  // namespace rotkv::cuda
