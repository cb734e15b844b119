#include "tools/outlier_run.h"

#include "ref/error.h"
#include "ref/quant.h"
#include "tools/compare/precision_floor.h"
#include "tools/outlier_files.h"
#include "tools/outlier_report.h"

#include <fmt/format.h>

#include <cmath>

namespace rotkv::tools {

void OutlierOptions::add_to(CLI::App& app) {
    add_whole(app, "-c,--ctx-size", ctx, 3, int64_t(1) << 20, "tokens per window");
    WindowFlags::add_chunks_to(app, asked_chunks, "windows at most; -1: all (default 4)");
    app.add_option("--cache-type-k", type_k, "(-ctk) judge K in this type (default: in all)")
        ->type_name("TYPE");
    app.add_option("--cache-type-v", type_v, "(-ctv) judge V in this type (default: in all)")
        ->type_name("TYPE");
}

namespace {

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

SurveyPlan survey_plan(const OutlierOptions& options, const ModelConfig& config) {
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
    plan.types_k = types_of("-ctk", options.type_k, plan, CapturedRows::What::k);
    plan.types_v = types_of("-ctv", options.type_v, plan, CapturedRows::What::v);
    plan.keep_rows = options.keep_rows;
    return plan;
}

// Runs the text with an exact cache, so that what is measured is the model and not the damage.
void run_text(LoadedModel& loaded, const WindowPlan& plan, Survey& survey, const RunWatch& watch) {
    Model model =
        observed(loaded.model, capture([&](const CapturedRows& rows) { survey.add(rows); }));
    const RotationRequest off =
        RotationRequest::both({.mode = RotationRequest::Mode::off, .origin = "rotkv-outliers"});
    KvCache cache = make_cache(model, plan, DType::f32, DType::f32, off);
    for_each_scored(model, cache, plan,
                    [&](const ScoredRows& rows) { watch.say_step(rows.window + 1, plan.windows); });
}

}  // namespace

OutlierRun run_outliers(LoadedModel& loaded, const std::string& text, const OutlierOptions& options,
                        const RunWatch& watch) {
    OutlierRun run{Survey(survey_plan(options, loaded.model.config())), {}, {}};
    run.plan =
        plan_windows(tokens_of_text(loaded, text), options.ctx, options.ctx,
                     options.asked_chunks == 0 ? 4 : options.asked_chunks, loaded.bos_of_windows());
    loaded.note_windows(run.plan, options.asked_chunks);
    watch.say_planned(run.plan);
    run_text(loaded, run.plan, run.survey, watch);
    add_k_biases(run.survey, loaded.file);
    run.not_numbers = not_number_lines(run.survey);
    return run;
}

nlohmann::ordered_json json_of(const LoadedModel& loaded, const OutlierRun& run) {
    nlohmann::ordered_json json = {{"model", loaded.file.path()},
                                   {"notices", loaded.notices},
                                   {"backend", loaded.backend->name()},
                                   {"device", loaded.backend->description()},
                                   {"precision", json_of(loaded.model.options().precision)},
                                   {"n_ctx", run.plan.ctx},
                                   {"chunks", run.plan.windows},
                                   {"bos", bos_of(run.plan)},
                                   {"tokens", run.plan.ctx * run.plan.windows}};
    json.update(json_of(run.survey));
    json["not_numbers"] = run.not_numbers;
    return json;
}

}  // namespace rotkv::tools
