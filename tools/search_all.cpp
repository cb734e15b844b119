#include "tools/search_all.h"

#include "ref/error.h"
#include "tools/compare/precision_floor.h"
#include "tools/layer_words.h"
#include "tools/search_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace rotkv::tools {

constexpr int64_t k_most = int64_t(1) << 20;

void SearchOptions::add_to(CLI::App& app) {
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
}

void SearchOptions::check() const {
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
}

namespace {

// Each in bytes of a token, none below what the smallest cache takes.
std::vector<Budget> budgets_of(const SearchOptions& options, const DamageModel& damage,
                               int64_t values) {
    const bool in_bytes = !options.bytes.empty();
    const char* const flag = in_bytes ? "--bytes" : "--bits";
    const int64_t fewest = fewest_bytes(damage);
    std::vector<Budget> budgets;
    const std::string list = in_bytes ? options.bytes : options.bits.empty() ? "5" : options.bits;
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

WindowPlan plan_of(const SearchOptions& options, LoadedModel& loaded, const std::string& text) {
    WindowPlan plan =
        plan_windows(tokens_of_text(loaded, text), options.ctx, default_batch(options.ctx),
                     options.chunks, loaded.bos_of_windows());
    if (plan.windows < options.chunks) {
        throw Error(ErrorCode::usage,
                    fmt::format("the text has {} windows of {} tokens, expected {}: {} to choose "
                                "by and {} held out",
                                plan.windows, plan.ctx, options.chunks,
                                options.chunks - options.held_out, options.held_out));
    }
    loaded.note_windows(plan, options.chunks);
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

SearchResult search(const SearchOptions& options, LoadedModel& loaded, const WindowPlan& plan,
                    SearchProgress& progress, std::vector<std::string>& lines) {
    SearchSpace space{types_of("--types", options.types), rotations_of("--rot", options.rot),
                      options.groups};
    space.types = fitting_types(loaded.model, space.types, [&](const std::string& why) {
        loaded.note("left out of --types: " + why);
    });
    SearchResult result;
    result.damage = empty_damage(loaded.model, space);
    result.values_per_token =
        values_per_token(loaded.model.config().cache_shape(1, 1, DType::f32, DType::f32));
    result.budgets = budgets_of(options, result.damage, result.values_per_token);
    result.side_windows = options.chunks - options.held_out;
    result.layer_windows = options.layer_chunks;
    result.held_out = options.held_out;
    result.ctx = options.ctx;

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

}  // namespace

bool SearchRun::any_choice() const {
    return std::ranges::any_of(result.answers,
                               [](const Answer& answer) { return answer.choice().has_value(); });
}

SearchRun run_search(LoadedModel& loaded, const std::string& text, const SearchOptions& options,
                     bool quiet, const RunWatch& watch) {
    options.check();
    SearchRun run;
    run.plan = plan_of(options, loaded, text);
    watch.say_planned(run.plan);
    SearchProgress progress(quiet, watch.step);
    run.result = search(options, loaded, run.plan, progress, run.not_numbers);
    return run;
}

nlohmann::ordered_json json_of(const LoadedModel& loaded, const SearchRun& run,
                               const std::string& text) {
    nlohmann::ordered_json json = {{"version", version_of_build()},
                                   {"model", loaded.file.path()},
                                   {"text", text},
                                   {"notices", loaded.notices},
                                   {"backend", loaded.backend->name()},
                                   {"device", loaded.backend->description()},
                                   {"precision", json_of(loaded.model.options().precision)},
                                   {"bos", bos_of(run.plan)}};
    json.update(json_of(run.result));
    json["not_numbers"] = run.not_numbers;
    return json;
}

}  // namespace rotkv::tools
