// rotkv-demo: the whole point in one table. One model, one text, every cache type with and without
// rotation, each compared with an exact cache.
// Docs: docs/07-measuring.md

#include "ref/error.h"
#include "tools/beside_program.h"
#include "tools/compare/not_numbers.h"
#include "tools/compare/paired.h"
#include "tools/loaded_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {
namespace {

struct Flags {
    ModelFlags model;
    std::string text, json;
    int64_t ctx = 512, chunks = 4;

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text,
                       "the text, of at least chunks * ctx tokens (default: demo.txt, beside this "
                       "program)")
            ->type_name("FILE");
        add_whole(app, "-c,--ctx-size", ctx, 3, int64_t(1) << 20, "tokens per window");
        add_whole(app, "--chunks", chunks, 2, int64_t(1) << 20, "windows of the text");
        add_json_flag(app, json);
    }
};

/// One cache type: measured without rotation, and with it where llama.cpp's policy rotates.
struct Row {
    DType type;
    int64_t bytes_per_token = 0;
    KldMeans off;
    std::optional<KldMeans> on;
    NotNumbers not_numbers_off, not_numbers_on;
    double p = 1;  ///< of their difference, paired by windows, see p_of()

    /// How many times less a rotated cache loses, with a "?" where so many windows cannot tell the
    /// difference from luck; what there is to say where one is not a number.
    std::string smaller() const {
        if (off.not_numbers > 0 && on->not_numbers == 0) return "rescued";
        if (off.not_numbers == 0 && on->not_numbers > 0) return "broken";
        return fmt::format("{:.1f} x{}", number_or_nan(off.kld.value / on->kld.value),
                           p >= k_doubt ? " ?" : "");
    }
};

const RotationRequest k_no_rotation =
    RotationRequest::both({.mode = RotationRequest::Mode::off, .origin = "comparison"});

// The policy; where it leaves a latent row as it is, what `on` makes of it, if its parts are
// blocks.
RotationRequest rotated_request(const KvShape& shape) {
    RotationRequest request;
    for (const KvLayer& layer : shape.layers) {
        const bool can =
            layer.v_in_k && layer.type_k.quantized() && layer.d_k % 64 == 0 && layer.d_v % 64 == 0;
        if (can)
            request =
                RotationRequest::both({.mode = RotationRequest::Mode::on, .origin = "comparison"});
    }
    return request;
}

WindowPlan plan_of(const Flags& flags, LoadedModel& loaded) {
    std::vector<int32_t> tokens = tokens_of_text(loaded, read_text(flags.text));
    if (int64_t(tokens.size()) / flags.ctx < flags.chunks) {
        throw Error(ErrorCode::usage,
                    fmt::format("{}: {} tokens, expected at least {} windows of {}", flags.text,
                                tokens.size(), flags.chunks, flags.ctx));
    }
    return plan_windows(std::move(tokens), flags.ctx, default_batch(flags.ctx), flags.chunks,
                        loaded.bos_of_windows());
}

Row measure(Model& model, const WindowPlan& plan, DType type, std::span<const float> base) {
    fmt::print(stderr, "  {} ...\n", type_info(type).name);
    const auto run = [&](KvCache& cache, NotNumbers& not_numbers, std::vector<double>& klds) {
        const std::vector<TokenPair> pairs = run_kld(model, cache, plan, base);
        not_numbers = not_numbers_of(pairs, plan);
        if (not_numbers.in_base) not_numbers.cause = "the f32 cache is none there";
        if (!not_numbers.in_base) find_cause(not_numbers, model, plan, cache.shape(), cache.spec());
        klds = figures_of(pairs, &TokenPair::kld);
        return summarize_means(pairs);
    };
    std::vector<double> klds_off, klds_on;
    KvCache plain = make_cache(model, plan, type, type, k_no_rotation);
    Row row{type, plain.shape().bytes_per_token(), {}, std::nullopt, {}, {}, 1};
    row.off = run(plain, row.not_numbers_off, klds_off);
    KvCache rotated = make_cache(model, plan, type, type, rotated_request(plain.shape()));
    if (rotated.spec() == plain.spec()) return row;
    row.on = run(rotated, row.not_numbers_on, klds_on);
    row.p = p_of(paired_difference(klds_off, klds_on, plan.scored_per_window()), plan.windows);
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
        print_line(out, {name, bytes, ppl(row.off.ppl_b), ppl(row.on->ppl_b), kld(row.off),
                         kld(*row.on), row.smaller(), same(row.off), same(*row.on)});
    }
}

constexpr const char* k_legend =
    "\n"
    "How to read it: each row stores the model's keys and values in another number format,\n"
    "as they are (plain) or multiplied by a Hadamard matrix first (rotated).\n"
    "  PPL       the model is as unsure as if it chose the next word among so many\n"
    "  mean KLD  how far its predictions moved from those with the exact f32 cache, in nats\n"
    "  smaller   how many times less they moved with rotation, at the same number of bytes;\n"
    "            with a ?, it may be luck: {} windows cannot tell the two apart (p >= {:g})\n"
    "  same      how often the most likely next word stayed the same\n"
    "Trust the KLD before the PPL: over {} words luck can lower a PPL; no error lowers a KLD.\n";

// One for each cache with a position that is not a number.
std::vector<std::string> lines_of(const std::vector<Row>& rows) {
    std::vector<std::string> lines;
    for (const Row& row : rows) {
        const auto add = [&](const char* how, const NotNumbers& found) {
            if (!found.any()) return;
            lines.push_back(
                fmt::format("{}, {}: {}", type_info(row.type).name, how, words_of(found)));
        };
        add("plain", row.not_numbers_off);
        add("rotated", row.not_numbers_on);
    }
    return lines;
}

void print_not_numbers(std::FILE* out, const std::vector<std::string>& lines) {
    if (lines.empty()) return;
    fmt::print(out, "\nrescued: only rotated every figure is a number; broken: only plain.\n");
    for (const std::string& line : lines) fmt::print(out, "{}\n", line);
    std::fflush(out);
}

nlohmann::ordered_json json_of_row(const Row& row) {
    const auto side = [](const KldMeans& m, const NotNumbers& found) -> nlohmann::ordered_json {
        return {{"ppl", m.ppl_b.value},
                {"kld", m.kld.value},
                {"kld_se", m.kld.error},
                {"same_top", m.same_top.value},
                {"not_numbers", json_of(found)}};
    };
    nlohmann::ordered_json json = {{"type", type_info(row.type).name},
                                   {"bytes_per_token", row.bytes_per_token},
                                   {"plain", side(row.off, row.not_numbers_off)}};
    if (!row.on) return json;
    json["rotated"] = side(*row.on, row.not_numbers_on);
    json["p"] = row.p;
    return json;
}

int run_demo(Flags flags) {
    const auto start = std::chrono::steady_clock::now();
    flags.text = text_or_demo(flags.text);
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}}, {{"--json", flags.json}});
    LoadedModel loaded(flags.model, flags.ctx);
    const WindowPlan plan = plan_of(flags, loaded);
    loaded.note_windows(plan, flags.chunks);
    fmt::print(stderr, "{} on {} ({}), {}\n", flags.model.path, loaded.backend->name(),
               loaded.backend->description(), describe_windows(plan));

    fmt::print(stderr, "  f32, which the others are compared with ...\n");
    KvCache exact = make_cache(loaded.model, plan, DType::f32, DType::f32, k_no_rotation);
    const std::vector<float> base = run_hidden(loaded.model, exact, plan);
    std::vector<Row> rows;
    for (const DType type : usual_cache_types())
        rows.push_back(measure(loaded.model, plan, type, base));

    const bool latent = std::ranges::any_of(exact.shape().layers, &KvLayer::v_in_k);
    if (latent && std::ranges::any_of(rows, [](const Row& row) { return row.on.has_value(); })) {
        loaded.note(
            "rotated: latent rows in blocks of 64, as --rot-k on asks; the policy leaves "
            "them as they are");
    }
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    print_table(out, rows, exact.shape().bytes_per_token());
    fmt::print(out, k_legend, plan.windows, k_doubt, plan.windows * plan.scored_per_window());
    const std::vector<std::string> lines = lines_of(rows);
    print_not_numbers(out, lines);
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
    end_without_numbers(lines);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-demo -m SmolLM2-135M-Instruct.Q4_1.gguf\n"
    "  rotkv-demo -m model.gguf -f essay.txt --chunks 8 -c 1024\n";

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
