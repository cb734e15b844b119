#pragma once
// One side of a cache on the host as engines may have stored it: our bytes, the values behind them,
// and how far from those another engine's may have been.
// Docs: docs/10-testing-your-engine.md

#include "ref/cases/mistake.h"

#include <cstddef>
#include <span>
#include <vector>

namespace rotkv {

struct StoredRows {
    DType type = DType::f32;
    int64_t d = 0;
    std::vector<std::byte> bytes;
    std::vector<float> unrounded, error;  ///< [rows][d]

    int64_t rows() const { return int64_t(unrounded.size()) / d; }
    std::vector<float> values() const;  ///< what the bytes mean, [rows][d]
    std::vector<float> reach() const;   ///< reach_of_steps, [rows][d]
};

/// Rows rotated and rounded to the type, as kv_store does.   rows [n][d]
StoredRows stored_rows(std::span<const float> rows, int64_t d, DType type,
                       const Rotation& rotation);

/// Keys after a shift, as kv_shift does it. What another engine had stored differs from ours by a
/// vector that turns and rotations keep as long as it is: no channel is further off than its
/// length, and their own rounding.
StoredRows moved_rows(const StoredRows& keys, const Rotation& rotation, const ShiftOfKeys& shift);

/// Channels first .. first + n of every row.   rows [..][d], result [..][n]
std::vector<float> channels_of(std::span<const float> rows, int64_t d, int64_t first, int64_t n);

}  // namespace rotkv
