// rotkv-search: the best cache for so many bytes: pairs of types, and types for each layer, chosen
// by what parts of the cache cost alone and run on windows that the choice has not seen.
// Docs: docs/26-search.md

#include "ref/error.h"
#include "tools/compare/not_numbers.h"
#include "tools/output_paths.h"
#include "tools/plot.h"
#include "tools/search_all.h"

#include <fmt/format.h>

#include <cstdio>
#include <optional>
#include <string>

namespace rotkv::tools {
namespace {

struct Flags {
    ModelFlags model;
    SearchOptions options;
    std::string text, json, plot;
    bool quiet = false;

    void add_to(CLI::App& app);
    void check() const;

    std::FILE* results() const { return results_beside(json, ""); }
};

void Flags::add_to(CLI::App& app) {
    model.add_to(app);
    app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
    options.add_to(app);
    add_json_flag(app, json);
    app.add_option("--plot", plot, "draw what --json FILE holds")->type_name("FILE.png");
    app.add_flag("--quiet", quiet, "no progress");
}

void Flags::check() const {
    options.check();
    if (!plot.empty() && (json.empty() || json == "-")) {
        throw Error(ErrorCode::usage, "--plot draws what --json FILE holds, which is missing");
    }
    check_paths({{"-m", model.path}, {"-f", text}}, {{"--json", json}, {"--plot", plot}});
}

int run_program(const Flags& flags) {
    flags.check();
    std::optional<Plotter> plotter;
    if (!flags.plot.empty()) plotter.emplace();
    LoadedModel loaded(flags.model, flags.options.ctx);
    RunWatch watch;
    watch.planned = [&](const WindowPlan& plan) {
        if (flags.quiet) return;
        fmt::print(stderr, "{} on {} ({})\n{}\n", flags.model.path, loaded.backend->name(),
                   loaded.backend->description(), describe_windows(plan));
    };
    const SearchRun run =
        run_search(loaded, read_text(flags.text), flags.options, flags.quiet, watch);
    print_search(flags.results(), run.result);
    for (const std::string& line : run.not_numbers) fmt::print(flags.results(), "{}\n", line);
    write_json(flags.json, json_of(loaded, run, flags.text));
    if (plotter && run.any_choice()) plotter->draw({"search", flags.json, flags.plot});
    end_without_numbers(run.not_numbers);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-search -m model.gguf -f wiki.test.raw --bits 5\n"
    "  rotkv-search -m model.gguf -f wiki.test.raw --bits 4.5,5,5.5,6,7,8.5 --json search.json "
    "--plot search.png\n"
    "  rotkv-search -m model.gguf -f wiki.test.raw --bytes 5000 --types q8_0,q4_0,tqmse3:lsq "
    "--groups 30 --layer-chunks 2\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("The best cache for so many bytes: types of K and V, rotation, layer by layer.",
                 "rotkv-search");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_program(flags); });
}
