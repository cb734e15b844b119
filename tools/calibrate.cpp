// rotkv-calibrate: rotations of K and V made for a model from a text, one for each layer and KV
// head, and whether they keep on text that they were not made from what they promise.
// Docs: docs/23-matrix-rotations.md

#include "ref/files/output_file.h"
#include "tools/calibrate_run.h"
#include "tools/compare/not_numbers.h"
#include "tools/layer_words.h"
#include "tools/output_paths.h"

#include <fmt/format.h>
#include <xtensor/xadapt.hpp>
#include <xtensor/xnpy.hpp>

#include <string>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-calibrate";

struct Flags {
    ModelFlags model;
    CalibrateOptions options;
    std::string text, out, json;
    bool quiet = false;

    std::string file_of(Side side) const { return out + (side == Side::k ? "-k.npy" : "-v.npy"); }

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
        app.add_option("-o,--out", out, "write PREFIX-k.npy and PREFIX-v.npy")
            ->required()
            ->type_name("PREFIX");
        options.add_to(app);
        add_json_flag(app, json);
        app.add_flag("--quiet", quiet, "no progress");
    }
};

void print_side(std::FILE* out, const CalibratedSide& report) {
    fmt::print(out, "\n{} in {}, {} heads: {}\n", letter(report.side), report.type.name(),
               report.heads,
               report.side == Side::k ? "mean square of q.e over that of q.k"
                                      : "mean square of the error over that of the value");
    fmt::print(out, "  {:<12} {:>12} {:>12} {:>14}\n", "rotation", "expected", "held out",
               "heads worse");
    for (std::size_t i = 0; i < report.ways.size(); ++i) {
        fmt::print(out, "  {:<12} {:>12.5g} {:>12.5g} {:>14}\n", report.ways[i],
                   report.errors[i].learnt, report.errors[i].held_out, report.errors[i].worse);
    }
}

void write_matrices(const std::string& path, const CalibratedSide& side) {
    OutputFile file(path);
    file.write(xt::dump_npy(xt::adapt(side.matrices, side.shape)));
    file.finish();
}

RunWatch watch_of(const Flags& flags) {
    if (flags.quiet) return {};
    return {.planned = {}, .step = [](int64_t done, int64_t all) {
                fmt::print(stderr, "{}: window {} of {}\n", k_tool, done, all);
            }};
}

int run_program(const Flags& flags) {
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}}, {{"--out", flags.file_of(Side::k)},
                                                                 {"--out", flags.file_of(Side::v)},
                                                                 {"--json", flags.json}});
    LoadedModel loaded(flags.model, flags.options.ctx);
    const CalibrateRun run =
        run_calibrate(loaded, read_text(flags.text), flags.options, watch_of(flags));
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    const int64_t held_out = flags.options.held_out;
    fmt::print(
        out, "{}: {} windows of {} tokens to learn from, {} held out; {} of {} in the text{}\n",
        flags.options.kind, run.plan.windows - held_out, run.plan.ctx, held_out, run.plan.windows,
        run.in_text, run.plan.windows < run.in_text ? ", the rest is not read (--chunks)" : "");
    for (const CalibratedSide& side : run.sides) {
        print_side(out, side);
        write_matrices(flags.file_of(side.side), side);
    }
    for (const std::string& line : run.not_numbers) fmt::print(out, "{}\n", line);
    fmt::print(out, "\nuse: --rot-k file:{} --rot-v file:{}\n", flags.file_of(Side::k),
               flags.file_of(Side::v));
    write_json(flags.json, json_of(loaded, run, flags.options));
    end_without_numbers(run.not_numbers);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-calibrate -m model.gguf -f text.txt -o model\n"
    "  rotkv-calibrate -m model.gguf -f text.txt -o model --kind pca -ctk q4_1 --chunks 32\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Rotations of K and V from a text, and what they come to on text held out.",
                 "rotkv-calibrate");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_program(flags); });
}
