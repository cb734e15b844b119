// rotkv-outliers: what stands between a model's keys and values and few bits, and whether a
// rotation takes it away: statistics of every head, errors of every type, advice per side.
// Docs: docs/11-outliers.md

#include "ref/error.h"
#include "ref/quant.h"
#include "tools/compare/not_numbers.h"
#include "tools/compare/precision_floor.h"
#include "tools/loaded_model.h"
#include "tools/outlier_files.h"
#include "tools/outlier_report.h"
#include "tools/plot.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-outliers";

struct Flags {
    ModelFlags model;
    std::string type_k, type_v, text, json, csv, npy, plot;
    int64_t ctx = 512;
    int64_t asked_chunks = 0;  ///< 0: not asked for
    bool quiet = false;

    std::string picture() const { return plot.empty() ? "" : plot + "-outliers.png"; }

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
        add_whole(app, "-c,--ctx-size", ctx, 3, int64_t(1) << 20, "tokens per window");
        WindowFlags::add_chunks_to(app, asked_chunks, "windows at most; -1: all (default 4)");
        app.add_option("--cache-type-k", type_k, "(-ctk) judge K in this type (default: in all)")
            ->type_name("TYPE");
        app.add_option("--cache-type-v", type_v, "(-ctv) judge V in this type (default: in all)")
            ->type_name("TYPE");
        add_json_flag(app, json);
        app.add_option("--csv", csv, "write every head's figures here")->type_name("FILE");
        app.add_option("--npy", npy, "make this folder and write all Q, K, V into it")
            ->type_name("DIR");
        app.add_option("--plot", plot, "draw the rows of --npy into PREFIX-outliers.png")
            ->type_name("PREFIX");
        app.add_flag("--quiet", quiet, "print errors and advice only, no heads, no progress");
    }
};

// The types to judge on one side: the one asked for, or all that every layer can be stored in and
// that change it (f32 does not).
std::vector<CacheType> types_of(const std::string& flag, const std::string& asked,
                                const SurveyPlan& plan, CapturedRows::What side) {
    const auto fits = [&](const CacheType& type) {
        for (const SurveyLayer& layer : plan.layers) {
            const std::vector<HeadPart> parts = layer.parts(side);
            for (const HeadPart& part : parts) {
                std::string refusal = type.refusal(part.d);
                if (type.format() != nullptr && parts.size() > 1) {
                    refusal =
                        "a format keeps whole rows, and this program looks at parts of latent "
                        "ones";
                }
                if (refusal.empty()) continue;
                if (asked.empty()) return false;
                throw Error(ErrorCode::unsupported, fmt::format("{} {}: {}", flag, asked, refusal));
            }
        }
        return true;
    };
    if (!asked.empty()) {
        const CacheType type = parse_cache_type(flag, asked);
        fits(type);
        return {type};
    }
    std::vector<CacheType> types;
    for (const DType type : cache_types()) {
        if (type != DType::f32 && fits(type)) types.push_back(type);
    }
    return types;
}

// The norms of what the file adds to every key of a head.
void add_k_biases(Survey& survey, const GgufFile& file) {
    for (HeadSurvey& head : survey.heads()) {
        if (head.side != CapturedRows::What::k) continue;
        const int64_t d = survey.plan().at(head.layer).d_k;
        const GgufTensor* tensor = file.find_tensor(fmt::format("blk.{}.attn_k.bias", head.layer));
        if (tensor == nullptr) continue;
        std::vector<float> bias(static_cast<std::size_t>(tensor->n[0]));
        ref::check_dequantize_row(tensor->type, tensor->n[0]);
        ref::dequantize_row(tensor->type, bias.data(), tensor->view.data, tensor->n[0]);
        double square = 0;
        for (int64_t j = 0; j < d; ++j) {
            square += std::pow(double(bias[std::size_t(head.head * d + j)]), 2);
        }
        head.k_bias_norm = std::sqrt(square);
    }
}

SurveyPlan survey_plan(const Flags& flags, const ModelConfig& config) {
    SurveyPlan plan;
    const KvShape shape = config.cache_shape(1, 1, DType::f32, DType::f32);
    for (int64_t l = 0; l < config.layers; ++l) {
        const KvLayer& kept = shape.layers[std::size_t(l)];
        plan.layers.push_back({.heads = config.plan[std::size_t(l)].heads,
                               .kv_heads = kept.kv_heads,
                               .d_k = kept.d_k,
                               .d_v = kept.d_v,
                               .v_in_k = kept.v_in_k,
                               .rows_of = kept.source.value_or(l)});
    }
    plan.types_k = types_of("-ctk", flags.type_k, plan, CapturedRows::What::k);
    plan.types_v = types_of("-ctv", flags.type_v, plan, CapturedRows::What::v);
    plan.keep_rows = !flags.npy.empty();
    return plan;
}

// "64", or one a layer with rows of its own where they differ: "256,256,512".
std::string blocks_of(const Survey& survey, CapturedRows::What side) {
    std::vector<int64_t> blocks;
    for (std::size_t l = 0; l < survey.plan().layers.size(); ++l) {
        const SurveyLayer& layer = survey.plan().layers[l];
        const bool own = layer.kv_heads > 0 && layer.rows_of == int64_t(l);
        if (own) blocks.push_back(layer.block(side));
    }
    const bool alike = std::ranges::count(blocks, blocks[0]) == std::ssize(blocks);
    return alike ? std::to_string(blocks[0]) : fmt::format("{}", fmt::join(blocks, ","));
}

// Runs the text with an exact cache, so that what is measured is the model and not the damage.
WindowPlan run_text(const Flags& flags, LoadedModel& loaded, Survey& survey) {
    Model model =
        observed(loaded.model, capture([&](const CapturedRows& rows) { survey.add(rows); }));
    const WindowPlan plan =
        plan_windows(tokens_of_text(loaded, read_text(flags.text)), flags.ctx, flags.ctx,
                     flags.asked_chunks == 0 ? 4 : flags.asked_chunks, loaded.bos_of_windows());
    loaded.note_windows(plan, flags.asked_chunks);
    if (!flags.quiet) {
        fmt::print(stderr, "{} on {} ({}), {}\n", flags.model.path, loaded.backend->name(),
                   loaded.backend->description(), describe_windows(plan));
    }
    const RotationRequest off =
        RotationRequest::both({.mode = RotationRequest::Mode::off, .origin = k_tool});
    KvCache cache = make_cache(model, plan, DType::f32, DType::f32, off);
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        if (flags.quiet) return;
        fmt::print(stderr, "{}: window {} of {}\n", k_tool, rows.window + 1, plan.windows);
    });
    return plan;
}

int run_outliers(const Flags& flags) {
    if (flags.json == "-" && flags.csv == "-") {
        throw Error(ErrorCode::usage, "--json and --csv: standard output takes one of them");
    }
    if (!flags.plot.empty() && flags.npy.empty()) {
        throw Error(ErrorCode::usage, "--plot draws the rows that --npy DIR writes");
    }
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}, {"--npy", flags.npy}},
                {{"--json", flags.json}, {"--csv", flags.csv}, {"--plot", flags.picture()}});
    check_new_folder({"--npy", flags.npy});
    std::optional<Plotter> plotter;
    if (!flags.plot.empty()) plotter.emplace();
    LoadedModel loaded(flags.model, flags.ctx);
    Survey survey(survey_plan(flags, loaded.model.config()));
    const WindowPlan plan = run_text(flags, loaded, survey);
    add_k_biases(survey, loaded.file);

    std::FILE* out = flags.json == "-" || flags.csv == "-" ? stderr : stdout;
    const ModelPrecision precision = loaded.model.options().precision;
    if (precision != ModelPrecision{}) fmt::print(out, "model with {}\n", words_of(precision));
    print_layers(out, survey);
    if (!flags.quiet) print_heads(out, survey);
    print_errors(out, survey);
    print_advice(out, survey);
    const std::vector<std::string> lines = not_number_lines(survey);
    for (const std::string& line : lines) fmt::print(out, "{}\n", line);
    nlohmann::ordered_json json = {{"model", flags.model.path},
                                   {"notices", loaded.notices},
                                   {"backend", loaded.backend->name()},
                                   {"device", loaded.backend->description()},
                                   {"precision", json_of(precision)},
                                   {"n_ctx", plan.ctx},
                                   {"chunks", plan.windows},
                                   {"bos", bos_of(plan)},
                                   {"tokens", plan.ctx * plan.windows}};
    json.update(json_of(survey));
    write_json(flags.json, json);
    if (!flags.csv.empty()) write_csv(flags.csv, survey);
    if (!flags.npy.empty()) write_npy(flags.npy, survey);
    if (plotter) {
        plotter->draw({"outliers", flags.npy, flags.plot, blocks_of(survey, CapturedRows::What::k),
                       blocks_of(survey, CapturedRows::What::v)});
    }
    end_without_numbers(lines);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-outliers -m model.gguf -f wiki.test.raw\n"
    "  rotkv-outliers -m model.gguf -f wiki.test.raw --chunks 8 -ctk q4_1 -ctv q4_0 --quiet\n"
    "  rotkv-outliers -m model.gguf -f wiki.test.raw --csv heads.csv --npy rows "
    "--plot model\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Outliers of a model's Q, K and V, and what rotation does to each cache type.",
                 "rotkv-outliers");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_outliers(flags); });
}
