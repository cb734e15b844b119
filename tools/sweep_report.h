#pragma once
// What a sweep found: the matrix, the cells worth their bytes, and where rotation hurts.
// Docs: docs/12-sweeps.md

#include "tools/sweep_row.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// All rows of a sweep, K outermost, then V, then rotations.
struct SweepResult {
    std::vector<std::string> k, v, rot;  ///< the lists, in order
    int64_t values_per_token = 0;  ///< numbers in the cache for one token, K and V, all layers
    int64_t windows = 0;
    std::vector<SweepRow> rows;  ///< [k][v][rot]
    bool same = false;           ///< K and V of one type: [k][rot], and a table of formats
};

/// The reason of a row that nobody has computed yet.
inline constexpr const char* k_not_run = "not run";

/// Of the row's cache, per value, all metadata counted.
double bits_of(const SweepResult& result, const SweepRow& row);

/// The rows that no other row beats, by ascending bytes: none has as few bytes and a smaller KLD,
/// or fewer bytes and as small a KLD. Of equals the first; rows without a figure, or one that is
/// not a number, are not in it.
std::vector<std::size_t> pareto_front(std::span<const SweepRow> rows);

/// The same types with and without rotation, on the same windows.
struct RotationChange {
    std::size_t plain = 0, rotated = 0;  ///< rows
    Mean kld;                            ///< rotated - plain: above 0 it hurts; error by windows
    double p = 1;                        ///< see p_of()

    /// A difference there is only where both cells are numbers.
    enum class Kind {
        compared,
        rescued,  ///< only the rotated one is a number
        broken,   ///< only the plain one
        neither,
    };
    Kind kind = Kind::compared;
};

/// Every rotated row that has a row without any rotation beside it, in order.
std::vector<RotationChange> rotation_changes(std::span<const SweepRow> rows);

/// Below this a change counts as one.
inline constexpr double k_significant = 0.01;

/// KLD of row a less that of row b, window by window.
Mean paired_kld(const SweepRow& a, const SweepRow& b);

/// A line for each cause by which cells are not numbers: how many, and of the first all there is.
std::vector<std::string> not_number_lines(std::span<const SweepRow> rows);

void print_sweep(std::FILE* out, const SweepResult& result);

/// {cells: [...], front: [...], rotation: [...]}
nlohmann::ordered_json json_of(const SweepResult& result);

/// One line for each cell, without the means of single windows. Throws Error(io).
void write_csv(const std::string& path, const SweepResult& result);

}  // namespace rotkv::tools
