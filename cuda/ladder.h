#pragma once
// The Hadamard transform, attention over few tokens and attention over many, each as a ladder of
// versions, one idea apart. The operation is the last; tests run all of them, and
// rotkv-bench-ops --ladder times them side by side.
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

// Attention over few tokens: a token being decoded, and a whole device to read its cells.
void decode_1_simple(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void decode_2_split(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void decode_3_warp(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void decode_4_ring(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void decode_5_bulk(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void decode_6_codes(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void decode_7_bands(const AttentionArgs& args, const Workspace& workspace, Stream stream);
/// In f32 precision, q and p as sums of two f16; where there is no such kernel, version 2.
void decode_8_terms(const AttentionArgs& args, const Workspace& workspace, Stream stream);
/// One token, or one of each of some streams, over few cells, in f32; without clusters, version 8.
void decode_9_cluster(const AttentionArgs& args, const Workspace& workspace, Stream stream);

// Attention over many tokens: rows that share the tiles of a KV head.
void prefill_1_rows(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void prefill_2_swizzle(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void prefill_3_wgmma(const AttentionArgs& args, const Workspace& workspace, Stream stream);
void prefill_4_producer(const AttentionArgs& args, const Workspace& workspace, Stream stream);

// What a version takes, of calls that check() and supports() have passed; its file says why.
bool decode_3_takes(const AttentionArgs& args);
bool decode_4_takes(const AttentionArgs& args);
bool decode_5_takes(const AttentionArgs& args);
bool decode_6_takes(const AttentionArgs& args);
bool decode_8_takes(const AttentionArgs& args);
bool decode_9_takes(const AttentionArgs& args);
bool prefill_1_takes(const AttentionArgs& args);
bool prefill_2_takes(const AttentionArgs& args);
bool prefill_3_takes(const AttentionArgs& args);
bool prefill_4_takes(const AttentionArgs& args);

inline bool takes_f32(const AttentionArgs& args) { return args.precision == Precision::f32; }
inline bool decode_7_takes(const AttentionArgs& args) {
    return args.precision == Precision::f16 && has_tensor_kernel(args);
}
inline bool prefill_5_takes(const AttentionArgs& args) {
    return args.precision == Precision::f16 && args.lse.empty() && prefill_refusal(args).empty();
}

struct AttentionVersion {
    const char* name;
    void (*run)(const AttentionArgs& args, const Workspace& workspace, Stream stream);
    bool (*takes)(const AttentionArgs& args);
};

inline constexpr AttentionVersion k_decode_ladder[] = {
    {"1_simple", decode_1_simple, takes_f32},   // a block of threads a token and KV head, in f32
    {"2_split", decode_2_split, takes_f32},     // ... for each of many parts of the cells
    {"3_warp", decode_3_warp, decode_3_takes},  // tensor cores: a warp a KV head, plain loads
    {"4_ring", decode_4_ring, decode_4_takes},  // ... eight tiles under way
    {"5_bulk", decode_5_bulk, decode_5_takes},  // ... a row an instruction, a barrier counts bytes
    {"6_codes", decode_6_codes, decode_6_takes},  // ... cells in blocks of codes
    {"7_bands", decode_7_bands, decode_7_takes},  // ... all processors, every type: the operation
    {"8_terms", decode_8_terms, decode_8_takes},  // ... and in f32: q and p as two f16
    {"9_cluster", decode_9_cluster, decode_9_takes},  // few cells: one kernel, blocks that meet
};

inline constexpr AttentionVersion k_prefill_ladder[] = {
    {"1_rows", prefill_1_rows, prefill_1_takes},          // tensor cores, 16 rows a warp
    {"2_swizzle", prefill_2_swizzle, prefill_2_takes},    // ... no two lanes in one bank
    {"3_wgmma", prefill_3_wgmma, prefill_3_takes},        // ... operands from shared memory
    {"4_producer", prefill_4_producer, prefill_4_takes},  // ... a warp that only copies
    {"5_pingpong", attention_prefill, prefill_5_takes},   // ... two that multiply in turn
};

/// Until all that versions have launched on the stream has ended; ladder.cu.
void wait_for_ladder(Stream stream);

/// The worked example of fragments.cuh, for a block of q4_0 whose channel i has code i % 16: u32
/// words [32 lanes][scores, values][lower even, lower odd, higher even, higher odd]; in the values'
/// cell y every code is 15 - i % 16. ladder.cu.
void show_fragments(std::byte* words, Stream stream);

}  // namespace rotkv::cuda
