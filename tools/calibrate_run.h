#pragma once
// The run of rotkv-calibrate: rotations made from the first windows of a text, and what they come
// to on the last ones.
// Docs: docs/23-matrix-rotations.md

#include "tools/calibrated_rotation.h"
#include "tools/loaded_model.h"
#include "tools/run_watch.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What decides the matrices and the figures, as flags.
struct CalibrateOptions {
    std::string type_k = "q4_0", type_v = "q4_0", kind = "oscar";
    int64_t ctx = 256, chunks = 8, held_out = 2, rows = 256;

    void add_to(CLI::App& app);
    CalibratedKind calibrated_kind() const {
        return kind == "pca" ? CalibratedKind::pca : CalibratedKind::oscar;
    }
};

/// How far a side is off under one rotation: geometric means over layers and heads.
struct CalibrationErrors {
    double learnt = 0, held_out = 0;
    int64_t worse = 0;  ///< heads whose held-out error is larger than without a rotation
};

/// One side: its matrices, the ways it may be turned, and what each comes to.
struct CalibratedSide {
    Side side = Side::k;
    CacheType type = DType::q4_0;
    std::vector<float> matrices;     ///< calibrated_matrices()
    std::vector<std::size_t> shape;  ///< of them: layers, KV heads, D, D
    std::vector<std::string> ways;
    std::vector<CalibrationErrors> errors;  ///< [way]
    int64_t heads = 0;

    /// Of each way whose error is not a number.
    std::vector<std::string> not_number_lines() const;
};

struct CalibrateRun {
    WindowPlan plan;
    int64_t in_text = 0;  ///< windows that the text has
    std::vector<CalibratedSide> sides;
    std::vector<std::string> not_numbers;
};

/// Throws: Error(usage) for a text of no more windows than are held out; Error(unsupported) as
/// Calibration does and for a type that heads cannot be kept in.
CalibrateRun run_calibrate(LoadedModel& loaded, const std::string& text,
                           const CalibrateOptions& options, const RunWatch& watch);

/// {model, notices, kind, n_ctx, windows_of_text, learnt, held_out, k, v, not_numbers}
nlohmann::ordered_json json_of(const LoadedModel& loaded, const CalibrateRun& run,
                               const CalibrateOptions& options);

}  // namespace rotkv::tools
