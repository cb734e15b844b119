// rotkv-sweep: every K type with every V type, rotated and not: perplexity and KL divergence from a
// base, in one file that can be continued after any interruption.
// Docs: docs/12-sweeps.md

#include "ref/error.h"
#include "ref/files/fnv1a.h"
#include "ref/files/model_fingerprint.h"
#include "tools/compare/precision_floor.h"
#include "tools/layer_words.h"
#include "tools/list_flags.h"
#include "tools/notes.h"
#include "tools/plot.h"
#include "tools/rotation_of_both.h"
#include "tools/sweep_file.h"
#include "tools/sweep_lists.h"
#include "tools/sweep_progress.h"
#include "tools/sweep_report.h"
#include "tools/sweep_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>

namespace rotkv::tools {
namespace {

constexpr const char* k_tool = "rotkv-sweep";

struct Flags {
    ModelFlags model;
    WindowFlags windows;
    std::string text, base = "k=f32,v=f32", types_k = usual_types(), types_v = types_k;
    std::string formats, rot = "off,auto", place;
    std::string out, plot, json, csv;
    int64_t base_memory = 1024;
    bool so_far = false, quiet = false;

    void add_to(CLI::App& app);

    void check() const;

    std::FILE* results() const { return results_beside(json, csv); }

  private:
    void add_outputs(CLI::App& app);
};

void Flags::check() const {
    static_cast<void>(results());
    std::vector<NamedPath> outputs{{"--out", out}, {"--json", json}, {"--csv", csv}};
    if (!plot.empty() && formats.empty()) {
        for (const char* end : {"-ppl.png", "-kld.png", "-pareto.png"}) {
            outputs.push_back({"--plot", plot + end});
        }
    } else if (!plot.empty()) {
        outputs.push_back({"--plot", plot + "-formats.png"});
    }
    check_paths({{"-m", model.path}, {"-f", text}}, outputs);
    if (so_far && !std::filesystem::exists(out)) {
        throw Error(ErrorCode::usage, fmt::format("--so-far: expected a file at --out {}", out));
    }
}

void Flags::add_to(CLI::App& app) {
    model.add_to(app);
    app.add_option("-f,--file", text, "the text")->required()->type_name("FILE");
    windows.add_to(app);
    app.add_option("--cache-type-k", types_k, "(-ctk) types of K, separated by commas")
        ->capture_default_str()
        ->type_name("TYPES");
    app.add_option("--cache-type-v", types_v, "(-ctv) types of V")
        ->capture_default_str()
        ->type_name("TYPES");
    app.add_option(
           "--formats", formats,
           "types and formats that K and V have at once, for a table of formats; all: every "
           "type and every format")
        ->check(refuse_empty)
        ->excludes("--cache-type-k")
        ->excludes("--cache-type-v")
        ->type_name("TYPES");
    app.add_option("--rot", rot,
                   std::string("rotations of both sides: ") + rotation_choices_of_both())
        ->capture_default_str()
        ->type_name("LIST");
    app.add_option("--base", base, "the cache they are compared with, as in rotkv-kld")
        ->capture_default_str()
        ->type_name("CACHE");
    add_whole(app, "--base-memory", base_memory, 0, int64_t(1) << 30,
              "MiB that the base's hidden states may take; where they need more, every cell "
              "computes them again")
        ->type_name("MIB");
    add_place_flag(app, place);
    add_outputs(app);
}

void Flags::add_outputs(CLI::App& app) {
    app.add_option("--out", out, "the sweep's file, begun or continued: one line a cell")
        ->required()
        ->type_name("FILE");
    app.add_option("--plot", plot,
                   "draw PREFIX-ppl.png, PREFIX-kld.png and PREFIX-pareto.png; of --formats "
                   "PREFIX-formats.png")
        ->type_name("PREFIX");
    app.add_flag("--so-far", so_far, "compute nothing: what the file has, the rest is not run");
    add_json_flag(app, json);
    app.add_option("--csv", csv, "also write the cells as a table; - is standard output")
        ->type_name("FILE");
    app.add_flag("--quiet", quiet, "no progress");
}

/// A model, a text and a matrix of caches.
struct Setup {
    SweepTypes types;
    std::vector<AskedRotation> rotations;
    Variant base;
    Placement placement;
    std::string text;
    LoadedModel loaded;
    WindowPlan plan;

    explicit Setup(const Flags& flags)
        : types(parse_sweep_types(flags.types_k, flags.types_v, flags.formats)),
          rotations(rotations_of("--rot", flags.rot)),
          base(parse_variant("--base", flags.base, Variant{})),
          placement(flags.place.empty() ? Placement() : parse_placement("--place", flags.place)),
          text(read_text(flags.text)),
          loaded(flags.model, flags.windows.ctx()),
          plan(plan_windows(tokens_of_text(loaded, text), flags.windows.ctx(),
                            flags.windows.batch(flags.windows.ctx()), flags.windows.chunks,
                            loaded.bos_of_windows())) {
        loaded.note_windows(plan, flags.windows.chunks);
        Placement of_layers;  // a layer that the model does not have fits no cell
        of_layers.layers = placement.layers;
        static_cast<void>(
            of_layers.in(loaded.model.config().cache_shape(1, plan.ctx, DType::f32, DType::f32)));
    }
};

// Everything that a figure depends on: rows under another first line are another sweep's.
nlohmann::ordered_json header_of(const Flags& flags, const Setup& setup, const SweepRun& run,
                                 const std::vector<SweepPoint>& cells) {
    const auto file_name = [](const std::string& path) {
        return std::filesystem::path(path).filename().string();
    };
    Fnv1a text_hash;
    text_hash.add(std::as_bytes(std::span(setup.text)));
    const auto names = [](const std::vector<CacheType>& types) {
        std::vector<std::string> all;
        for (const CacheType& type : types) all.push_back(type.name());
        return all;
    };
    nlohmann::ordered_json json;
    json["rotkv_sweep"] = 1;
    json["version"] = version_of_build();
    json["model"] = file_name(flags.model.path);
    json["notices"] = setup.loaded.notices;
    json["model_bytes"] = setup.loaded.file.file_bytes();
    json["model_hash"] = fmt::format("{:016x}", model_hash(setup.loaded.file));
    json["text"] = file_name(flags.text);
    json["text_bytes"] = setup.text.size();
    json["text_hash"] = fmt::format("{:016x}", text_hash.sum());
    json["n_ctx"] = setup.plan.ctx;
    json["windows"] = setup.plan.windows;
    json["scored"] = setup.plan.windows * setup.plan.scored_per_window();
    json["tokens_hash"] = fmt::format("{:016x}", hash_of_windows(setup.plan));
    json["bos"] = bos_of(setup.plan);
    json["n_batch"] = setup.plan.batch;
    json["phi3_window"] = flags.model.phi3_window;
    json["backend"] = setup.loaded.backend->name();
    json["device"] = setup.loaded.backend->description();
    json["precision"] = json_of(setup.loaded.model.options().precision);
    json["base"] = {{"k", setup.base.type_k.name()},
                    {"v", setup.base.type_v.name()},
                    {"rotation", rotations_in_words(run.base_spec(), run.base_shape())}};
    if (setup.base.placement.any()) json["base"]["words"] = setup.base.name;
    if (setup.placement.any()) json["place"] = flags.place;
    json["values_per_token"] = values_per_token(run.base_shape());
    if (setup.types.same) json["same"] = true;
    json["k"] = names(setup.types.k);
    json["v"] = names(setup.types.v);
    json["rot"] = nlohmann::ordered_json::array();
    for (const AskedRotation& asked : setup.rotations) json["rot"].push_back(asked.text);
    const auto matrices = hashes_of_matrices(setup.rotations, cells);
    if (!matrices.empty()) json["matrices"] = matrices;
    return json;
}

SweepRow empty_row(const SweepPoint& cell) {
    SweepRow row;
    row.k = cell.variant.type_k.name();
    row.v = cell.variant.type_v.name();
    row.rot = cell.rot;
    row.unsupported = cell.unsupported;
    return row;
}

void describe_cache_of(SweepRow& row, const SweepPoint& cell) {
    if (!row.found) return;
    row.rotation = rotations_in_words(cell.spec, cell.shape);
    row.bytes_per_token = int64_t(std::ceil(mean_bytes_per_token(cell.shape)));
}

// What is not a number in a cell, and why.
NotNumbers not_numbers_of_cell(const SweepPoint& cell, std::span<const TokenPair> pairs,
                               const Setup& setup) {
    NotNumbers found = not_numbers_of(pairs, setup.plan);
    if (found.in_base) {
        found.cause = "the base is none there";
    } else {
        find_cause(found, setup.loaded.model, setup.plan, cell.shape, cell.spec);
    }
    return found;
}

SweepRow measured_row(const SweepPoint& cell, SweepRun& run, const Setup& setup,
                      SweepProgress& progress) {
    SweepRow row = empty_row(cell);
    const auto start = std::chrono::steady_clock::now();
    try {
        const std::vector<TokenPair> pairs = run.measure(cell, [&]() { progress.group_done(); });
        row.found = sweep_figures(pairs, setup.plan.scored_per_window());
        row.found->not_numbers = not_numbers_of_cell(cell, pairs, setup);
    } catch (const Error& error) {
        if (error.code() != ErrorCode::unsupported) throw;
        row.unsupported = error.what();
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    row.seconds = std::round(seconds.count() * 100) / 100;
    describe_cache_of(row, cell);
    return row;
}

// A row that needs no computing: taken over from an earlier one, or the reason why there is none.
SweepRow other_row(const SweepPoint& cell, const std::vector<SweepRow>& rows) {
    SweepRow row = empty_row(cell);
    if (!cell.same_as) return row;
    const SweepRow& earlier = rows[*cell.same_as];
    row.unsupported = earlier.unsupported;
    row.found = earlier.found;
    row.same_as = row.found ? earlier.name() : "";
    describe_cache_of(row, cell);
    return row;
}

// The cells that are missing, shared among all processes. Only the first one has the file.
void compute(SweepFile* file, const std::vector<SweepPoint>& cells, SweepRun& run,
             const Setup& setup, SweepProgress& progress) {
    const int64_t done = from_first(file != nullptr ? int64_t(file->rows().size()) : 0);
    std::vector<std::size_t> missing;
    for (std::size_t i = std::size_t(done); i < cells.size(); ++i) {
        if (cells[i].to_compute()) missing.push_back(i);
    }
    if (!missing.empty()) run.start();
    const int64_t rounds = (int64_t(missing.size()) + ranks().size - 1) / ranks().size;
    progress.start(rounds * groups_of(setup.plan));
    const auto append = [&](const SweepRow& row) {
        file->append(row);
        progress.row_done(file->rows().size() - 1, row);
    };
    const auto append_others_until = [&](std::size_t end) {
        while (file->rows().size() < end) {
            append(other_row(cells[file->rows().size()], file->rows()));
        }
    };
    share<char>(
        int64_t(missing.size()),
        [&](int64_t i) {
            const std::size_t index = missing[std::size_t(i)];
            progress.begin_cell(index, cells[index].variant.name);
            const std::string line = line_of(measured_row(cells[index], run, setup, progress));
            return std::vector<char>(line.begin(), line.end());
        },
        [&](int64_t i, std::span<const char> line) {
            append_others_until(missing[std::size_t(i)]);
            append(parse_row(nlohmann::ordered_json::parse(line.begin(), line.end())));
            return true;
        });
    if (file != nullptr) append_others_until(cells.size());
}

// What the file has; a cell that it does not have is a row that says so.
std::vector<SweepRow> rows_so_far(const SweepFile& file, const std::vector<SweepPoint>& cells) {
    std::vector<SweepRow> rows = file.rows();
    while (rows.size() < cells.size()) {
        rows.push_back(empty_row(cells[rows.size()]));
        if (rows.back().unsupported.empty()) rows.back().unsupported = k_not_run;
    }
    return rows;
}

void say_what_happens(const Flags& flags, const Setup& setup, const SweepRun& run,
                      const SweepFile& file, std::size_t cells) {
    if (file.torn_bytes() > 0) {
        say_note(k_tool, fmt::format("{}: its last line was torn, {} bytes dropped", flags.out,
                                     file.torn_bytes()));
    }
    if (flags.quiet) return;
    fmt::print(stderr, "{} on {} ({})\nbase {}, {}\n", flags.model.path,
               setup.loaded.backend->name(), setup.loaded.backend->description(), setup.base.name,
               describe_windows(setup.plan));
    if (!run.keeps_base()) {
        fmt::print(stderr, "the base does not fit into --base-memory {}: computed for every cell\n",
                   flags.base_memory);
    }
    if (!file.rows().empty()) {
        fmt::print(stderr, "{}: {} of {} cells are there\n", flags.out, file.rows().size(), cells);
    }
    if (file.rows().size() < cells && !flags.so_far) fmt::print(stderr, "the base comes first\n");
}

int run_sweep(const Flags& flags) {
    flags.check();
    std::optional<Plotter> plotter;
    if (!flags.plot.empty() && ranks().first()) plotter.emplace();
    Setup setup(flags);
    require_same_everywhere(setup.loaded, setup.plan);
    SweepRun run(setup.loaded.model, setup.plan, setup.base, flags.base_memory << 20);
    const std::vector<SweepPoint> cells =
        sweep_cells(setup.loaded.model, setup.plan, setup.types, setup.rotations, setup.placement);
    std::vector<std::string> names;
    for (const SweepPoint& cell : cells) names.push_back(cell.variant.name);
    const nlohmann::ordered_json header = header_of(flags, setup, run, cells);
    std::optional<SweepFile> file;
    if (ranks().first()) {
        file.emplace(flags.out, header, names);
        say_what_happens(flags, setup, run, *file, cells.size());
    }
    SweepProgress progress(flags.quiet, cells.size(), groups_of(setup.plan));
    if (!flags.so_far) compute(file ? &*file : nullptr, cells, run, setup, progress);
    if (!file) return k_good;

    const SweepResult result{header["k"],        header["v"],
                             header["rot"],      header["values_per_token"],
                             setup.plan.windows, rows_so_far(*file, cells),
                             setup.types.same};
    print_sweep(flags.results(), result);
    nlohmann::ordered_json json = header;
    json.update(json_of(result));
    write_json(flags.json, json);
    write_csv(flags.csv, result);
    const std::vector<std::string> lines = not_number_lines(result.rows);
    // Where nothing is a number there is nothing to draw, and that is what should be said.
    const bool nothing = !lines.empty() && std::ranges::none_of(result.rows, &SweepRow::is_number);
    if (plotter && !nothing && result.same) {
        plotter->draw({"formats", flags.out, flags.plot + "-formats.png"});
    } else if (plotter && !nothing) {
        plotter->draw({"sweep", flags.out, flags.plot});
    }
    end_without_numbers(lines);
    return k_good;
}

constexpr const char* k_examples =
    "  rotkv-sweep -m model.gguf -f wiki.test.raw --chunks 4 --out sweep.jsonl --plot sweep\n"
    "  rotkv-sweep -m model.gguf -f wiki.test.raw -ctk q8_0,q4_0 -ctv q8_0,q4_0 --rot off,auto,32 "
    "--out small.jsonl\n"
    "  rotkv-sweep -m model.gguf -f wiki.test.raw -c 256 --chunks 8 --formats all --rot "
    "off,64,signed:1,signed:2 --out formats.jsonl --plot zoo\n";

}  // namespace
}  // namespace rotkv::tools

int main(int argc, char** argv) {
    using namespace rotkv::tools;
    CLI::App app("Perplexity and KL divergence of every K type with every V type, rotated and not.",
                 "rotkv-sweep");
    Flags flags;
    flags.add_to(app);
    return run_tool(
        app, argc, argv, k_examples, [&]() { return run_sweep(flags); }, RunAs::many);
}
