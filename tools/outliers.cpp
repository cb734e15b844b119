// rotkv-outliers: what stands between a model's keys and values and few bits, and whether a
// rotation takes it away: statistics of every head, errors of every type, advice per side.
// Docs: docs/11-outliers.md

#include "ref/error.h"
#include "tools/compare/not_numbers.h"
#include "tools/compare/precision_floor.h"
#include "tools/outlier_files.h"
#include "tools/outlier_report.h"
#include "tools/outlier_run.h"
#include "tools/plot.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-outliers";

struct Flags {
    ModelFlags model;
    OutlierOptions options;
    std::string text, json, csv, npy, plot;
    bool quiet = false;

    std::string picture() const { return plot.empty() ? "" : plot + "-outliers.png"; }

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
        options.add_to(app);
        add_json_flag(app, json);
        app.add_option("--csv", csv, "write every head's figures here")->type_name("FILE");
        app.add_option("--npy", npy, "make this folder and write all Q, K, V into it")
            ->type_name("DIR");
        app.add_option("--plot", plot, "draw the rows of --npy into PREFIX-outliers.png")
            ->type_name("PREFIX");
        app.add_flag("--quiet", quiet, "print errors and advice only, no heads, no progress");
    }
};

// "64", or one a layer with rows of its own where they differ: "256,256,512".
std::string blocks_of(const Survey& survey, CapturedRows::What side) {
    std::vector<int64_t> blocks;
    for (std::size_t l = 0; l < survey.plan().layers.size(); ++l) {
        const SurveyLayer& layer = survey.plan().layers[l];
        const bool own = layer.kv_heads > 0 && layer.rows_of == int64_t(l);
        if (own) blocks.push_back(layer.block(side));
    }
    const bool alike = std::ranges::count(blocks, blocks[0]) == std::ssize(blocks);
    return alike ? std::to_string(blocks[0]) : fmt::format("{}", fmt::join(blocks, ","));
}

RunWatch watch_of(const Flags& flags, const LoadedModel& loaded) {
    if (flags.quiet) return {};
    return {.planned =
                [&](const WindowPlan& plan) {
                    fmt::print(stderr, "{} on {} ({}), {}\n", flags.model.path,
                               loaded.backend->name(), loaded.backend->description(),
                               describe_windows(plan));
                },
            .step =
                [](int64_t done, int64_t all) {
                    fmt::print(stderr, "{}: window {} of {}\n", k_tool, done, all);
                }};
}

int run_program(const Flags& flags) {
    if (flags.json == "-" && flags.csv == "-") {
        throw Error(ErrorCode::usage, "--json and --csv: standard output takes one of them");
    }
    if (!flags.plot.empty() && flags.npy.empty()) {
        throw Error(ErrorCode::usage, "--plot draws the rows that --npy DIR writes");
    }
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}, {"--npy", flags.npy}},
                {{"--json", flags.json}, {"--csv", flags.csv}, {"--plot", flags.picture()}});
    check_new_folder({"--npy", flags.npy});
    std::optional<Plotter> plotter;
    if (!flags.plot.empty()) plotter.emplace();
    OutlierOptions options = flags.options;
    options.keep_rows = !flags.npy.empty();
    LoadedModel loaded(flags.model, options.ctx);
    const OutlierRun run =
        run_outliers(loaded, read_text(flags.text), options, watch_of(flags, loaded));
    const Survey& survey = run.survey;

    std::FILE* out = flags.json == "-" || flags.csv == "-" ? stderr : stdout;
    const ModelPrecision precision = loaded.model.options().precision;
    if (precision != ModelPrecision{}) fmt::print(out, "model with {}\n", words_of(precision));
    print_layers(out, survey);
    if (!flags.quiet) print_heads(out, survey);
    print_errors(out, survey);
    print_advice(out, survey);
    for (const std::string& line : run.not_numbers) fmt::print(out, "{}\n", line);
    write_json(flags.json, json_of(loaded, run));
    if (!flags.csv.empty()) write_csv(flags.csv, survey);
    if (!flags.npy.empty()) write_npy(flags.npy, survey);
    if (plotter) {
        plotter->draw({"outliers", flags.npy, flags.plot, blocks_of(survey, CapturedRows::What::k),
                       blocks_of(survey, CapturedRows::What::v)});
    }
    end_without_numbers(run.not_numbers);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-outliers -m model.gguf -f wiki.test.raw\n"
    "  rotkv-outliers -m model.gguf -f wiki.test.raw --chunks 8 -ctk q4_1 -ctv q4_0 --quiet\n"
    "  rotkv-outliers -m model.gguf -f wiki.test.raw --csv heads.csv --npy rows "
    "--plot model\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Outliers of a model's Q, K and V, and what rotation does to each cache type.",
                 "rotkv-outliers");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_program(flags); });
}
