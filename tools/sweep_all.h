#pragma once
// A whole sweep: its cells in order, computed or taken from the file that it goes on in.
// Docs: docs/12-sweeps.md

#include "tools/list_flags.h"
#include "tools/loaded_model.h"
#include "tools/run_watch.h"
#include "tools/sweep_file.h"
#include "tools/sweep_lists.h"
#include "tools/sweep_report.h"
#include "tools/sweep_run.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What decides the figures, and the file that they go to, as flags.
struct SweepOptions {
    WindowFlags windows;
    std::string base = "k=f32,v=f32", types_k = usual_types(), types_v = types_k;
    std::string formats, rot = "off,auto", place;
    std::string out;  ///< empty: no file
    int64_t base_memory = 1024;
    bool so_far = false;

    void add_to(CLI::App& app);
};

/// The same, read. Throws Error(usage) that names the flag.
struct SweepAsked {
    SweepTypes types;
    std::vector<AskedRotation> rotations;
    Variant base;
    Placement placement;

    explicit SweepAsked(const SweepOptions& options);
};

/// A text, and the name of its file, empty where it has none.
struct NamedText {
    std::string name, text;
};

/// What was computed, and under which first line; of several processes only the first has rows.
struct SweepAnswer {
    nlohmann::ordered_json header;
    SweepResult result;
    std::vector<std::string> not_numbers;

    /// Throws: Error(unsupported) with the reason of the first cell where none could be measured.
    void require_measured() const;
};

/// What a sweep says before its first cell.
struct SweepStart {
    const WindowPlan& plan;
    bool keeps_base = true;
    std::size_t cells = 0, there = 0;  ///< all, and those that the file has
    std::size_t torn_bytes = 0;
};

/// `quiet`: no lines on standard error. `started` may be empty.
/// Throws: as SweepFile and plan_windows(); Error(usage) for layers that the model does not have.
SweepAnswer run_sweep(LoadedModel& loaded, const NamedText& text, const SweepOptions& options,
                      const SweepAsked& asked, bool quiet, const RunWatch& watch,
                      const std::function<void(const SweepStart&)>& started);

/// The header with json_of(SweepResult) and not_numbers.
nlohmann::ordered_json json_of(const SweepAnswer& answer);

}  // namespace rotkv::tools
