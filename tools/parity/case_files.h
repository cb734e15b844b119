#pragma once
// Cases as files, for engines in any language: one folder a case, one .npy a tensor, and an
// index.json that says what each file is. And the page docs/ops.md.
//   DIR/index.json             {"version", "rotkv", "cases": [{"name", "op", "fields", "constants",
//                              "agreement", "folder", "tensors": [{"name", "role", "type",
//                              "extents", "file", "expected", "bound" or "nmse"}]}]}
//   DIR/0007/src.npy           an input
//   DIR/0007/dst.expected.npy  the reference's result
//   DIR/0007/dst.bound.npy     f64, how far each element may be off, where a bound is per element
//   DIR/0007/dst.npy           what the engine writes: the file that `check` judges
// f32, f64 and i32 are arrays of that type. Every other type is an array of bytes, u8, whose last
// extent is the bytes of a row: the layout is GGUF's.
// Docs: docs/10-testing-your-engine.md

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Writes the cases that are for other engines and that the reference supports. Returns how many.
/// Throws Error(usage) if none is, Error(io) if the folder exists or cannot be written.
int64_t dump_cases(const std::string& folder, const std::vector<std::string>& names);

struct CheckReport {
    int64_t cases = 0, ok = 0, exact = 0;
    int64_t missing = 0;     ///< cases whose results are not there
    std::string written_by;  ///< which rotkv has dumped them
    struct Failure {
        std::string text;  ///< case and tensor, with the first differences
        std::string line;  ///< the same without them
    };
    std::vector<Failure> failures;
    std::vector<std::string> shared_fields;  ///< of the cases that fail
    std::vector<std::string>
        likely_mistakes;             ///< what would explain them: LikelyMistakes::sentences
    std::vector<std::string> notes;  ///< what agrees, but not to the bit
    nlohmann::ordered_json json;
};

/// Judges the results beside a dump against the table: what the folder says about expected results
/// and bounds is not read. A case of which some results are there and others not, or no arrays of
/// the case, is a failure.
/// Throws Error(io), Error(bad_file) for an index that cannot be read, Error(usage) if the pattern
/// is part of no name there.
CheckReport check_cases(const std::string& folder, const std::string& pattern, bool exact);

/// docs/ops.md as it should be: generated from the table and from what backends say they support.
std::string support_page();

}  // namespace rotkv::tools
