// rotkv-generate: text from a prompt under any cache, and two caches side by side until they part:
// what a KL divergence does to a text.
// Docs: docs/14-generate.md

#include "ref/error.h"
#include "tools/notes.h"
#include "tools/side_by_side.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-generate";
constexpr int64_t k_most_tokens = int64_t(1) << 20;

struct Flags {
    ModelFlags model;
    CacheFlags cache;
    std::optional<std::string> prompt;
    std::string file, json;
    std::vector<std::string> against;
    int64_t ctx = 2048;
    SpeechPlan plan;  ///< all but its prompt, seed and after
    std::optional<int64_t> seed, after, keep;
    bool shift = false, quiet = false;

    void add_to(CLI::App& app);

    /// Throws Error(usage) for what is missing or says nothing.
    void check() const;

    /// The cache of -ctk, -ctv and --rot-*.
    Variant first() const {
        const CacheType k = cache.type_k(), v = cache.type_v();
        return {fmt::format("k={},v={}{}{}", k.name(), v.name(), cache.place.empty() ? "" : ",",
                            cache.place),
                k,
                v,
                cache.rotation(),
                placement_of(cache),
                false};
    }
};

void Flags::add_to(CLI::App& app) {
    model.add_to(app);
    cache.add_to(app);
    add_place_flag(app, cache.place);
    auto* of_prompt = app.add_option_function<std::string>(
        "-p,--prompt", [this](const std::string& text) { prompt = text; }, "the prompt");
    of_prompt->type_name("TEXT");
    app.add_option("-f,--file", file, "a file with the prompt; its last newline is dropped")
        ->excludes(of_prompt)
        ->type_name("FILE");
    add_whole(app, "-n,--predict,--n-predict", plan.count, 0, k_most_tokens,
              "tokens to generate at most");
    add_whole(app, "-c,--ctx-size", ctx, 1, k_most_tokens, "tokens that the cache has room for");
    app.add_option_function<std::string>(
           "--temp",
           [this](const std::string& text) {
               plan.temperature = parse_real("--temp", text, 0, 100);
           },
           "0: the most likely word; T: drawn from p^(1/T)")
        ->default_str("0")
        ->type_name("T");
    add_whole(app, "--seed,-s", seed, 0, INT64_MAX, "of the draws; needs --temp")->type_name("S");
    app.add_option("--against", against,
                   "another cache beside the first, until their choices differ: "
                   "k=TYPE,v=TYPE,rot=WHAT,rot-k=WHAT,rot-v=WHAT,signs=SEED,first=N,recent=N,"
                   "ends=TYPE:N,k:LAYERS=TYPE,v:LAYERS=TYPE,kbias=on, layers as 0-2+7; once per "
                   "cache")
        ->allow_extra_args(false)
        ->type_name("CACHE");
    add_whole(app, "--after", after, 0, k_most_tokens, "tokens that each says alone from there")
        ->default_str(std::to_string(plan.after));
    app.add_flag("--force", plan.force,
                 "then go on with the first one's tokens in both caches, and count");
    app.add_flag("--shift,--context-shift", shift,
                 "when the cache is full, drop the older half of what --keep does not keep, turn "
                 "the keys of the rest to their new positions, and go on");
    add_whole(app, "--keep", keep, -1, k_most_tokens,
              "of --shift: so many of the first tokens stay, beside a BOS that the vocabulary "
              "adds; -1: the whole prompt")
        ->default_str("0");
    add_json_flag(app, json);
    app.add_flag("--quiet", quiet, "no word of caches and speed");
}

// As llama.cpp reads a prompt: control tokens are found in it.
std::vector<int32_t> read_prompt(const Flags& flags, LoadedModel& loaded) {
    std::string text = flags.prompt ? *flags.prompt : read_text(flags.file);
    if (!flags.prompt && text.ends_with('\n')) text.pop_back();
    const std::vector<int32_t> tokens = loaded.tokenizer.encode_beginning(text, true);
    if (tokens.empty()) throw Error(ErrorCode::usage, "the prompt is empty: nothing to go on from");
    const int32_t bos = loaded.bos_of_windows();
    if (bos >= 0 && tokens.size() > 1 && tokens[1] == bos) {
        loaded.note(fmt::format(
            "the prompt begins with BOS {}, and the vocabulary adds one: now there are two", bos));
    }
    return tokens;
}

// How many tokens stay at a shift; none: there is none.
std::optional<int64_t> kept_by_shift(const Flags& flags, const SpeechPlan& plan, bool has_bos) {
    if (!flags.shift) return std::nullopt;
    const int64_t asked = flags.keep.value_or(0);
    return asked < 0 ? int64_t(plan.prompt.size()) : asked + (has_bos ? 1 : 0);
}

void check_room(const SpeechPlan& plan, int64_t ctx, const std::optional<int64_t>& keep) {
    if (plan.cells() <= ctx) return;
    if (keep) {
        if (int64_t(plan.prompt.size()) > ctx) {
            throw Error(ErrorCode::usage, fmt::format("-c {}: expected room for the {} tokens of "
                                                      "the prompt",
                                                      ctx, plan.prompt.size()));
        }
        if (dropped_by_shift(ctx, *keep) > 0) return;
        throw Error(ErrorCode::usage, fmt::format("-c {}: expected at least 2 tokens more than the "
                                                  "{} that stay at a shift (--keep, BOS)",
                                                  ctx, *keep));
    }
    throw Error(ErrorCode::usage,
                fmt::format("-c {}: expected room for {} tokens: {} of the prompt, {} of -n{}", ctx,
                            plan.cells(), plan.prompt.size(), plan.count,
                            plan.after > 0 ? fmt::format(", {} of --after", plan.after) : ""));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Says what shifts have left out of the text that the model saw; for JSON, null without --shift.
nlohmann::ordered_json report_shifts(LoadedModel& loaded, const Continuation& continuation,
                                     const std::optional<int64_t>& keep) {
    if (!keep) return nullptr;
    const int64_t times = continuation.shifts();
    const int64_t dropped = times > 0 ? continuation.dropped() / times : 0;  // always as many
    if (times > 0) {
        loaded.note(fmt::format(
            "{} shift{}: the cache was full with {} tokens, of which the first {} stayed and {} "
            "behind them were dropped",
            times, times == 1 ? "" : "s", continuation.cache().shape().cells, *keep, dropped));
    }
    return {{"kept", *keep}, {"times", times}, {"dropped", dropped}};
}

// One cache: text to `out` as it comes.
nlohmann::ordered_json generate(LoadedModel& loaded, const SpeechPlan& plan, const Flags& flags,
                                const std::optional<int64_t>& keep, std::FILE* out) {
    Continuation continuation(loaded, flags.first(), std::min(plan.cells(), flags.ctx), keep);
    if (!flags.quiet) fmt::print(stderr, "{}", describe_cache(continuation.cache()));
    auto start = std::chrono::steady_clock::now();
    continuation.read(plan.prompt);
    const double prompt_seconds = seconds_since(start);

    Sampler sampler(plan.temperature, plan.seed);
    Utf8Gate gate;
    const auto show = [out](const std::string& text) {
        fmt::print(out, "{}", text);
        std::fflush(out);
    };
    int32_t before = plan.prompt.back();
    start = std::chrono::steady_clock::now();
    const std::vector<int32_t> tokens = continue_text(
        continuation, sampler, plan.count, loaded.tokenizer.vocab().ends, [&](int32_t token) {
            show(gate.push(text_behind(loaded.tokenizer, before, std::span(&token, 1))));
            before = token;
        });
    const double seconds = seconds_since(start);
    show(gate.rest() + "\n");
    continuation.require_quantized_reads();

    // The first token's choice cost nothing: its logits came with the prompt.
    const double steps =
        double(continuation.dropped() + continuation.tokens() - int64_t(plan.prompt.size()));
    const double prompt_rate = double(plan.prompt.size()) / prompt_seconds;
    const double rate = steps > 0 ? steps / seconds : NAN;
    if (!flags.quiet) {
        fmt::print(stderr, "{}: prompt {} tokens, {:.1f} tokens/s; text {} tokens", k_tool,
                   plan.prompt.size(), prompt_rate, tokens.size());
        fmt::print(stderr, "{}\n", steps > 0 ? fmt::format(", {:.1f} tokens/s", rate) : "");
    }
    const bool ended = int64_t(tokens.size()) < plan.count;
    const nlohmann::ordered_json shift = report_shifts(loaded, continuation, keep);
    return {{"rotation", json_of(continuation.cache().spec())},
            {"tokens", tokens},
            {"text", text_behind(loaded.tokenizer, plan.prompt.back(), tokens)},
            {"stopped", ended ? "end of text" : "n"},
            {"shift", shift},
            {"notices", loaded.notices},
            {"prompt_tokens_per_second", prompt_rate},
            {"tokens_per_second", rate}};
}

// Several caches, each beside the first. 1 if any parts from it.
int compare_caches(LoadedModel& loaded, const SpeechPlan& plan, const Flags& flags,
                   const std::vector<Variant>& against, std::FILE* out,
                   nlohmann::ordered_json& json) {
    int code = k_good;
    for (const Variant& other : against) {
        const SideBySide run = run_side_by_side(loaded, plan, flags.first(), other);
        fmt::print(out, "{}{}", json.contains("against") ? "\n" : "",
                   describe(run, plan, loaded.tokenizer));
        std::fflush(out);
        json["against"].push_back(json_of(run, plan, loaded.tokenizer));
        if (run.parting) code = k_failed;
    }
    return code;
}

void Flags::check() const {
    if (!prompt && file.empty()) {
        throw Error(ErrorCode::usage, "expected a prompt: -p TEXT or -f FILE");
    }
    if (plan.force && against.empty()) {
        throw Error(ErrorCode::usage, "--force compares, expected --against");
    }
    if (shift && !against.empty()) {
        throw Error(ErrorCode::usage,
                    "--shift forgets what --against comes back to, expected one of them");
    }
    if (keep && !shift) {
        throw Error(ErrorCode::usage, "--keep says what stays at a shift, expected --shift");
    }
    if (after && against.empty()) {
        throw Error(ErrorCode::usage, "--after compares, expected --against");
    }
    check_paths({{"-m", model.path}, {"-f", file}}, {{"--json", json}});
    if (!seed || plan.temperature > 0) return;
    say_note(k_tool, fmt::format("--seed {} changes nothing: at --temp 0 nothing is drawn", *seed));
}

int run_generate(const Flags& flags) {
    flags.check();
    std::vector<Variant> against;
    for (const std::string& text : flags.against) {
        against.push_back(parse_variant("--against", text, flags.first()));
    }
    LoadedModel loaded(flags.model, flags.ctx);
    SpeechPlan plan = flags.plan;
    plan.seed = uint64_t(flags.seed.value_or(0));
    plan.after = against.empty() ? 0 : flags.after.value_or(plan.after);
    plan.prompt = read_prompt(flags, loaded);
    const std::optional<int64_t> keep = kept_by_shift(flags, plan, loaded.bos_of_windows() >= 0);
    check_room(plan, flags.ctx, keep);
    loaded.note_length(std::min(plan.cells(), flags.ctx));
    if (flags.shift && plan.cells() <= flags.ctx) {
        loaded.note("--shift changes nothing: the prompt and -n fit into -c");
    }

    nlohmann::ordered_json json = {{"model", flags.model.path},
                                   {"notices", loaded.notices},
                                   {"backend", loaded.backend->name()},
                                   {"device", loaded.backend->description()},
                                   {"k", flags.cache.type_k().name()},
                                   {"v", flags.cache.type_v().name()},
                                   {"prompt", plan.prompt},
                                   {"temp", plan.temperature},
                                   {"seed", plan.seed}};
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    int code = k_good;
    if (against.empty()) {
        json.update(generate(loaded, plan, flags, keep, out));
    } else {
        code = compare_caches(loaded, plan, flags, against, out, json);
    }
    write_json(flags.json, json);
    return code;
}

constexpr const char* k_examples =
    "  rotkv-generate -m model.gguf -p 'The capital of France is' -n 32 -ctk q4_0 -ctv q4_0\n"
    "  rotkv-generate -m model.gguf -f prompt.txt --temp 0.8 --seed 7\n"
    "  rotkv-generate -m model.gguf -p 'Once upon a time' -n 200 -ctk f32 -ctv f32 --against "
    "k=q4_0,v=q4_0 --against k=q4_0,v=q4_0,rot=off --force\n"
    "  rotkv-generate -m model.gguf -p 'Once upon a time' -n 1000 -c 256 --shift --keep 4\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app(
        "Text from a prompt under any cache; two caches side by side until they part (exit code 1 "
        "if they do).",
        "rotkv-generate");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_generate(flags); });
}
