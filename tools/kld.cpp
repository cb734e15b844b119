// rotkv-kld: several caches against a base cache, in lock-step over the same tokens of a text, so
// that they can be compared with each other and with what the instrument itself cannot tell apart.
// Docs: docs/07-measuring.md

#include "ref/error.h"
#include "tools/compare/by_layer.h"
#include "tools/compare/explain_report.h"
#include "tools/compare/kld_not_numbers.h"
#include "tools/compare/kld_tables.h"
#include "tools/compare/precision_floor.h"
#include "tools/list_flags.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-kld";

struct Flags {
    ModelFlags model;
    WindowFlags windows;
    std::string text, base = "k=f32,v=f32", layers, json, csv;
    std::vector<std::string> variants;
    std::optional<double> stop;
    int64_t shifts = 0;
    std::optional<int64_t> keep;
    LockStepOptions options;
    bool by_side = false, by_layer = false, explain = false, full = false, quiet = false;

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
        app.add_option(
               "--variant", variants,
               "a cache: k=TYPE,v=TYPE,rot=WHAT,rot-k=WHAT,rot-v=WHAT,signs=SEED,first=N,"
               "recent=N,ends=TYPE:N,k:LAYERS=TYPE,v:LAYERS=TYPE,kbias=on, each as "
               "needed, layers as 0-2+7; a type that is not named is the base's; once per cache")
            ->required()
            ->allow_extra_args(false)
            ->type_name("CACHE");
        app.add_option("--base", base, "the cache they are compared with")
            ->capture_default_str()
            ->type_name("CACHE");
        windows.add_to(app);
        add_whole(app, "--shift", shifts, 1, int64_t(1) << 20,
                  "go on behind the end of each window: N times drop the older half of what --keep "
                  "does not keep, turn the keys of the rest, and read as much again; scored is "
                  "what is read behind a shift")
            ->default_str("");
        add_whole(app, "--keep", keep, 0, int64_t(1) << 20,
                  "of --shift: so many of the first tokens stay, beside BOS")
            ->default_str("0");
        app.add_flag("--by-side", by_side, "each variant also with only K, only V as it says");
        app.add_flag("--by-layer", by_layer,
                     "each variant also in one layer alone, the others as in the base");
        app.add_option("--layers", layers, "of --by-layer: which, as 0,5-9 (default: all)")
            ->check(refuse_empty)
            ->type_name("LIST");
        app.add_flag("--explain", explain,
                     "split the error of attention outputs: keys, values, temperature");
        app.add_flag("--full", full, "at the end also llama-perplexity's whole block per variant");
        add_whole(app, "--jitter", options.jitter, 1, int64_t(1) << 20,
                  "repeat every cache N times, each with one bit of the first norm changed")
            ->default_str("");
        app.add_option_function<std::string>(
               "--stop",
               [this](const std::string& text) { stop = parse_real("--stop", text, 50, 99.9999); },
               "stop when the first two variants differ with this certainty in per cent")
            ->type_name("P");
        app.add_flag("--round-base", options.round_base,
                     "round the base's log-probabilities to 16 bits, as a base file does");
        add_json_flag(app, json);
        app.add_option("--csv", csv, "also write every scored position; - is standard output")
            ->type_name("FILE");
        app.add_flag("--quiet", quiet, "no progress");
    }

    void check() const {
        if (stop && variants.size() < 2) {
            throw Error(ErrorCode::usage, "--stop compares two variants, found one");
        }
        if (!layers.empty() && !by_layer) {
            throw Error(ErrorCode::usage, "--layers says which of --by-layer, which is missing");
        }
        if (keep && shifts == 0) {
            throw Error(ErrorCode::usage, "--keep says what stays at a shift, expected --shift");
        }
        if (shifts > 0 && (by_layer || explain)) {  // they look at layers of other caches
            throw Error(ErrorCode::usage, std::string("--shift moves the keys of whole caches, "
                                                      "expected no ") +
                                              (by_layer ? "--by-layer" : "--explain"));
        }
        static_cast<void>(results());
        check_paths({{"-m", model.path}, {"-f", text}}, {{"--json", json}, {"--csv", csv}});
    }

    WindowShifts shifts_of_windows(bool has_bos) const {
        if (shifts == 0) return {};
        return {.times = shifts, .keep = keep.value_or(0) + (has_bos ? 1 : 0)};
    }

    std::FILE* results() const { return results_beside(json, csv); }
};

using Time = std::chrono::steady_clock::time_point;

double seconds_since(Time start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void print_progress(const LockStep& run, double seconds) {
    const double left =
        seconds * double(run.plan().windows - run.windows()) / double(run.windows());
    fmt::print(stderr, "[{}]", run.windows());
    for (const MeasuredCache& variant : run.variants()) {
        fmt::print(stderr, " {:.6f}", mean_of(figures_of(variant.pairs, &TokenPair::kld)).value);
    }
    fmt::print(stderr, ", about {:.0f} s left\n", left);
}

// Group after group, until the text or the doubt ends.
std::optional<StopResult> measure(LockStep& run, const Flags& flags, Time start) {
    std::optional<StoppingRule> rule;
    std::optional<StopResult> stop;
    if (flags.stop) {
        rule.emplace(*flags.stop / 100);
        stop = StopResult{*flags.stop, false, 0};
    }
    run.run([&]() {
        if (!flags.quiet) print_progress(run, seconds_since(start));
        if (!rule) return true;
        const auto klds = [&](std::size_t i) {
            return figures_of(run.variants()[i].pairs, &TokenPair::kld);
        };
        const Mean difference = paired_difference(klds(0), klds(1), run.plan().scored_per_window());
        stop->not_a_number = !is_number(difference.value);
        if (stop->not_a_number) return false;
        stop->stopped = rule->look(difference, run.windows());
        stop->looks = rule->looks();
        return !stop->stopped;
    });
    return stop;
}

void write_results(const Flags& flags, const LoadedModel& loaded, const LockStep& run,
                   const std::optional<StopResult>& stop, const RunNotNumbers& not_numbers,
                   const std::vector<Explanation>& explanations, double seconds) {
    nlohmann::ordered_json json;
    json["model"] = flags.model.path;
    json["notices"] = loaded.notices;
    json["backend"] = loaded.backend->name();
    json["device"] = loaded.backend->description();
    json["precision"] = json_of(run.precision());
    json["n_ctx"] = run.plan().ctx;
    json["n_batch"] = run.plan().batch;
    json["chunks"] = run.windows();
    json["shift"] = shifts_of(run.plan());
    json["bos"] = bos_of(run.plan());
    json["scored"] = run.windows() * run.plan().scored_per_window();
    json["round_base"] = flags.options.round_base;
    json["seconds"] = seconds;
    json.update(json_of(run, stop));
    add_to(json, not_numbers);
    if (flags.explain) json["explain"] = json_of(explanations);
    write_json(flags.json, json);
    write_csv(flags.csv, run);
}

LockStepOptions options_of(const Flags& flags, const KvShape& shape) {
    LockStepOptions options = flags.options;
    if (!flags.by_layer) return options;
    options.layers = parse_layers(flags.layers, shape);
    if (flags.quiet) return options;
    options.layer_done = [](int64_t done, int64_t all) {
        fmt::print(stderr, "\rone layer alone: {} of {}{}", done, all, done == all ? "\n" : "");
    };
    return options;
}

// The windows that were compared, once more.
std::vector<Explanation> explain_run(const Flags& flags, const LoadedModel& loaded,
                                     const LockStep& run) {
    std::vector<Variant> variants;
    for (const MeasuredCache& measured : run.variants()) variants.push_back(measured.variant);
    WindowPlan plan = run.plan();
    plan.windows = run.windows();
    return explain(loaded.model, plan, run.base().variant, variants, [&](int64_t windows) {
        if (!flags.quiet) fmt::print(stderr, "explained [{}]\n", windows);
    });
}

// What looks on at the attention of one layer knows one kind of rows.
void require_one_kind_of_rows(const Flags& flags, const Variant& base,
                              const std::vector<Variant>& variants) {
    if (!flags.explain && !flags.by_layer) return;
    const auto in_parts = [](const Variant& variant) { return variant.placement.tokens.any(); };
    require(!in_parts(base) && std::ranges::none_of(variants, in_parts), ErrorCode::usage,
            "--explain and --by-layer: not for caches with first or recent tokens in f16, whose "
            "attention is in parts");
}

void add_single_sides(std::vector<Variant>& variants, const Variant& base, const KvShape& shape) {
    const bool one_row = std::ranges::any_of(shape.layers, &KvLayer::v_in_k);
    const std::size_t asked = variants.size();
    if (!one_row) variants = with_single_sides(variants, base);
    if (variants.size() > asked) return;
    say_note(k_tool, one_row ? "--by-side changes nothing: V is a part of K's rows in this model"
                             : "--by-side changes nothing: no variant has both K and V of other "
                               "types than the base");
}

// What is measured: every cache with its types and rotations, and why they are these.
void print_header(const Flags& flags, const LoadedModel& loaded, const LockStep& run) {
    fmt::print(stderr, "{} on {} ({})\nbase {}\n{}", flags.model.path, loaded.backend->name(),
               loaded.backend->description(), run.base().variant.name, run.base().words);
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        const MeasuredCache& measured = run.variants()[i];
        fmt::print(stderr, "{} {}\n{}", letter_of(i), measured.variant.name, measured.words);
    }
    fmt::print(stderr, "{}\n", describe_windows(run.plan()));
}

int run_kld_tool(const Flags& flags) {
    flags.check();
    const Variant base = parse_variant("--base", flags.base, Variant{});
    std::vector<Variant> variants;
    for (const std::string& text : flags.variants) {
        variants.push_back(parse_variant("--variant", text, base));
    }
    require_one_kind_of_rows(flags, base, variants);
    LoadedModel loaded(flags.model, flags.windows.ctx());
    const KvShape shape = loaded.model.config().cache_shape(1, 1, base.type_k, base.type_v);
    if (flags.by_side) add_single_sides(variants, base, shape);
    const WindowPlan plan = plan_windows(
        tokens_of_text(loaded, read_text(flags.text)), flags.windows.ctx(),
        flags.windows.batch(flags.windows.ctx()), flags.windows.chunks, loaded.bos_of_windows(),
        flags.shifts_of_windows(loaded.bos_of_windows() >= 0));
    require_same_everywhere(loaded, plan);
    loaded.note_windows(plan, flags.windows.chunks);
    LockStep run(loaded, flags.model, plan, base, variants, options_of(flags, shape));
    if (!flags.quiet) print_header(flags, loaded, run);
    const Time start = std::chrono::steady_clock::now();
    const std::optional<StopResult> stop = measure(run, flags, start);
    if (!ranks().first()) return k_good;
    loaded.note_ties(run.variants().front().pairs);
    print_results(flags.results(), run, stop);
    std::vector<Explanation> explanations;
    if (flags.explain) explanations = explain_run(flags, loaded, run);
    print_explanations(flags.results(), explanations);
    RunNotNumbers not_numbers = find_not_numbers(run, loaded.model);
    add_lines(not_numbers.lines, explanations);
    if (flags.full) print_blocks(flags.results(), run);
    print_not_numbers(flags.results(), not_numbers);
    write_results(flags, loaded, run, stop, not_numbers, explanations, seconds_since(start));
    if (!flags.quiet) fmt::print(stderr, "{}: {:.1f} s\n", k_tool, seconds_since(start));
    end_without_numbers(not_numbers.lines);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-kld -m model.gguf -f wiki.test.raw --chunks 8 --variant k=q4_0,v=q4_0 --variant "
    "k=q4_0,v=q4_0,rot=off\n"
    "  rotkv-kld -m model.gguf -f wiki.test.raw --base k=f16,v=f16 --variant k=q8_0,v=q4_0 "
    "--by-side --jitter 3\n"
    "  rotkv-kld -m model.gguf -f wiki.test.raw --chunks 2 --variant k=q4_0,v=q4_0 --by-layer "
    "--explain\n"
    "  rotkv-kld -m model.gguf -f wiki.test.raw --variant k=q8_0,v=q5_0 --variant "
    "k=q5_0,v=q8_0 --stop 99\n"
    "  rotkv-kld -m model.gguf -f wiki.test.raw --chunks 4 --shift 3 --variant k=q4_0,v=q4_0\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("KL divergence of several caches from a base cache, over the same tokens.",
                 "rotkv-kld");
    Flags flags;
    flags.add_to(app);
    return run_tool(
        app, argc, argv, k_examples, [&]() { return run_kld_tool(flags); }, RunAs::many);
}
