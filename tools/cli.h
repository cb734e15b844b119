#pragma once
// What the command lines of all tools share: llama.cpp's spellings, flags in groups, exit codes,
// one-line errors, JSON output.
//
// A tool is a main() of this shape:
//   CLI::App app("what it does", "rotkv-x");
//   tools::ModelFlags model;  model.add_to(app);
//   return tools::run_tool(app, argc, argv, "  rotkv-x -m model.gguf\n", [&] { ...; return 0; });
// Docs: tools/README.md

#include "ref/model.h"
#include "ref/types.h"
#include "tools/number_flags.h"
#include "tools/output_paths.h"
#include "tools/ranks.h"
#include "tools/rotation_flags.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// Exit codes of every tool.
inline constexpr int k_good = 0, k_failed = 1, k_wrong_usage = 2;

/// -m, -t, --backend, and --profile where a tool has it.
struct ModelFlags {
    std::string tool;  ///< its name, for notes
    std::string path;
    int threads = 0;      ///< cores_per_rank(), unless given
    std::string backend;  ///< empty: ROTKV_BACKEND or fast
    bool phi3_window = false;
    ModelPrecision precision;
    bool profile = false;

    void add_to(CLI::App& app);
    void add_profile_to(CLI::App& app);  ///< --profile, for tools that print it
};

/// A cache type by name: one that caches have kernels for, or a format of the zoo. The one place
/// where all tools read such a word.
/// Throws Error(usage) naming `flag` and listing the types, or what the format expects.
CacheType parse_cache_type(const std::string& flag, const std::string& name);

/// What is compared where nobody says which types: f16, and all that are quantized.
std::vector<DType> usual_cache_types();

/// -ctk, -ctv, --rot-k, --rot-v, --rot-signs.
struct CacheFlags {
    std::optional<CacheType> asked_k, asked_v;
    std::optional<RotationRequest::PerSide> rot_k, rot_v;
    std::optional<uint64_t> signs;
    std::string place;  ///< words of a placement; empty: none

    void add_to(CLI::App& app);
    bool asked_any() const {
        return asked_k || asked_v || rot_k || rot_v || signs || !place.empty();
    }
    CacheType type_k() const { return asked_k.value_or(DType::f16); }
    CacheType type_v() const { return asked_v.value_or(DType::f16); }

    /// Flag > LLAMA_ATTN_ROT_K_OVERRIDE, _V_OVERRIDE > LLAMA_ATTN_ROT_DISABLE > policy.
    /// Throws Error(usage) for an environment variable that says neither yes nor no, and for signs
    /// where these types and rotations leave both sides as they are.
    RotationRequest rotation() const;
};

/// -c, -b, --chunks: how a text is cut.
struct WindowFlags {
    std::optional<int64_t> asked_ctx, asked_batch;
    int64_t chunks = -1;  ///< windows at most; -1: all

    void add_to(CLI::App& app);
    static void add_chunks_to(CLI::App& app, int64_t& chunks, const std::string& what);
    int64_t ctx() const { return asked_ctx.value_or(512); }
    int64_t batch(int64_t ctx) const;  ///< default_batch(), unless asked for
};

/// Where results for people go: not where a file was asked for.
/// Throws Error(usage) if both files are "-".
std::FILE* results_beside(const std::string& json, const std::string& csv);

/// Adds --json FILE ("-" is standard output).
void add_json_flag(CLI::App& app, std::string& path);

/// "0.1.0 (065aefcbdd12)": the version, and the commit it was built from.
std::string version_of_build();

/// Parses the command line and runs the tool's body, whose result is the exit code. Adds --version
/// and --list-backends, prints `examples` (whole lines) under --help.
/// Every exception becomes one line "rotkv-x: error: ..." and exit code 1; 2 for parse errors and
/// Error(usage).
int run_tool(CLI::App& app, int argc, char** argv, const std::string& examples,
             const std::function<int()>& body, RunAs program = RunAs::one_process);

/// A llama.cpp command line in terms that CLI11 can parse.
struct Rewritten {
    std::vector<std::string> arguments;  ///< the last first, as CLI11 takes them
    std::vector<std::string> ignored;    ///< flags without a meaning here, left out of `arguments`
};

/// -ctk q8_0 becomes --cache-type-k q8_0; -ngl 99, -fa on and their like are taken out, with their
/// values, unless `app` has such an option. Throws Error(usage) for other flags of one dash and
/// several letters, which CLI11 reads as -f with the value "oo", and for --x= without a value.
Rewritten rewrite_llama_spellings(const CLI::App& app, const std::vector<std::string>& arguments);

/// Writes the document, indented; invalid UTF-8 is replaced, a NaN becomes null.
/// Throws Error(io). Does nothing for an empty path.
void write_json(const std::string& path, const nlohmann::ordered_json& document);

/// The bytes of a text file. Throws Error(io), Error(bad_file) for a GGUF file.
std::string read_text(const std::string& path);

}  // namespace rotkv::tools
