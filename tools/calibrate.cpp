// rotkv-calibrate: rotations of K and V made for a model from a text, one for each layer and KV
// head, and whether they keep on text that they were not made from what they promise.
// Docs: docs/23-matrix-rotations.md

#include "ref/error.h"
#include "ref/files/output_file.h"
#include "tools/calibrated_rotation.h"
#include "tools/layer_words.h"
#include "tools/loaded_model.h"
#include "tools/number_flags.h"
#include "tools/output_paths.h"

#include <fmt/format.h>
#include <xtensor/xadapt.hpp>
#include <xtensor/xnpy.hpp>

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-calibrate";
using Part = Calibration::Part;

struct Flags {
    ModelFlags model;
    std::string text, out, json, type_k = "q4_0", type_v = "q4_0", kind = "oscar";
    int64_t ctx = 256, chunks = 8, held_out = 2, rows = 256;
    bool quiet = false;

    std::string file_of(Side side) const { return out + (side == Side::k ? "-k.npy" : "-v.npy"); }
    CalibratedKind calibrated_kind() const {
        return kind == "pca" ? CalibratedKind::pca : CalibratedKind::oscar;
    }

    void add_to(CLI::App& app) {
        model.add_to(app);
        app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
        app.add_option("-o,--out", out, "write PREFIX-k.npy and PREFIX-v.npy")
            ->required()
            ->type_name("PREFIX");
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
        add_json_flag(app, json);
        app.add_flag("--quiet", quiet, "no progress");
    }
};

struct TextRun {
    WindowPlan plan;
    int64_t in_text = 0;  ///< windows that the text has
};

// Runs the text with an exact cache; the last windows are held out.
TextRun run_text(const Flags& flags, LoadedModel& loaded, Calibration& seen) {
    Model model =
        observed(loaded.model, capture([&](const CapturedRows& rows) { seen.add(rows); }));
    std::vector<int32_t> tokens = tokens_of_text(loaded, read_text(flags.text));
    const int64_t in_text = int64_t(tokens.size()) / flags.ctx;
    const WindowPlan plan = plan_windows(std::move(tokens), flags.ctx, flags.ctx, flags.chunks,
                                         loaded.bos_of_windows());
    loaded.note_windows(plan, flags.chunks);
    if (plan.windows <= flags.held_out) {
        throw Error(ErrorCode::usage,
                    fmt::format("--held-out {}: expected windows to learn from before them, found "
                                "{} in all",
                                flags.held_out, plan.windows));
    }
    const RotationRequest off =
        RotationRequest::both({.mode = RotationRequest::Mode::off, .origin = k_tool});
    KvCache cache = make_cache(model, plan, DType::f32, DType::f32, off);
    for_each_scored(model, cache, plan, [&](const ScoredRows& rows) {
        if (!rows.ends_window) return;
        const int64_t done = rows.window + 1;
        if (done == plan.windows - flags.held_out) seen.begin(Part::held_out);
        if (!flags.quiet) fmt::print(stderr, "{}: window {} of {}\n", k_tool, done, plan.windows);
    });
    return {plan, in_text};
}

/// How far a side is off under one rotation: geometric means over layers and heads.
struct Errors {
    double learnt = 0, held_out = 0;
    int64_t worse = 0;  ///< heads whose held-out error is larger than without a rotation
};

/// One side: the ways it may be turned, and what each comes to.
struct SideReport {
    std::vector<std::string> ways;
    std::vector<Errors> errors;
    int64_t heads = 0;
};

// The matrix of one layer and head under one way; empty: none.
std::span<const float> matrix_of(const std::vector<float>& all, int64_t place, int64_t d) {
    if (all.empty()) return {};
    const std::size_t size = std::size_t(d * d);
    return std::span(all).subspan(all.size() == size ? 0 : std::size_t(place) * size, size);
}

SideReport judge(const Calibration& seen, Side side, const CacheType& type, int64_t layers,
                 const std::string& kind, const std::vector<float>& calibrated) {
    const int64_t d = seen.d(side);
    SideReport report{.ways = {"none"}, .errors = {}};
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
    matrices.push_back(calibrated);
    report.errors.resize(matrices.size());
    for (int64_t place = 0; place < layers * seen.kv_heads(); ++place) {
        const int64_t layer = place / seen.kv_heads(), head = place % seen.kv_heads();
        if (!seen.has_rows(layer)) continue;
        ++report.heads;
        double plain = 0;
        for (std::size_t way = 0; way < matrices.size(); ++way) {
            const auto error = [&](Part part) {
                return type_error(type, seen.seen(part, layer, head), side,
                                  matrix_of(matrices[way], place, d));
            };
            const double held_out = error(Part::held_out);
            if (way == 0) plain = held_out;
            report.errors[way].learnt += std::log(error(Part::learnt));
            report.errors[way].held_out += std::log(held_out);
            report.errors[way].worse += held_out > plain;
        }
    }
    for (Errors& errors : report.errors) {
        errors.learnt = std::exp(errors.learnt / double(report.heads));
        errors.held_out = std::exp(errors.held_out / double(report.heads));
    }
    return report;
}

void print_side(std::FILE* out, const SideReport& report, Side side, const CacheType& type) {
    fmt::print(out, "\n{} in {}, {} heads: {}\n", letter(side), type.name(), report.heads,
               side == Side::k ? "mean square of q.e over that of q.k"
                               : "mean square of the error over that of the value");
    fmt::print(out, "  {:<12} {:>12} {:>12} {:>14}\n", "rotation", "expected", "held out",
               "heads worse");
    for (std::size_t i = 0; i < report.ways.size(); ++i) {
        fmt::print(out, "  {:<12} {:>12.5g} {:>12.5g} {:>14}\n", report.ways[i],
                   report.errors[i].learnt, report.errors[i].held_out, report.errors[i].worse);
    }
}

nlohmann::ordered_json json_of_report(const SideReport& report, const CacheType& type) {
    nlohmann::ordered_json json = {{"type", type.name()}, {"heads", report.heads}};
    for (std::size_t i = 0; i < report.ways.size(); ++i) {
        json["rotations"].push_back({{"rotation", report.ways[i]},
                                     {"expected", report.errors[i].learnt},
                                     {"held_out", report.errors[i].held_out},
                                     {"heads_worse", report.errors[i].worse}});
    }
    return json;
}

void write_matrices(const std::string& path, const std::vector<float>& all, int64_t layers,
                    const Calibration& seen, Side side) {
    const std::vector<std::size_t> shape = {std::size_t(layers), std::size_t(seen.kv_heads()),
                                            std::size_t(seen.d(side)), std::size_t(seen.d(side))};
    OutputFile file(path);
    file.write(xt::dump_npy(xt::adapt(all, shape)));
    file.finish();
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

int run_calibrate(const Flags& flags) {
    check_paths({{"-m", flags.model.path}, {"-f", flags.text}}, {{"--out", flags.file_of(Side::k)},
                                                                 {"--out", flags.file_of(Side::v)},
                                                                 {"--json", flags.json}});
    LoadedModel loaded(flags.model, flags.ctx);
    const ModelConfig& config = loaded.model.config();
    Calibration seen(config.cache_shape(1, 1, DType::f32, DType::f32), flags.rows);
    const CacheType types[] = {type_for("-ctk", flags.type_k, seen.d(Side::k)),
                               type_for("-ctv", flags.type_v, seen.d(Side::v))};
    const auto [plan, in_text] = run_text(flags, loaded, seen);
    std::FILE* out = flags.json == "-" ? stderr : stdout;
    fmt::print(out, "{}: {} windows of {} tokens to learn from, {} held out; {} of {} in the text",
               flags.kind, plan.windows - flags.held_out, plan.ctx, flags.held_out, plan.windows,
               in_text);
    fmt::print(out, "{}\n", plan.windows < in_text ? ", the rest is not read (--chunks)" : "");
    nlohmann::ordered_json json = {
        {"model", flags.model.path},  {"notices", loaded.notices},
        {"kind", flags.kind},         {"n_ctx", plan.ctx},
        {"windows_of_text", in_text}, {"learnt", plan.windows - flags.held_out},
        {"held_out", flags.held_out}};
    for (const Side side : {Side::k, Side::v}) {
        const CacheType& type = types[side == Side::v];
        const std::vector<float> matrices =
            calibrated_matrices(seen, side, flags.calibrated_kind(), config.layers);
        const SideReport report = judge(seen, side, type, config.layers, flags.kind, matrices);
        print_side(out, report, side, type);
        json[side == Side::k ? "k" : "v"] = json_of_report(report, type);
        write_matrices(flags.file_of(side), matrices, config.layers, seen, side);
    }
    fmt::print(out, "\nuse: --rot-k file:{} --rot-v file:{}\n", flags.file_of(Side::k),
               flags.file_of(Side::v));
    write_json(flags.json, json);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-calibrate -m model.gguf -f text.txt -o model\n"
    "  rotkv-calibrate -m model.gguf -f text.txt -o model --kind pca -ctk q4_1 --chunks 32\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Rotations of K and V from a text, and what they come to on text held out.",
                 "rotkv-calibrate");
    Flags flags;
    flags.add_to(app);
    return run_tool(app, argc, argv, k_examples, [&]() { return run_calibrate(flags); });
}
