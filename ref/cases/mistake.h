#pragma once
// Mistakes that engines make on the way through a rotated cache, each as the change of a few lines
// to one that makes none: what its results would be, so that a result that is wrong can be held
// against them and its mistake be named.
// Docs: docs/10-testing-your-engine.md

#include "ref/ops.h"

#include <cstdint>
#include <span>
#include <vector>

namespace rotkv {

enum class Mistake {
    none,
    k_not_rotated,    ///< K is stored as it comes, q is rotated
    q_not_rotated,    ///< q is taken as it comes, K is rotated
    v_not_back,       ///< attention's output stays rotated
    v_back_by_k,      ///< it is rotated back in K's blocks
    not_normalized,   ///< H without 1 / sqrt(N), in both directions
    row_sign,         ///< the last row of H is negated
    strided_blocks,   ///< a block is every (D / N)-th channel instead of N neighbours
    signs_restarted,  ///< the signs of each block are those of the first
    signs_dropped,    ///< H alone
    shift_rotated,    ///< RoPE turns the rotated key
    shift_dropped,    ///< keys stay as they are
    shift_backwards,  ///< RoPE by the difference in the other direction
    scale_twice,      ///< scores are multiplied by the scale, and again
    heads_modulo,     ///< head h reads KV head h mod K instead of h / (H / K)
    window_longer,    ///< the window lets one cell more be seen
    window_shorter,   ///< and one less
    self_unseen,      ///< a token does not see its own cell
    sinks_dropped,
    softcap_dropped
};

struct MistakeInfo {
    Mistake mistake;
    const char* name;      ///< "v-not-back"
    const char* sentence;  ///< "the output is not rotated back"
};

/// All but none, in the order of the enum.
std::span<const MistakeInfo> mistakes();

/// hadamard_row as somebody with the mistake computes it. Shapes: x, y [d]; y may be x.
void mistaken_hadamard(float* y, const float* x, int64_t d, const Rotation& rotation, bool inverse,
                       Mistake mistake);

/// What rows mean after they were rotated and rounded to the type.   rows, result [n][d]
std::vector<float> mistaken_rows(std::span<const float> rows, int64_t d, DType type,
                                 const Rotation& rotation, Mistake mistake);

/// Keys that were rotated and rounded, moved and rounded again: row[i] is that of the table,
/// [rows][n_rot / 2][2], -1: the key stays.   keys, result [n][d]; row [n / heads]
struct ShiftOfKeys {
    std::vector<float> table;
    std::vector<int32_t> row;
    int64_t heads, n_rot;
    RopePairs pairs;
};
std::vector<float> mistaken_shift(std::span<const float> keys, int64_t d, DType type,
                                  const Rotation& rotation, const ShiftOfKeys& shift,
                                  Mistake mistake);

/// Attention over rows that lie on the host.
struct RowsOfAttention {
    AttentionArgs rule;  ///< scale, softcap, window, bounds, rotations; its tensors are not read
    int64_t heads, kv_heads, d_k, d_v;
    std::vector<float> q;                       ///< [T][H][Dk], not yet rotated
    std::vector<float> k, v;                    ///< [C][K][Dk], [C][K][Dv], rotated
    std::vector<int32_t> position, q_position;  ///< [C], [T]
    std::vector<float> sinks;                   ///< [H] or empty
};

/// As somebody with the mistake computes it, in f64.   result [T][H][Dv]
std::vector<float> mistaken_attention(const RowsOfAttention& in, Mistake mistake);

}  // namespace rotkv
