// rotkv-demo: the whole point in one table. One model, one text, every cache type with and without
// rotation, each compared with an exact cache.
// Docs: docs/07-measuring.md

#include "ref/error.h"
#include "tools/loaded_model.h"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#ifndef ROTKV_DEMO_TEXT
#define ROTKV_DEMO_TEXT "tools/demo.txt"
#endif

namespace rotkv::tools {
namespace {

struct Flags {
    ModelFlags model;
    std::string text = ROTKV_DEMO_TEXT, json;
    int64_t ctx = 512, windows = 4;

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text, "the text, of at least windows * ctx tokens")
            ->capture_default_str()
            ->type_name("FILE");
        app.add_option("-c,--ctx-size", ctx, "tokens per window")
            ->capture_default_str()
            ->check(CLI::Range(int64_t(3), int64_t(1) << 20))
            ->type_name("N");
        app.add_option("--windows", windows, "windows of the text")
            ->capture_default_str()
            ->check(CLI::Range(int64_t(2), int64_t(1) << 20))
            ->type_name("N");
        add_json_flag(app, json);
    }
};

/// One cache type: measured without rotation, and with it where llama.cpp's policy rotates.
struct Row {
    DType type;
    int64_t bytes_per_token = 0;
    KldMeans off;
    std::optional<KldMeans> on;
};

const RotationRequest k_no_rotation =
    RotationRequest::both({.mode = RotationRequest::Mode::off, .origin = "comparison"});

WindowPlan plan_of(const Flags& flags, const LoadedModel& loaded) {
    std::vector<int32_t> tokens = tokens_of_text(loaded.tokenizer, read_text(flags.text));
    if (int64_t(tokens.size()) / flags.ctx < flags.windows) {
        throw Error(ErrorCode::usage,
                    fmt::format("{}: {} tokens, expected at least {} windows of {}", flags.text,
                                tokens.size(), flags.windows, flags.ctx));
    }
    return plan_windows(std::move(tokens), flags.ctx, default_batch(flags.ctx), flags.windows,
                        loaded.bos_of_windows());
}

Row measure(Model& model, const WindowPlan& plan, DType type, std::span<const float> base) {
    fmt::print(stderr, "  {} ...\n", type_info(type).name);
    const auto run = [&](KvCache& cache) {
        return summarize_means(run_kld(model, cache, plan, base));
    };
    KvCache plain = make_cache(model, plan, type, type, k_no_rotation);
    Row row{type, plain.shape().bytes_per_token(), run(plain), std::nullopt};
    KvCache rotated = make_cache(model, plan, type, type, RotationRequest{});
    if (!(rotated.spec() == plain.spec())) row.on = run(rotated);
    return row;
}

void print_line(std::FILE* out, const std::array<std::string, 9>& cell) {
    fmt::print(out, "  {:<6} {:>7} | {:>8} {:>8} | {:>9} {:>9} {:>8} | {:>7} {:>7}\n", cell[0],
               cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], cell[7], cell[8]);
}

void print_table(std::FILE* out, const std::vector<Row>& rows, int64_t base_bytes) {
    const auto ppl = [](const Mean& mean) { return fmt::format("{:.3f}", mean.value); };
    const auto kld = [](const KldMeans& m) { return fmt::format("{:.6f}", m.kld.value); };
    const auto same = [](const KldMeans& m) {
        return fmt::format("{:.1f} %", 100 * m.same_top.value);
    };
    fmt::print(out, "\n");
    print_line(out,
               {"cache", "bytes", "PPL", "PPL", "mean KLD", "mean KLD", "KLD", "same", "same"});
    print_line(out, {"K = V", "/ token", "plain", "rotated", "plain", "rotated", "smaller", "plain",
                     "rotated"});
    print_line(out, {"f32", std::to_string(base_bytes), ppl(rows[0].off.ppl_a), "", "0", "", "",
                     "100 %", ""});
    for (const Row& row : rows) {
        const std::string name = type_info(row.type).name,
                          bytes = std::to_string(row.bytes_per_token);
        if (!row.on) {
            print_line(out, {name, bytes, ppl(row.off.ppl_b), "", kld(row.off), "", "",
                             same(row.off), ""});
            continue;
        }
        const std::string smaller = fmt::format("{:.1f} x", row.off.kld.value / row.on->kld.value);
        print_line(out, {name, bytes, ppl(row.off.ppl_b), ppl(row.on->ppl_b), kld(row.off),
                         kld(*row.on), smaller, same(row.off), same(*row.on)});
    }
}

constexpr const char* k_legend =
    "\n"
    "How to read it: each row stores the model's keys and values in another number format,\n"
    "as they are (plain) or multiplied by a Hadamard matrix first (rotated).\n"
    "  PPL       the model is as unsure as if it chose the next word among so many\n"
    "  mean KLD  how far its predictions moved from those with the exact f32 cache, in nats\n"
    "  smaller   how many times less they moved with rotation, at the same number of bytes\n"
    "  same      how often the most likely next word stayed the same\n"
    "Trust the KLD before the PPL: over {} words luck can lower a PPL; no error lowers a KLD.\n";

nlohmann::ordered_json json_of_row(const Row& row) {
    const auto side = [](const KldMeans& m) -> nlohmann::ordered_json {
        return {{"ppl", m.ppl_b.value},
                {"kld", m.kld.value},
                {"kld_se", m.kld.error},
                {"same_top", m.same_top.value}};
    };
    nlohmann::ordered_json json = {{"type", type_info(row.type).name},
                                   {"bytes_per_token", row.bytes_per_token},
                                   {"plain", side(row.off)}};
    if (row.on) json["rotated"] = side(*row.on);
    return json;
}

int run_demo(const Flags& flags) {
    const auto start = std::chrono::steady_clock::now();
    LoadedModel loaded(flags.model, flags.ctx);
    const WindowPlan plan = plan_of(flags, loaded);
    loaded.note_windows(plan, flags.windows);
    fmt::print(stderr, "{} on {} ({}), {}\n", flags.model.path, loaded.backend->name(),
               loaded.backend->description(), describe_windows(plan));

    fmt::print(stderr, "  f32, which the others are compared with ...\n");
    KvCache exact = make_cache(loaded.model, plan, DType::f32, DType::f32, k_no_rotation);
    const std::vector<float> base = run_hidden(loaded.model, exact, plan);
    std::vector<Row> rows;
    for (const DType type : usual_cache_types())
        rows.push_back(measure(loaded.model, plan, type, base));

    std::FILE* out = flags.json == "-" ? stderr : stdout;
    print_table(out, rows, exact.shape().bytes_per_token());
    fmt::print(out, k_legend, plan.windows * plan.scored_per_window());
    nlohmann::ordered_json json = {{"model", flags.model.path},
                                   {"notices", loaded.notices},
                                   {"backend", loaded.backend->name()},
                                   {"n_ctx", plan.ctx},
                                   {"chunks", plan.windows},
                                   {"bos", bos_of(plan)},
                                   {"ppl_f32", rows[0].off.ppl_a.value}};
    for (const Row& row : rows) json["rows"].push_back(json_of_row(row));
    write_json(flags.json, json);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    fmt::print(stderr, "{:.0f} s in all\n", seconds.count());
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-demo -m SmolLM2-135M-Instruct.Q4_1.gguf\n"
    "  rotkv-demo -m model.gguf -f essay.txt --windows 8 -c 1024\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("What each cache type costs a model, with and without rotation, in one table.",
                 "rotkv-demo");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_demo(flags); });
}
