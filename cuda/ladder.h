#pragma once
// The Hadamard transform four times and attention of few tokens four times, each version one idea
// further from ref's loops. The operation is the last; tests and benchmarks run all of them.
// Docs: docs/02-hadamard.md docs/05-attention.md

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

/// A block of threads for each token and KV head: one read of the cache for a group of query heads.
void decode_1_simple(const AttentionArgs& args, const Workspace& workspace, Stream stream);
/// ... and for each of many parts of the cells, put together by the block that ends last.
void decode_2_split(const AttentionArgs& args, const Workspace& workspace, Stream stream);
/// ... on tensor cores, the codes of cells as f16 operands, copies under way meanwhile.
void decode_3_tensor(const AttentionArgs& args, const Workspace& workspace, Stream stream);

/// ... in f32 precision, q and p as sums of two f16; where there is no such kernel, version 2.
void decode_4_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream);

struct DecodeVersion {
    const char* name;
    void (*run)(const AttentionArgs& args, const Workspace& workspace, Stream stream);
    Precision precision;
};

inline constexpr DecodeVersion k_decode_ladder[] = {
    {"1_simple", decode_1_simple, Precision::f32},
    {"2_split", decode_2_split, Precision::f32},
    {"3_tensor", decode_3_tensor, Precision::f16},
    {"4_terms", decode_4_terms, Precision::f32},
};

}  // namespace rotkv::cuda
