#pragma once
// A cache that llama.cpp saved beside ours of the same tokens: how its rows are rotated, which the
// file does not say, and which elements are stored otherwise.
// Docs: docs/24-saved-caches.md

#include "ref/files/llama_state.h"
#include "ref/model.h"
#include "tools/steps_apart.h"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// One side of one layer.
struct SideBeside {
    int64_t layer = 0;
    Side side = Side::k;
    DType type = DType::f32;
    Rotation rotation;           ///< that explains the rows best
    double off = 0;              ///< |R^T theirs - ours| / |ours|, ours in f32, never rounded
    double off_otherwise = 0;    ///< the same by the next best rotation; inf: there is no other
    StepsApart steps;            ///< beside ours in the same type and rotation, of the same tokens
    int64_t cell = 0, head = 0;  ///< where it is furthest off

    std::optional<int64_t> said;  ///< the block that the file names, 0: none

    // Cells by themselves: those that another of the rotations tried brings twice as near, or none
    // as near as k_most_off and the type's rounding allow.
    int64_t cells = 0, strange_cells = 0;
    int32_t first_strange = -1;  ///< its position

    /// Of a hundred cells one may be strange: in a noisy cache a token's keys may go another way.
    bool explained() const { return off < k_most_off && 100 * strange_cells <= cells; }
    bool as_said() const { return !said || *said == (rotation.on() ? rotation.block : 0); }

    static constexpr double k_most_off = 0.5;      ///< of a layer; of a cell, beside its rounding
    static constexpr double k_most_roundings = 3;  ///< of what the type does to our row
};

struct StateBeside {
    int64_t cells = 0;  ///< of the largest cache
    std::vector<SideBeside> sides;
    RotationSpec policy;  ///< what llama.cpp, and `auto`, do with the file's types

    bool explained() const;  ///< every side of every layer, and as the file says, if it does
    bool as_policy() const;  ///< all sides rotated as `policy` has it
    bool never_rotated() const;
};

/// A cache of one stream after these tokens, at positions 0, 1, ...: 512 of them at a time.
KvCache filled_cache(Model& model, const KvShape& shape, const RotationSpec& spec,
                     std::span<const int32_t> tokens);

/// How many of the file's tokens have to be run: up to the last cell's position.
int64_t tokens_needed(const LlamaState& state);

/// Runs the file's tokens through the model twice: into an f32 cache without rotation, and into one
/// of the file's types with the rotations that were found.
/// Rotations tried: none, and Sylvester's in every block size from 16 on that divides the head.
/// Throws: Error(bad_file) for a file of other layers or row sizes than the model's, a token
/// outside
///         of its vocabulary, cells at positions that its tokens do not have (a shifted cache),
///         more than one sequence; Error(unsupported) for layers that keep a state.
StateBeside hold_beside(Model& model, const LlamaState& state);

}  // namespace rotkv::tools
