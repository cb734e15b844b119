#pragma once
// The run of rotkv-fuse: a model file with V's rotation in its weights, and what the two files'
// predictions differ by.
// Docs: docs/21-rotation-in-the-weights.md

#include "ref/rotation.h"
#include "tools/loaded_model.h"
#include "tools/run_watch.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace rotkv::tools {

/// What is written and how it is looked at, as flags.
struct FuseOptions {
    std::string output, rotation = "64";
    bool verify = false;
    int64_t tokens = 128;

    void add_to(CLI::App& app);

    /// Throws Error(usage) for words that are none.
    Rotation rotation_of_words() const;
};

/// The two files' predictions, of every word behind every token.
struct Comparison {
    int64_t tokens = 0, words = 0;
    double most = 0;   ///< max |log p_new - log p_old|
    double kld = 0;    ///< mean over tokens, of the old predictions from the new ones
    double floor = 0;  ///< `most` of the old model beside itself with one bit changed

    double limit() const;
    bool same() const { return most < limit(); }
};

/// What became of the file's tensors.
struct FuseRun {
    std::string key, rotation;
    int64_t tensors = 0;
    uint64_t bytes_before = 0, bytes_after = 0;  ///< of those
    std::optional<Comparison> found;             ///< none unless it was asked for
};

/// Opens a model file for so many positions.
using ModelOpener =
    std::function<std::unique_ptr<LoadedModel>(const std::string& path, int64_t context)>;

/// Writes options.output, which appears whole or not at all; then compares, where `text` is given.
/// Throws: Error(usage) for a rotation or a path that is none, Error(unsupported) for a model whose
/// weights cannot take it.
FuseRun run_fuse(const std::string& path, const FuseOptions& options, bool phi3_window,
                 const std::optional<std::string>& text, const ModelOpener& open,
                 const RunWatch& watch);

/// {model, output, key, rotation, tensors, bytes_before, bytes_after, verified}
nlohmann::ordered_json json_of(const std::string& path, const FuseOptions& options,
                               const FuseRun& run);

/// Throws Error(bad_file) where the predictions were compared and are not the same.
void require_same_predictions(const std::string& path, const FuseOptions& options,
                              const FuseRun& run);

}  // namespace rotkv::tools
