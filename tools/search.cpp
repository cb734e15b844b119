// rotkv-search: the best cache for so many bytes: pairs of types, and types for each layer, chosen
// by what parts of the cache cost alone and run on windows that the choice has not seen.
// Docs: docs/26-search.md

#include "ref/error.h"
#include "tools/compare/not_numbers.h"
#include "tools/compare/precision_floor.h"
#include "tools/layer_words.h"
#include "tools/list_flags.h"
#include "tools/plot.h"
#include "tools/search_report.h"
#include "tools/search_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace rotkv::tools {
namespace {

constexpr int64_t k_most = int64_t(1) << 20;

struct Flags {
    ModelFlags model;
    std::string text, bits, bytes, types = usual_types(), rot = "off,auto";
    std::string json, plot;
    int64_t ctx = 256, chunks = 8, held_out = 6, layer_chunks = 1, groups = 16;
    bool quiet = false;

    void add_to(CLI::App& app);
    void check() const;

    std::FILE* results() const { return results_beside(json, ""); }
};

void Flags::add_to(CLI::App& app) {
    model.add_to(app);
    app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
    app.add_option("--bits", bits, "budgets in bits per value, separated by commas (default: 5)")
        ->check(refuse_empty)
        ->type_name("LIST");
    app.add_option("--bytes", bytes, "budgets in bytes per token, in place of --bits")
        ->check(refuse_empty)
        ->type_name("LIST");
    app.add_option("--types", types, "what K and V may be kept in")
        ->capture_default_str()
        ->type_name("TYPES");
    app.add_option("--rot", rot, std::string("rotations of either side: ") + rotation_choices())
        ->capture_default_str()
        ->type_name("LIST");
    add_whole(app, "-c,--ctx-size", ctx, 3, k_most, "tokens per window");
    add_whole(app, "--chunks", chunks, 4, k_most, "windows, those held out included");
    add_whole(app, "--held-out", held_out, 2, k_most,
              "of these the last, on which finalists are run");
    add_whole(app, "--layer-chunks", layer_chunks, 1, k_most,
              "of the others the first, on which groups of layers are run alone");
    add_whole(app, "--groups", groups, 1, k_most,
              "groups of neighbouring layers at most, which have their types together");
    add_json_flag(app, json);
    app.add_option("--plot", plot, "draw what --json FILE holds")->type_name("FILE.png");
    app.add_flag("--quiet", quiet, "no progress");
}

void Flags::check() const {
    if (!bits.empty() && !bytes.empty()) {
        throw Error(ErrorCode::usage, "--bits and --bytes: expected one of them");
    }
    if (held_out > chunks - 2) {
        throw Error(ErrorCode::usage,
                    fmt::format("--held-out {}: expected at most {}, two less than --chunks",
                                held_out, chunks - 2));
    }
    if (layer_chunks > chunks - held_out) {
        throw Error(ErrorCode::usage, fmt::format("--layer-chunks {}: expected at most the {} "
                                                  "windows that are not held out",
                                                  layer_chunks, chunks - held_out));
    }
    if (!plot.empty() && (json.empty() || json == "-")) {
        throw Error(ErrorCode::usage, "--plot draws what --json FILE holds, which is missing");
    }
    check_paths({{"-m", model.path}, {"-f", text}}, {{"--json", json}, {"--plot", plot}});
}

// Each in bytes of a token, none below what the smallest cache takes.
std::vector<Budget> budgets_of(const Flags& flags, const DamageModel& damage, int64_t values) {
    const bool in_bytes = !flags.bytes.empty();
    const char* const flag = in_bytes ? "--bytes" : "--bits";
    const int64_t fewest = fewest_bytes(damage);
    std::vector<Budget> budgets;
    const std::string list = in_bytes ? flags.bytes : flags.bits.empty() ? "5" : flags.bits;
    for (const std::string& part : parts_of(flag, list)) {
        Budget budget{part + (in_bytes ? " bytes" : " bits"), 0};
        // 1e-9: 4.1 bits are meant where their nearest double is a little less
        budget.bytes = in_bytes ? parse_whole(flag, part, 1, int64_t(1) << 40)
                                : int64_t(std::floor(parse_real(flag, part, 0.01, 64) *
                                                     double(values) / 8 * (1 + 1e-9)));
        if (budget.bytes < fewest) {
            throw Error(ErrorCode::usage,
                        fmt::format("{} {}: expected at least the {} bytes per token ({:g} bits "
                                    "per value) of the smallest cache of --types",
                                    flag, part, fewest, 8 * double(fewest) / double(values)));
        }
        budgets.push_back(std::move(budget));
    }
    return budgets;
}

WindowPlan plan_of(const Flags& flags, LoadedModel& loaded) {
    WindowPlan plan = plan_windows(tokens_of_text(loaded, read_text(flags.text)), flags.ctx,
                                   default_batch(flags.ctx), flags.chunks, loaded.bos_of_windows());
    if (plan.windows < flags.chunks) {
        throw Error(ErrorCode::usage,
                    fmt::format("the text has {} windows of {} tokens, expected {}: {} to choose "
                                "by and {} held out",
                                plan.windows, plan.ctx, flags.chunks, flags.chunks - flags.held_out,
                                flags.held_out));
    }
    loaded.note_windows(plan, flags.chunks);
    return plan;
}

// Runs all finalists on the windows held out; a line for each that is not a number.
void run_finalists(std::vector<Finalist>& finalists, ExactBeside& exact, SearchProgress& progress,
                   std::vector<std::string>& lines) {
    progress.begin("finalists on windows held out", int64_t(finalists.size()));
    for (Finalist& finalist : finalists) {
        finalist.kld = exact.measure(finalist.point);
        if (is_number(mean_of(finalist.kld).value)) continue;
        lines.push_back(finalist.point.variant.name + " is not a number on windows held out");
    }
}

SearchResult search(const Flags& flags, LoadedModel& loaded, const WindowPlan& plan,
                    std::vector<std::string>& lines) {
    SearchSpace space{types_of("--types", flags.types), rotations_of("--rot", flags.rot),
                      flags.groups};
    space.types = fitting_types(loaded.model, space.types, [&](const std::string& why) {
        loaded.note("left out of --types: " + why);
    });
    SearchResult result;
    result.damage = empty_damage(loaded.model, space);
    result.values_per_token =
        values_per_token(loaded.model.config().cache_shape(1, 1, DType::f32, DType::f32));
    result.budgets = budgets_of(flags, result.damage, result.values_per_token);
    result.side_windows = flags.chunks - flags.held_out;
    result.layer_windows = flags.layer_chunks;
    result.held_out = flags.held_out;
    result.ctx = flags.ctx;

    SearchProgress progress(flags.quiet);
    ExactBeside sides(loaded.model, windows_of(plan, 0, result.side_windows), progress);
    ExactBeside layers(loaded.model, windows_of(plan, 0, result.layer_windows), progress);
    ExactBeside held_out(loaded.model, windows_of(plan, result.side_windows, result.held_out),
                         progress);
    measure_damage(result.damage, sides, layers, progress, lines);
    const auto make = [&](const Variant& variant) { return held_out.point(variant); };
    result.nominated = nominate(result.damage, result.budgets, make, result.finalists);
    run_finalists(result.finalists, held_out, progress, lines);
    for (std::size_t b = 0; b < result.budgets.size(); ++b) {
        result.answers.push_back(
            judge(result.finalists, result.nominated[b], result.budgets[b].bytes));
    }
    result.windows_read = progress.windows();
    result.seconds = progress.seconds();
    return result;
}

int run_search(const Flags& flags) {
    flags.check();
    std::optional<Plotter> plotter;
    if (!flags.plot.empty()) plotter.emplace();
    LoadedModel loaded(flags.model, flags.ctx);
    const WindowPlan plan = plan_of(flags, loaded);
    if (!flags.quiet) {
        fmt::print(stderr, "{} on {} ({})\n{}\n", flags.model.path, loaded.backend->name(),
                   loaded.backend->description(), describe_windows(plan));
    }
    std::vector<std::string> lines;
    const SearchResult result = search(flags, loaded, plan, lines);
    print_search(flags.results(), result);
    for (const std::string& line : lines) fmt::print(flags.results(), "{}\n", line);
    nlohmann::ordered_json json = {{"version", version_of_build()},
                                   {"model", flags.model.path},
                                   {"text", flags.text},
                                   {"notices", loaded.notices},
                                   {"backend", loaded.backend->name()},
                                   {"device", loaded.backend->description()},
                                   {"precision", json_of(loaded.model.options().precision)},
                                   {"bos", bos_of(plan)}};
    json.update(json_of(result));
    json["not_numbers"] = lines;
    write_json(flags.json, json);
    const bool any = std::ranges::any_of(
        result.answers, [](const Answer& answer) { return answer.choice().has_value(); });
    if (plotter && any) plotter->draw({"search", flags.json, flags.plot});
    end_without_numbers(lines);
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
    return run_tool(app, argc, argv, k_examples, [&]() { return run_search(flags); });
}
