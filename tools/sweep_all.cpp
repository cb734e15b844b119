#include "tools/sweep_all.h"

#include "ref/error.h"
#include "ref/files/fnv1a.h"
#include "ref/files/model_fingerprint.h"
#include "tools/compare/precision_floor.h"
#include "tools/layer_words.h"
#include "tools/rotation_of_both.h"
#include "tools/sweep_progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>

namespace rotkv::tools {

void SweepOptions::add_to(CLI::App& app) {
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
    app.add_option("--out", out, "the sweep's file, begun or continued: one line a cell")
        ->type_name("FILE");
    app.add_flag("--so-far", so_far, "compute nothing: what the file has, the rest is not run");
}

SweepAsked::SweepAsked(const SweepOptions& options)
    : types(parse_sweep_types(options.types_k, options.types_v, options.formats)),
      rotations(rotations_of("--rot", options.rot)),
      base(parse_variant("--base", options.base, Variant{})),
      placement(options.place.empty() ? Placement() : parse_placement("--place", options.place)) {
    if (options.so_far && (options.out.empty() || !std::filesystem::exists(options.out))) {
        throw Error(ErrorCode::usage,
                    fmt::format("--so-far: expected a file at --out {}", options.out));
    }
}

namespace {

/// A model, a text and a matrix of caches.
struct Setup {
    LoadedModel& loaded;
    const NamedText& text;
    const SweepAsked& asked;
    WindowPlan plan;

    Setup(LoadedModel& model, const NamedText& named, const SweepOptions& options,
          const SweepAsked& caches)
        : loaded(model),
          text(named),
          asked(caches),
          plan(plan_windows(tokens_of_text(loaded, text.text), options.windows.ctx(),
                            options.windows.batch(options.windows.ctx()), options.windows.chunks,
                            loaded.bos_of_windows())) {
        loaded.note_windows(plan, options.windows.chunks);
        // Layers that the model does not have fit no cell.
        static_cast<void>(asked.placement.in(
            loaded.model.config().cache_shape(1, plan.ctx, DType::f32, DType::f32)));
    }
};

// Everything that a figure depends on: rows under another first line are another sweep's.
nlohmann::ordered_json header_of(const SweepOptions& options, const Setup& setup,
                                 const SweepRun& run, const std::vector<SweepPoint>& cells) {
    const auto file_name = [](const std::string& path) {
        return std::filesystem::path(path).filename().string();
    };
    Fnv1a text_hash;
    text_hash.add(std::as_bytes(std::span(setup.text.text)));
    const auto names = [](const std::vector<CacheType>& types) {
        std::vector<std::string> all;
        for (const CacheType& type : types) all.push_back(type.name());
        return all;
    };
    nlohmann::ordered_json json;
    json["rotkv_sweep"] = 1;
    json["version"] = version_of_build();
    json["model"] = file_name(setup.loaded.file.path());
    json["notices"] = setup.loaded.notices;
    json["model_bytes"] = setup.loaded.file.file_bytes();
    json["model_hash"] = fmt::format("{:016x}", model_hash(setup.loaded.file));
    json["text"] = file_name(setup.text.name);
    json["text_bytes"] = setup.text.text.size();
    json["text_hash"] = fmt::format("{:016x}", text_hash.sum());
    json["n_ctx"] = setup.plan.ctx;
    json["windows"] = setup.plan.windows;
    json["scored"] = setup.plan.windows * setup.plan.scored_per_window();
    json["tokens_hash"] = fmt::format("{:016x}", hash_of_windows(setup.plan));
    json["bos"] = bos_of(setup.plan);
    json["n_batch"] = setup.plan.batch;
    json["phi3_window"] = setup.loaded.model.options().phi3_window;
    json["backend"] = setup.loaded.backend->name();
    json["device"] = setup.loaded.backend->description();
    json["precision"] = json_of(setup.loaded.model.options().precision);
    json["base"] = {{"k", setup.asked.base.type_k.name()},
                    {"v", setup.asked.base.type_v.name()},
                    {"rotation", rotations_in_words(run.base_spec(), run.base_shape())}};
    if (setup.asked.base.placement.any()) json["base"]["words"] = setup.asked.base.name;
    if (setup.asked.placement.any()) json["place"] = options.place;
    json["values_per_token"] = values_per_token(run.base_shape());
    if (setup.asked.types.same) json["same"] = true;
    json["k"] = names(setup.asked.types.k);
    json["v"] = names(setup.asked.types.v);
    json["rot"] = nlohmann::ordered_json::array();
    for (const AskedRotation& asked : setup.asked.rotations) json["rot"].push_back(asked.text);
    const auto matrices = hashes_of_matrices(setup.asked.rotations, cells);
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

}  // namespace

void SweepAnswer::require_measured() const {
    if (result.rows.empty() || std::ranges::any_of(result.rows, [](const SweepRow& row) {
            return row.found || row.unsupported == k_not_run;
        })) {
        return;
    }
    const SweepRow& first = result.rows.front();
    throw Error(ErrorCode::unsupported,
                "no cell could be measured: " + first.name() + ": " + first.unsupported);
}

SweepAnswer run_sweep(LoadedModel& loaded, const NamedText& text, const SweepOptions& options,
                      const SweepAsked& asked, bool quiet, const RunWatch& watch,
                      const std::function<void(const SweepStart&)>& started) {
    const Setup setup(loaded, text, options, asked);
    require_same_everywhere(loaded, setup.plan);
    SweepRun run(loaded.model, setup.plan, asked.base, options.base_memory << 20);
    const std::vector<SweepPoint> cells =
        sweep_cells(loaded.model, setup.plan, asked.types, asked.rotations, asked.placement);
    require_some_supported(cells);
    std::vector<std::string> names;
    for (const SweepPoint& cell : cells) names.push_back(cell.variant.name);
    SweepAnswer answer{
        .header = header_of(options, setup, run, cells), .result = {}, .not_numbers = {}};
    std::optional<SweepFile> file;
    if (ranks().first()) {
        file.emplace(options.out, answer.header, names);
        if (started) {
            started({setup.plan, run.keeps_base(), cells.size(), file->rows().size(),
                     file->torn_bytes()});
        }
    }
    SweepProgress progress(quiet, cells.size(), groups_of(setup.plan), watch.step);
    if (!options.so_far) compute(file ? &*file : nullptr, cells, run, setup, progress);
    if (!file) return answer;
    answer.result = {answer.header["k"],   answer.header["v"],
                     answer.header["rot"], answer.header["values_per_token"],
                     setup.plan.windows,   rows_so_far(*file, cells),
                     asked.types.same};
    answer.not_numbers = not_number_lines(answer.result.rows);
    return answer;
}

nlohmann::ordered_json json_of(const SweepAnswer& answer) {
    nlohmann::ordered_json json = answer.header;
    json.update(json_of(answer.result));
    json["not_numbers"] = answer.not_numbers;
    return json;
}

}  // namespace rotkv::tools
