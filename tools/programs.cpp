#include "tools/programs.h"

#include "ref/error.h"
#include "tools/calibrate_run.h"
#include "tools/cli.h"
#include "tools/fuse_run.h"
#include "tools/outlier_run.h"
#include "tools/output_paths.h"
#include "tools/search_all.h"
#include "tools/sweep_all.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace rotkv::tools {

namespace {

using Json = nlohmann::ordered_json;
using Flags = std::vector<std::string>;

// The options that flags ask for.
template <class Options>
Options read_flags(const Flags& flags) {
    Options options;
    CLI::App app;
    app.set_help_flag();
    options.add_to(app);
    Rewritten line = rewrite_llama_spellings(app, flags);
    for (const std::string& flag : line.ignored) {
        throw Error(ErrorCode::usage, flag + ": without a meaning here");
    }
    try {
        app.parse(line.arguments);
    } catch (const CLI::ParseError& error) {
        throw Error(ErrorCode::usage, error.what());
    }
    return options;
}

Json outliers(const Flags& flags, const std::string& text, const ProgramCall& call) {
    const auto options = read_flags<OutlierOptions>(flags);
    const std::unique_ptr<LoadedModel> loaded = call.open(options.ctx);
    return json_of(*loaded, run_outliers(*loaded, text, options, call.watch));
}

Json sweep(const Flags& flags, const std::string& text, const ProgramCall& call) {
    const auto options = read_flags<SweepOptions>(flags);
    const SweepAsked asked(options);
    check_paths({{"-m", call.parts.file->path()}}, {{"--out", options.out}});
    const std::unique_ptr<LoadedModel> loaded = call.open(options.windows.ctx());
    const SweepAnswer answer = run_sweep(*loaded, {"", text}, options, asked, true, call.watch, {});
    answer.require_measured();
    return json_of(answer);
}

Json search(const Flags& flags, const std::string& text, const ProgramCall& call) {
    const auto options = read_flags<SearchOptions>(flags);
    const std::unique_ptr<LoadedModel> loaded = call.open(options.ctx);
    return json_of(*loaded, run_search(*loaded, text, options, true, call.watch), "");
}

Json calibrate(const Flags& flags, const std::string& text, const ProgramCall& call) {
    const auto options = read_flags<CalibrateOptions>(flags);
    const std::unique_ptr<LoadedModel> loaded = call.open(options.ctx);
    const CalibrateRun run = run_calibrate(*loaded, text, options, call.watch);
    for (const CalibratedSide& side : run.sides) {
        if (call.show_matrices) call.show_matrices(side.side, side.matrices, side.shape);
    }
    return json_of(*loaded, run, options);
}

Json fuse(const Flags& flags, const std::string& text, const ProgramCall& call) {
    const auto options = read_flags<FuseOptions>(flags);
    const std::string& path = call.parts.file->path();
    check_paths({{"-m", path}}, {{"-o", options.output}});
    const bool phi3_window = call.weights.options().phi3_window;
    const auto open = [&](const std::string& of, int64_t context) {
        if (of == path) return call.open(context);
        auto file = std::make_shared<const GgufFile>(GgufFile::open(of));
        auto tokenizer = std::make_shared<const Tokenizer>(Tokenizer::from_gguf(*file));
        ModelOptions same = call.weights.options();
        same.context = context;
        const Model weights(*file, *call.parts.backend, same);
        return std::make_unique<LoadedModel>(
            ModelParts{std::move(file), std::move(tokenizer), call.parts.backend}, weights,
            context);
    };
    const FuseRun run =
        run_fuse(path, options, phi3_window, options.verify ? std::optional(text) : std::nullopt,
                 open, call.watch);
    require_same_predictions(path, options, run);
    return json_of(path, options, run);
}

struct Program {
    const char* name;
    Json (*run)(const Flags& flags, const std::string& text, const ProgramCall& call);
};

constexpr Program k_programs[] = {{"calibrate", calibrate},
                                  {"fuse", fuse},
                                  {"outliers", outliers},
                                  {"search", search},
                                  {"sweep", sweep}};

}  // namespace

std::vector<std::string> program_names() {
    std::vector<std::string> names;
    for (const Program& program : k_programs) names.emplace_back(program.name);
    return names;
}

nlohmann::ordered_json run_program(const std::string& name, const std::vector<std::string>& flags,
                                   const std::string& text, const ProgramCall& call) {
    const auto found = std::ranges::find(k_programs, name, &Program::name);
    if (found != std::end(k_programs)) return found->run(flags, text, call);
    std::string known;
    for (const std::string& one : program_names()) known += (known.empty() ? "" : ", ") + one;
    throw Error(ErrorCode::usage, "expected one of " + known + ", found '" + name + "'");
}

}  // namespace rotkv::tools
