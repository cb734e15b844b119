// rotkv-sweep: every K type with every V type, rotated and not: perplexity and KL divergence from a
// base, in one file that can be continued after any interruption.
// Docs: docs/12-sweeps.md

#include "ref/error.h"
#include "tools/compare/not_numbers.h"
#include "tools/notes.h"
#include "tools/output_paths.h"
#include "tools/plot.h"
#include "tools/sweep_all.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-sweep";

struct Flags {
    ModelFlags model;
    SweepOptions options;
    std::string text, plot, json, csv;
    bool quiet = false;

    void add_to(CLI::App& app);

    void check() const;

    std::FILE* results() const { return results_beside(json, csv); }
};

void Flags::check() const {
    static_cast<void>(results());
    std::vector<NamedPath> outputs{{"--out", options.out}, {"--json", json}, {"--csv", csv}};
    if (!plot.empty() && options.formats.empty()) {
        for (const char* end : {"-ppl.png", "-kld.png", "-pareto.png"}) {
            outputs.push_back({"--plot", plot + end});
        }
    } else if (!plot.empty()) {
        outputs.push_back({"--plot", plot + "-formats.png"});
    }
    check_paths({{"-m", model.path}, {"-f", text}}, outputs);
}

void Flags::add_to(CLI::App& app) {
    model.add_to(app);
    app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
    options.add_to(app);
    app.get_option("--out")->required();
    app.add_option("--plot", plot,
                   "draw PREFIX-ppl.png, PREFIX-kld.png and PREFIX-pareto.png; of --formats "
                   "PREFIX-formats.png")
        ->type_name("PREFIX");
    add_json_flag(app, json);
    app.add_option("--csv", csv, "also write the cells as a table; - is standard output")
        ->type_name("FILE");
    app.add_flag("--quiet", quiet, "no progress");
}

void say_start(const Flags& flags, const LoadedModel& loaded, const SweepStart& start) {
    if (start.torn_bytes > 0) {
        say_note(k_tool, fmt::format("{}: its last line was torn, {} bytes dropped",
                                     flags.options.out, start.torn_bytes));
    }
    if (flags.quiet) return;
    fmt::print(stderr, "{} on {} ({})\nbase {}, {}\n", flags.model.path, loaded.backend->name(),
               loaded.backend->description(), flags.options.base, describe_windows(start.plan));
    if (!start.keeps_base) {
        fmt::print(stderr, "the base does not fit into --base-memory {}: computed for every cell\n",
                   flags.options.base_memory);
    }
    if (start.there > 0) {
        fmt::print(stderr, "{}: {} of {} cells are there\n", flags.options.out, start.there,
                   start.cells);
    }
    if (start.there < start.cells && !flags.options.so_far) {
        fmt::print(stderr, "the base comes first\n");
    }
}

int run_program(const Flags& flags) {
    flags.check();
    std::optional<Plotter> plotter;
    if (!flags.plot.empty() && ranks().first()) plotter.emplace();
    const SweepAsked asked(flags.options);
    const NamedText text{flags.text, read_text(flags.text)};
    LoadedModel loaded(flags.model, flags.options.windows.ctx());
    const SweepAnswer answer =
        run_sweep(loaded, text, flags.options, asked, flags.quiet, {},
                  [&](const SweepStart& start) { say_start(flags, loaded, start); });
    if (!ranks().first()) return k_good;

    const SweepResult& result = answer.result;
    print_sweep(flags.results(), result);
    write_json(flags.json, json_of(answer));
    write_csv(flags.csv, result);
    // Where nothing is a number there is nothing to draw, and that is what should be said.
    const bool nothing =
        !answer.not_numbers.empty() && std::ranges::none_of(result.rows, &SweepRow::is_number);
    if (plotter && !nothing && result.same) {
        plotter->draw({"formats", flags.options.out, flags.plot + "-formats.png"});
    } else if (plotter && !nothing) {
        plotter->draw({"sweep", flags.options.out, flags.plot});
    }
    end_without_numbers(answer.not_numbers);
    answer.require_measured();
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-sweep -m model.gguf -f wiki.test.raw --chunks 4 --out sweep.jsonl --plot sweep\n"
    "  rotkv-sweep -m model.gguf -f wiki.test.raw -ctk q8_0,q4_0 -ctv q8_0,q4_0 --rot off,auto,32 "
    "--out small.jsonl\n"
    "  rotkv-sweep -m model.gguf -f wiki.test.raw -c 256 --chunks 8 --formats all --rot "
    "off,64,signed:1,signed:2 --out formats.jsonl --plot zoo\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Perplexity and KL divergence of every K type with every V type, rotated and not.",
                 "rotkv-sweep");
    Flags flags;
    flags.add_to(app);
    return run_tool(
        app, argc, argv, k_examples, [&]() { return run_program(flags); }, RunAs::many);
}
