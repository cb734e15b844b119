// rotkv-perplexity: how surprised a model is by a text, and how far a cache moves its predictions.
// Flags and output are llama-perplexity's. Three ways to run:
//   -f TEXT                                        perplexity
//   -f TEXT --kl-divergence-base FILE              the same, and every prediction goes to FILE
//   --kl-divergence --kl-divergence-base FILE      compares with the predictions in FILE
// Docs: docs/07-measuring.md

#include "ref/error.h"
#include "ref/files/base_file.h"
#include "ref/measure/base_row.h"
#include "tools/compare/cache_words.h"
#include "tools/compare/kld_block.h"
#include "tools/compare/not_numbers.h"
#include "tools/compare/precision_floor.h"
#include "tools/loaded_model.h"
#include "tools/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-perplexity";

struct Flags {
    ModelFlags model;
    CacheFlags cache;
    WindowFlags windows;
    std::string text, base, json;
    bool compare = false, quiet = false;

    void add_to(CLI::App& app) {
        model.add_to(app);
        model.add_profile_to(app);
        cache.add_to(app);
        add_place_flag(app, cache.place);
        app.add_option("-f,--file", text, "the text")->type_name("FILE");
        windows.add_to(app);
        app.add_option("--kl-divergence-base", base,
                       "write the predictions here; with --kl-divergence, read them")
            ->type_name("FILE");
        app.add_flag("--kl-divergence", compare, "compare with the predictions of a base file");
        add_json_flag(app, json);
        app.add_flag("--quiet", quiet, "results, notices and errors only");
    }

    void check() const {
        if (compare && base.empty()) {
            throw Error(ErrorCode::usage, "--kl-divergence needs --kl-divergence-base FILE");
        }
        if (!compare && text.empty()) throw Error(ErrorCode::usage, "-f FILE is required");
        if (base == "-" && (compare || json == "-")) {
            throw Error(ErrorCode::usage, "--kl-divergence-base: standard output is not free");
        }
        check_files();
    }

    // One flag names the base to be read and the base to be written: what it replaces is said.
    void check_files() const {
        const NamedPath of_base{"--kl-divergence-base", base};
        std::vector<NamedPath> inputs{{"-m", model.path}, {"-f", text}};
        std::vector<NamedPath> outputs{{"--json", json}};
        (compare ? inputs : outputs).push_back(of_base);
        check_paths(inputs, outputs);
        if (compare || !replaces(of_base, "_logits_", "a base file")) return;
        say_note(k_tool, base +
                             ": a base file is there and will be replaced; --kl-divergence "
                             "compares with it");
    }

    /// Where results for people go: not where a file was asked for.
    std::FILE* results() const { return json == "-" || base == "-" ? stderr : stdout; }

    void say(const std::string& text) const {
        if (!quiet) fmt::print(stderr, "{}", text);
    }
};

struct Outcome {
    Mean ppl;
    int64_t scored = 0;
    NotNumbers not_numbers{};
    std::optional<KldSummary> kld{};
    std::optional<PrecisionFloor> floor{};
};

// Says on stderr how long it will take, once the first windows are done.
class Clock {
  public:
    Clock(const WindowPlan& plan, const Flags& flags) : plan_(plan), flags_(flags) {}

    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    void window_done() {
        if (++done_ != 1 || plan_.windows <= plan_.windows_at_once()) return;
        const double passes =
            std::ceil(double(plan_.windows) / double(plan_.windows_at_once() * ranks().size));
        const double total = seconds() * passes;
        if (total < 5) return;
        flags_.say(fmt::format("about {:.0f} s for {} windows\n", total, plan_.windows));
    }

  private:
    const WindowPlan& plan_;
    const Flags& flags_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    int64_t done_ = 0;
};

struct Run {
    LoadedModel& loaded;
    KvCache& cache;
    const WindowPlan& plan;
    const Flags& flags;
    Clock clock;
};

void print_running_ppl(const Run& run, int64_t window, std::span<const double> nll) {
    fmt::print(run.flags.results(), "[{}]{:.4f},", window, perplexity(nll).value);
    std::fflush(run.flags.results());
}

Outcome finish_ppl(const Run& run, std::span<const double> nll) {
    const Mean ppl = perplexity(nll);
    fmt::print(run.flags.results(), "\nFinal estimate: PPL = {:.4f} +/- {:.5f}\n", ppl.value,
               ppl.error);
    std::fflush(run.flags.results());
    return {ppl, int64_t(nll.size()), not_numbers_of(nll, run.plan)};
}

// Groups of windows, shared among all processes.
Outcome measure(Run& run) {
    std::vector<double> nll;
    const std::size_t scored = std::size_t(run.plan.scored_per_window());
    share<double>(
        groups_of(run.plan),
        [&](int64_t group) {
            return run_nll(run.loaded.model, run.cache, group_of(run.plan, group), {}).nll;
        },
        [&](int64_t, std::span<const double> of_group) {
            for (; !of_group.empty(); of_group = of_group.subspan(scored)) {
                nll.insert(nll.end(), of_group.begin(), of_group.begin() + int64_t(scored));
                print_running_ppl(run, int64_t(nll.size() / scored), nll);
                run.clock.window_done();
            }
            return true;
        });
    return finish_ppl(run, nll);
}

// Calls work(row) for every row. Rows are independent and each result has a place of its own, so
// that the number of threads cannot change it.
void for_each_row(int64_t rows, int threads, const std::function<void(int64_t)>& work) {
    const int64_t step = std::min<int64_t>(threads, rows);
    std::vector<std::thread> workers;
    for (int64_t first = 0; first < step; ++first) {
        workers.emplace_back([=, &work]() {
            for (int64_t row = first; row < rows; row += step) work(row);
        });
    }
    for (std::thread& worker : workers) worker.join();
}

// Measures and keeps every prediction. The likelihoods come from the same logits as the file.
Outcome measure_and_write(Run& run, int32_t n_vocab) {
    BaseHeader header;
    header.n_ctx = int32_t(run.plan.ctx);
    header.n_vocab = n_vocab;
    header.n_chunk = int32_t(run.plan.windows);
    header.tokens.assign(run.plan.tokens.begin(),
                         run.plan.tokens.begin() + run.plan.windows * run.plan.ctx);
    BaseWriter writer(run.flags.base, header);
    const std::size_t row_bytes = std::size_t(header.row_bytes()), words = std::size_t(n_vocab);
    std::vector<std::byte> encoded(std::size_t(k_max_logit_rows) * row_bytes);
    std::vector<double> nll;
    for_each_scored(run.loaded.model, run.cache, run.plan, [&](const ScoredRows& rows) {
        for_each_logits(run.loaded.model, rows, [&](int64_t first, std::span<const float> logits) {
            const std::size_t count = logits.size() / words, before = nll.size();
            nll.resize(before + count);
            for_each_row(int64_t(count), run.flags.model.threads, [&](int64_t row) {
                const std::size_t i = std::size_t(row);
                const std::span<const float> x = logits.subspan(i * words, words);
                const LogSum sum =
                    encode_base_row(x, std::span(encoded).subspan(i * row_bytes, row_bytes));
                nll[before + i] = nll_of(x, sum, rows.target[std::size_t(first) + i]);
            });
            writer.write(std::span(encoded).first(count * row_bytes));
        });
        if (!rows.ends_window) return;
        print_running_ppl(run, rows.window + 1, nll);
        run.clock.window_done();
    });
    writer.finish();
    return finish_ppl(run, nll);
}

Outcome compare(Run& run, BaseReader& reader) {
    const std::size_t row_bytes = std::size_t(reader.header().row_bytes());
    const std::size_t words = std::size_t(reader.header().n_vocab);
    std::vector<std::byte> encoded(std::size_t(k_max_logit_rows) * row_bytes);
    std::vector<TokenPair> pairs;
    std::FILE* out = run.flags.results();
    print_kld_header(out);
    for_each_scored(run.loaded.model, run.cache, run.plan, [&](const ScoredRows& rows) {
        for_each_logits(run.loaded.model, rows, [&](int64_t first, std::span<const float> logits) {
            const std::size_t count = logits.size() / words, before = pairs.size();
            pairs.resize(before + count);
            reader.read(std::span(encoded).first(count * row_bytes));
            std::vector<std::string> faults(count);
            for_each_row(int64_t(count), run.flags.model.threads, [&](int64_t row) {
                const std::size_t i = std::size_t(row);
                const std::span<const std::byte> base =
                    std::span(encoded).subspan(i * row_bytes, row_bytes);
                pairs[before + i] = compare_with_base_row(base, logits.subspan(i * words, words),
                                                          rows.target[std::size_t(first) + i]);
                faults[i] = fault_of_base_row(base, int64_t(words));
            });
            for (std::size_t i = 0; i < count; ++i) {
                if (!faults[i].empty()) reader.refuse(int64_t(before + i), faults[i]);
            }
        });
        if (!rows.ends_window) return;
        print_kld_line(out, rows.window + 1, summarize_means(pairs));
        run.clock.window_done();
    });
    const KldSummary summary = summarize(pairs);
    print_kld_summary(out, summary);
    std::fflush(out);
    run.loaded.note_ties(pairs);
    return {summary.ppl_b, int64_t(pairs.size()), not_numbers_of(pairs, run.plan), summary};
}

// A base file does not say whether its windows began with BOS, but its text's first token does.
void note_other_beginning(LoadedModel& loaded, const std::vector<int32_t>& tokens) {
    const int32_t bos = loaded.tokenizer.bos();
    const bool has = !tokens.empty() && tokens[0] == bos, adds = loaded.tokenizer.adds_bos();
    if (bos < 0 || tokens.empty() || has == adds) return;
    loaded.note(
        fmt::format("the text of the base file begins {} BOS {}, windows here begin {} it: "
                    "part of the difference may be that",
                    has ? "with" : "without", bos, adds ? "with" : "without"));
}

// The windows of this run: of the base file that is compared with, or of the text.
WindowPlan plan_of(const Flags& flags, LoadedModel& loaded, const BaseReader* reader, int64_t ctx) {
    const int64_t batch = flags.windows.batch(ctx);
    const int32_t bos = loaded.bos_of_windows();
    if (reader == nullptr) {
        std::vector<int32_t> tokens = tokens_of_text(loaded, read_text(flags.text));
        return plan_windows(std::move(tokens), ctx, batch, flags.windows.chunks, bos);
    }
    const BaseHeader& header = reader->header();
    if (header.n_vocab != loaded.model.config().words) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("{}: offset 12: {} words, expected the {} of {}", flags.base,
                                header.n_vocab, loaded.model.config().words, flags.model.path));
    }
    note_other_beginning(loaded, header.tokens);
    return plan_recorded_windows(header.tokens, ctx, batch, flags.windows.chunks, bos);
}

void write_results(const Run& run, const Outcome& outcome, double seconds) {
    const int64_t tokens = run.plan.windows * run.plan.ctx;
    nlohmann::ordered_json json;
    json["ppl"] = outcome.ppl.value;
    json["ppl_err"] = outcome.ppl.error;
    json["scored"] = outcome.scored;
    json["not_numbers"] = json_of(outcome.not_numbers);
    json["tokens"] = tokens;
    json["seconds"] = seconds;
    json["tokens_per_second"] = double(tokens) / seconds;
    json["n_ctx"] = run.plan.ctx;
    json["n_batch"] = run.plan.batch;
    json["chunks"] = run.plan.windows;
    json["bos"] = bos_of(run.plan);
    json["backend"] = run.loaded.model.backend().name();
    json["device"] = run.loaded.model.backend().description();
    json["model"] = run.flags.model.path;
    json["notices"] = run.loaded.notices;
    json["cache"] = json_of(run.cache.shape());
    json["rotation"] = json_of(run.cache.spec());
    json["precision"] = json_of(run.loaded.model.options().precision);
    if (outcome.floor) json["precision"]["floor"] = json_of(*outcome.floor);
    if (outcome.kld) json["kld"] = json_of(*outcome.kld);
    write_json(run.flags.json, json);
}

// The lines about what is not a number, among the results too. None if there is nothing to say.
std::vector<std::string> lines_of(const Run& run, Outcome& outcome) {
    std::vector<std::string> lines;
    NotNumbers& found = outcome.not_numbers;
    if (found.in_base) {
        found.cause = run.flags.base + " holds none there";
    } else {
        find_cause(found, run.loaded.model, run.plan, run.cache.shape(), run.cache.spec());
    }
    if (found.any()) lines.push_back(words_of(found));
    if (!found.any() && outcome.floor && !is_number(outcome.floor->kld.value)) {
        lines.push_back("the floor is not a number");
    }
    for (const std::string& line : lines) fmt::print(run.flags.results(), "{}\n", line);
    return lines;
}

int run_perplexity(const Flags& flags) {
    flags.check();
    if (ranks().size > 1 && !flags.base.empty()) {
        throw Error(ErrorCode::usage,
                    "--kl-divergence-base: one process reads and writes base files; rotkv-kld "
                    "shares its work and needs none");
    }
    std::optional<BaseReader> reader;
    if (flags.compare) reader.emplace(flags.base);
    const int64_t ctx = reader ? reader->header().n_ctx : flags.windows.ctx();
    if (flags.windows.asked_ctx.value_or(ctx) != ctx) {
        throw Error(ErrorCode::usage, fmt::format("-c {}: the windows of {} have {} tokens",
                                                  *flags.windows.asked_ctx, flags.base, ctx));
    }
    if (flags.compare && !flags.text.empty()) {
        say_note(k_tool, "-f is not read, the tokens are those of " + flags.base);
    }
    LoadedModel loaded(flags.model, ctx);
    const WindowPlan plan = plan_of(flags, loaded, reader ? &*reader : nullptr, ctx);
    require_same_everywhere(loaded, plan);
    loaded.note_windows(plan, flags.windows.chunks);
    KvCache cache = make_cache(loaded.model, plan, flags.cache.type_k(), flags.cache.type_v(),
                               flags.cache.rotation(), placement_of(flags.cache));
    flags.say(fmt::format("{} on {} ({})\n{}{}\n", flags.model.path, loaded.backend->name(),
                          loaded.backend->description(), describe_cache(cache),
                          describe_windows(plan)));

    Run run{loaded, cache, plan, flags, Clock(plan, flags)};
    Outcome outcome = flags.compare ? compare(run, *reader)
                      : flags.base.empty()
                          ? measure(run)
                          : measure_and_write(run, int32_t(loaded.model.config().words));
    if (!ranks().first()) return k_good;
    const double seconds = run.clock.seconds();
    flags.say(fmt::format("{} tokens in {:.2f} s, {:.1f} tokens per second\n",
                          plan.windows * plan.ctx, seconds,
                          double(plan.windows * plan.ctx) / seconds));
    if (loaded.profile != nullptr) fmt::print(stderr, "{}", loaded.profile->table(seconds));
    outcome.floor = measure_precision_floor(loaded.model, cache, plan);
    if (outcome.floor) fmt::print(flags.results(), "{}\n", words_of(*outcome.floor));
    const std::vector<std::string> lines = lines_of(run, outcome);
    write_results(run, outcome, seconds);
    end_without_numbers(lines);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-perplexity -m model.gguf -f wiki.test.raw --chunks 8 -ctk q8_0 -ctv q8_0\n"
    "  rotkv-perplexity -m model.gguf -f wiki.test.raw -ctk f32 -ctv f32 "
    "--kl-divergence-base f32.kld\n"
    "  rotkv-perplexity -m model.gguf --kl-divergence --kl-divergence-base f32.kld -ctk q4_0 "
    "-ctv q4_0 --json q4_0.json\n"
    "  rotkv-perplexity -m model.gguf --kl-divergence --kl-divergence-base f32.kld -ctk q4_0 "
    "-ctv q4_0 --rot-k off --rot-v off\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app(
        "Perplexity of a text under a model whose cache has the given types, and KL "
        "divergence from a base run.",
        "rotkv-perplexity");
    Flags flags;
    flags.add_to(app);
    return run_tool(
        app, argc, argv, k_examples, [&]() { return run_perplexity(flags); }, RunAs::many);
}
