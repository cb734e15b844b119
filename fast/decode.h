#pragma once
// Attention of one token at a time, which reads much and computes little: a ladder of four
// versions, each with one idea more, to be read beside ref/attention.cpp. attention() uses the last
// one. Docs: docs/05-attention.md

#include "fast/kernels.h"
#include "fast/query_row.h"

#include <cstdint>

namespace rotkv::fast {

void decode_threads(const AttentionArgs& args);  // decode_1_threads.cpp
void decode_packed(const AttentionArgs& args);   // decode_2_packed.cpp
void decode_group(const AttentionArgs& args);    // decode_3_group.cpp
void decode_split(const AttentionArgs& args);    // decode_4_split.cpp

struct DecodeVersion {
    const char* name;
    void (*run)(const AttentionArgs& args);
};

/// The ladder, bottom up. All but the first want what decodes() asks for.
inline constexpr DecodeVersion k_decode_versions[] = {{"threads", decode_threads},
                                                      {"packed", decode_packed},
                                                      {"group", decode_group},
                                                      {"split", decode_split}};

/// True where heads consist of whole blocks of 32.
bool decodes(const AttentionArgs& args);

// What the versions share (decode.cpp).

/// Writes those of the cells first .. last - 1 that token t sees; returns how many.
int64_t visible_cells(int32_t* cells, const AttentionArgs& args, int64_t t, int64_t first,
                      int64_t last);

/// How many cells of token t's stream are in use.
int64_t used_cells(const AttentionArgs& args, int64_t t);

/// q = scale R_k q for head h of token t.
void load_query(float* q, const AttentionArgs& args, const RowRotation& rotation, int64_t t,
                int64_t h);

/// Takes more scores in: they become exp(score - largest) in place. Returns what sums made with the
/// old largest must be multiplied by. scores [n, rounded up to k_lanes].
float softmax_step(Softmax& seen, float* scores, int64_t n, float softcap);

/// Divides head h's sum of values by what end_softmax() says, and rotates it back.
void store_output(const AttentionArgs& args, const RowRotation& rotation, int64_t t, int64_t h,
                  float* sum, const Softmax& seen);

}  // namespace rotkv::fast
