#include "tools/calibrate_run.h"

#include "ref/error.h"
#include "tools/layer_words.h"

#include <fmt/format.h>

#include <cmath>
#include <span>
#include <utility>

namespace rotkv::tools {

using Part = Calibration::Part;

void CalibrateOptions::add_to(CLI::App& app) {
    app.add_option("--kind", kind, "pca: eigenvectors; oscar: Hadamard of eigenvectors")
        ->check(CLI::IsMember({"pca", "oscar"}))
        ->capture_default_str()
        ->type_name("KIND");
    add_whole(app, "-c,--ctx-size", ctx, 3, int64_t(1) << 20, "tokens per window");
    add_whole(app, "--chunks", chunks, 2, int64_t(1) << 20, "windows, those held out included");
    add_whole(app, "--held-out", held_out, 1, int64_t(1) << 20,
              "windows at the end that nothing is learnt from");
    add_whole(app, "--rows", rows, 1, int64_t(1) << 20,
              "rows of a head that errors are measured on, in each part");
    app.add_option("--cache-type-k", type_k, "(-ctk) type that K's errors are told in")
        ->capture_default_str()
        ->type_name("TYPE");
    app.add_option("--cache-type-v", type_v, "(-ctv) type that V's errors are told in")
        ->capture_default_str()
        ->type_name("TYPE");
}

std::vector<std::string> CalibratedSide::not_number_lines() const {
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < ways.size(); ++i) {
        if (is_number(errors[i].learnt) && is_number(errors[i].held_out)) continue;
        lines.push_back(fmt::format("{} in {}: the error under {} is not a number", letter(side),
                                    type.name(), ways[i]));
    }
    return lines;
}

namespace {

// Runs the text with an exact cache; the last windows are held out.
void run_text(LoadedModel& loaded, const WindowPlan& plan, const CalibrateOptions& options,
              Calibration& seen, const RunWatch& watch) {
    Model model =
        observed(loaded.model, capture([&](const CapturedRows& rows) { seen.add(rows); }));
    const RotationRequest off =
        RotationRequest::both({.mode = RotationRequest::Mode::off, .origin = "rotkv-calibrate"});
    KvCache cache = make_cache(model, plan, DType::f32, DType::f32, off);
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        if (!rows.ends_window) return;
        const int64_t done = rows.window + 1;
        if (done == plan.windows - options.held_out) seen.begin(Part::held_out);
        watch.say_step(done, plan.windows);
    });
}

// The matrix of one layer and head under one way; empty: none.
std::span<const float> matrix_of(const std::vector<float>& all, int64_t place, int64_t d) {
    if (all.empty()) return {};
    const std::size_t size = std::size_t(d * d);
    return std::span(all).subspan(all.size() == size ? 0 : std::size_t(place) * size, size);
}

CalibratedSide judge(const Calibration& seen, CalibratedSide report, const std::string& kind) {
    const Side side = report.side;
    const int64_t d = seen.d(side), layers = int64_t(report.shape[0]);
    report.ways = {"none"};
    std::vector<std::vector<float>> matrices = {{}};
    for (const char* words : {"kronecker", "signed:1", "dense:1"}) {
        try {
            const MatrixPointer one = find_matrix_source(words)->at({.parts = {d}});
            matrices.emplace_back(one->values().begin(), one->values().end());
            report.ways.push_back(words);
        } catch (const Error&) {  // no Hadamard matrix of this size: a row less
        }
    }
    report.ways.push_back(kind);
    matrices.push_back(report.matrices);
    report.errors.resize(matrices.size());
    for (int64_t place = 0; place < layers * seen.kv_heads(); ++place) {
        const int64_t layer = place / seen.kv_heads(), head = place % seen.kv_heads();
        if (!seen.has_rows(layer)) continue;
        ++report.heads;
        double plain = 0;
        for (std::size_t way = 0; way < matrices.size(); ++way) {
            const auto error = [&](Part part) {
                return type_error(report.type, seen.seen(part, layer, head), side,
                                  matrix_of(matrices[way], place, d));
            };
            const double held_out = error(Part::held_out);
            if (way == 0) plain = held_out;
            report.errors[way].learnt += std::log(error(Part::learnt));
            report.errors[way].held_out += std::log(held_out);
            report.errors[way].worse += held_out > plain;
        }
    }
    for (CalibrationErrors& errors : report.errors) {
        errors.learnt = std::exp(errors.learnt / double(report.heads));
        errors.held_out = std::exp(errors.held_out / double(report.heads));
    }
    return report;
}

CacheType type_for(const char* flag, const std::string& name, int64_t d) {
    const CacheType type = parse_cache_type(flag, name);
    std::string refusal = type.refusal(d);
    if (type.group() > 1) {
        refusal = fmt::format("keeps {} tokens together, no row by itself", type.group());
    }
    if (refusal.empty()) return type;
    throw Error(ErrorCode::unsupported, fmt::format("{} {}: {}", flag, name, refusal));
}

}  // namespace

CalibrateRun run_calibrate(LoadedModel& loaded, const std::string& text,
                           const CalibrateOptions& options, const RunWatch& watch) {
    const ModelConfig& config = loaded.model.config();
    Calibration seen(config.cache_shape(1, 1, DType::f32, DType::f32), options.rows);
    const CacheType types[] = {type_for("-ctk", options.type_k, seen.d(Side::k)),
                               type_for("-ctv", options.type_v, seen.d(Side::v))};
    CalibrateRun run;
    std::vector<int32_t> tokens = tokens_of_text(loaded, text);
    run.in_text = int64_t(tokens.size()) / options.ctx;
    run.plan = plan_windows(std::move(tokens), options.ctx, options.ctx, options.chunks,
                            loaded.bos_of_windows());
    loaded.note_windows(run.plan, options.chunks);
    if (run.plan.windows <= options.held_out) {
        throw Error(ErrorCode::usage,
                    fmt::format("--held-out {}: expected windows to learn from before them, found "
                                "{} in all",
                                options.held_out, run.plan.windows));
    }
    watch.say_planned(run.plan);
    run_text(loaded, run.plan, options, seen, watch);
    for (const Side side : {Side::k, Side::v}) {
        CalibratedSide one;
        one.side = side;
        one.type = types[side == Side::v];
        const std::size_t d = std::size_t(seen.d(side));
        one.shape = {std::size_t(config.layers), std::size_t(seen.kv_heads()), d, d};
        one.matrices = calibrated_matrices(seen, side, options.calibrated_kind(), config.layers);
        run.sides.push_back(judge(seen, std::move(one), options.kind));
        const std::vector<std::string> lines = run.sides.back().not_number_lines();
        run.not_numbers.insert(run.not_numbers.end(), lines.begin(), lines.end());
    }
    return run;
}

static nlohmann::ordered_json json_of_report(const CalibratedSide& report) {
    nlohmann::ordered_json json = {{"type", report.type.name()}, {"heads", report.heads}};
    for (std::size_t i = 0; i < report.ways.size(); ++i) {
        json["rotations"].push_back({{"rotation", report.ways[i]},
                                     {"expected", report.errors[i].learnt},
                                     {"held_out", report.errors[i].held_out},
                                     {"heads_worse", report.errors[i].worse}});
    }
    return json;
}

nlohmann::ordered_json json_of(const LoadedModel& loaded, const CalibrateRun& run,
                               const CalibrateOptions& options) {
    nlohmann::ordered_json json = {
        {"model", loaded.file.path()},    {"notices", loaded.notices},
        {"kind", options.kind},           {"n_ctx", run.plan.ctx},
        {"windows_of_text", run.in_text}, {"learnt", run.plan.windows - options.held_out},
        {"held_out", options.held_out}};
    for (const CalibratedSide& side : run.sides) {
        json[side.side == Side::k ? "k" : "v"] = json_of_report(side);
    }
    json["not_numbers"] = run.not_numbers;
    return json;
}

}  // namespace rotkv::tools
