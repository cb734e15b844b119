#pragma once
// Programs as functions: rotkv-outliers, -sweep, -search, -calibrate and -fuse on a model that is
// open already. Their flags are given as on a command line and mean the same, what is wrong is said
// in the same words, and what comes back is the document of --json.
// Docs: docs/25-bindings.md

#include "ref/types.h"
#include "tools/loaded_model.h"
#include "tools/run_watch.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// The model of a call, and who looks on.
struct ProgramCall {
    ModelParts parts;
    const Model& weights;
    RunWatch watch{};

    /// rotkv-calibrate: the matrices of a side, [layers][KV heads][D][D].
    std::function<void(Side side, std::span<const float> matrices,
                       const std::vector<std::size_t>& shape)>
        show_matrices{};

    std::unique_ptr<LoadedModel> open(int64_t context) const {
        return std::make_unique<LoadedModel>(parts, weights, context);
    }
};

/// The names that there are, in order.
std::vector<std::string> program_names();

/// Runs one by its name without "rotkv-". `flags`: all of the program's that decide a figure
/// ("-c", "256", "--types", "q8_0,q4_0"); those of the model, of the text and of what is printed
/// and drawn are not known here. `text` is the contents of -f; fuse needs it for --verify alone.
/// A figure that is not a number is null; the document's "not_numbers" says in a line each which
/// and why.
/// Throws: Error(usage) for another name and for what a program ends with 2; as the program.
nlohmann::ordered_json run_program(const std::string& name, const std::vector<std::string>& flags,
                                   const std::string& text, const ProgramCall& call);

}  // namespace rotkv::tools
