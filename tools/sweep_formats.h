#pragma once
// A sweep of formats, K and V in the same: a row for each, a column for each rotation, seeds folded
// into one; and which format wins at so many bits, by paired tests.
// Docs: docs/20-zoo.md

#include "tools/sweep_report.h"

#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Rotations of a sweep that differ in nothing but their seed.
struct RotationColumn {
    std::string name;                    ///< "off", "signed", "calibrated": without seed and file
    std::vector<std::size_t> rotations;  ///< of SweepResult::rot
};

/// signed:1 and signed:2 are one column, signed:1:3 is another: so many rounds are another
/// rotation.
std::vector<RotationColumn> rotation_columns(const std::vector<std::string>& rot);

/// A format under a column of rotations.
struct FormatCell {
    std::size_t format = 0, column = 0;  ///< of SweepResult::k, of the columns
    double bits = 0;                     ///< per value, all metadata counted
    std::vector<double> kld_windows;     ///< of each window, the mean over seeds
    Mean kld;                            ///< their mean, error by windows
    double spread = 0;                   ///< sd of the seeds' means; NaN for a single one
};

/// All that were measured, formats outermost. A cell of which a seed is missing is not there.
std::vector<FormatCell> format_cells(const SweepResult& result,
                                     const std::vector<RotationColumn>& columns);

/// a - b, window by window.
Mean paired_kld(const FormatCell& a, const FormatCell& b);

/// The best cell of at most so many bits, and how the others there compare with it.
struct Win {
    double most_bits = 0;
    std::size_t cell = 0;                  ///< the smallest KLD; indices of the cells
    std::vector<std::size_t> not_told;     ///< p >= k_significant, by ascending KLD
    std::optional<std::size_t> next_told;  ///< the smallest KLD that is told apart
    std::size_t others = 0;                ///< so many were compared with it
};

/// What wins at 2, 3, 4, 5 and 8 bits: with at most half a bit more for scales, since no format of
/// so many bits a code comes without. Where nothing has so few bits there is no win.
std::vector<Win> wins_of(const std::vector<FormatCell>& cells);

/// How far equal rotations of other seeds lie apart: the median of spread / KLD. NaN where no
/// column has several seeds.
double spread_of_seeds(const std::vector<FormatCell>& cells);

/// Types and formats that exist and that the sweep does not have.
std::vector<std::string> formats_not_run(const SweepResult& result);

/// Tables in markdown, then what wins.
void print_formats(std::FILE* out, const SweepResult& result);

/// {cells: [...], wins: [...], spread_of_seeds, not_run: [...]}
nlohmann::ordered_json json_of_formats(const SweepResult& result);

}  // namespace rotkv::tools
