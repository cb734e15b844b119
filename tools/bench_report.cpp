#include "tools/bench_report.h"

#include "ref/rotation_words.h"
#include "tools/cli.h"
#include "tools/compare/precision_floor.h"
#include "tools/layer_words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <string_view>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

std::string BenchRow::test() const {
    const std::string name =
        prompt > 0 ? fmt::format("pp{}", prompt) : fmt::format("tg{}", generated);
    return depth == 0 ? name : fmt::format("{} @ d{}", name, depth);
}

double BenchRow::median_seconds() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t n = sorted.size();
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

double BenchRow::slowest() const {
    return double(tokens()) / *std::max_element(seconds.begin(), seconds.end());
}

double BenchRow::fastest() const {
    return double(tokens()) / *std::min_element(seconds.begin(), seconds.end());
}

namespace {

constexpr double k_giga = 1e9;

double flops_per_second(const BenchRow& row) { return row.work.flops / row.median_seconds(); }
double bytes_per_second(const BenchRow& row) { return row.work.bytes / row.median_seconds(); }

// One layer's sides.
std::string rotated_sides(const RotationSpec& spec, int64_t layer) {
    std::string words;
    for (const Side side : {Side::k, Side::v}) {
        if (!spec.turns(layer, side)) continue;
        words += fmt::format("{}{} {}", words.empty() ? "" : ", ", letter(side),
                             rotation_name(spec, layer, side));
    }
    return words.empty() ? "off" : words;
}

// A rate, and its share of what the machine can do.
std::string against(double rate, double ceiling) {
    return fmt::format("{:.1f} ({:.0f} %)", rate / k_giga, 100 * rate / ceiling);
}

std::string stem(const std::string& path) { return std::filesystem::path(path).stem().string(); }

using Cells = std::vector<std::string>;

// Columns of equal width; `sides` says for each where its text stands, '<' or '>'.
std::string aligned(const std::vector<Cells>& lines, std::string_view sides) {
    std::vector<std::size_t> width(sides.size(), 3);
    for (const Cells& line : lines) {
        for (std::size_t i = 0; i < line.size(); ++i) width[i] = std::max(width[i], line[i].size());
    }
    const auto cell = [&](std::size_t i, const std::string& text) {
        return sides[i] == '<' ? fmt::format("| {:<{}} ", text, width[i])
                               : fmt::format("| {:>{}} ", text, width[i]);
    };
    std::string table, rule;
    for (std::size_t i = 0; i < sides.size(); ++i) {
        std::string dashes(width[i], '-');
        if (sides[i] == '>') dashes.back() = ':';
        rule += cell(i, dashes);
    }
    for (const Cells& line : lines) {
        for (std::size_t i = 0; i < line.size(); ++i) table += cell(i, line[i]);
        table += &line == &lines.front() ? "|\n" + rule + "|\n" : "|\n";
    }
    return table;
}

}  // namespace

std::string rotated_sides(const RotationSpec& spec, const KvShape& shape) {
    std::vector<std::string> ways;
    for (const int64_t layer : layers_with_rows(shape)) {
        const std::string way = rotated_sides(spec, layer);
        if (std::ranges::count(ways, way) == 0) ways.push_back(way);
    }
    return fmt::format("{}", fmt::join(ways, "; "));
}

std::string markdown(const BenchRun& run) {
    std::vector<Cells> lines = {{"model", "size", "backend", "threads", "type_k", "type_v",
                                 "rotation", "test", "t/s", "min .. max", "GFLOP/s", "GB/s"}};
    constexpr std::string_view k_sides = "<><><<<<>>>>";
    const std::string backend =
        fmt::format("{} ({})", run.backend, run.device.substr(0, run.device.find(',')));
    for (const BenchRow& row : run.rows) {
        lines.push_back({stem(run.model),
                         fmt::format("{:.1f} MiB", double(run.file_bytes) / (1 << 20)), backend,
                         std::to_string(run.threads), row.type_k.name(), row.type_v.name(),
                         row.rotated, row.test(), fmt::format("{:.2f}", row.tokens_per_second()),
                         fmt::format("{:.2f} .. {:.2f}", row.slowest(), row.fastest()),
                         against(flops_per_second(row), run.best.flops),
                         against(bytes_per_second(row), run.best.read_bytes)});
    }
    return aligned(lines, k_sides) +
           fmt::format(
               "\n{}: {}; {}. 100 % is what this machine did in the same run: sgemm {:.1f} "
               "GFLOP/s, "
               "reading {:.1f} GB/s (copying: {:.1f} GB/s) over {} MiB.\n",
               run.backend, run.device, words_of(run.precision), run.best.flops / k_giga,
               run.best.read_bytes / k_giga, run.best.copy_bytes / k_giga, run.buffer_bytes >> 20);
}

static Json json_of(const BenchRow& row) {
    Json json;
    json["test"] = row.test();
    json["type_k"] = row.type_k.name();
    json["type_v"] = row.type_v.name();
    json["bits_per_value"] = row.bits_per_value;
    json["rot"] = row.rot;
    json["rotation"] = json_of(row.spec);
    json["n_prompt"] = row.prompt;
    json["n_gen"] = row.generated;
    json["n_depth"] = row.depth;
    json["tokens_per_second"] = {
        {"median", row.tokens_per_second()}, {"min", row.slowest()}, {"max", row.fastest()}};
    json["gflop"] = row.work.flops / k_giga;
    json["gbyte"] = row.work.bytes / k_giga;
    json["gflop_per_second"] = flops_per_second(row) / k_giga;
    json["gbyte_per_second"] = bytes_per_second(row) / k_giga;
    json["seconds"] = row.seconds;
    return json;
}

Json json_of(const BenchRun& run) {
    Json json;
    json["model"] = run.model;
    json["notices"] = run.notices;
    json["size"] = run.file_bytes;
    json["backend"] = run.backend;
    json["device"] = run.device;
    json["precision"] = json_of(run.precision);
    json["threads"] = run.threads;
    json["n_batch"] = run.batch;
    for (const BenchRow& row : run.rows) json["rows"].push_back(json_of(row));
    json["machine"] = {{"sgemm_gflop_per_second", run.best.flops / k_giga},
                       {"read_gbyte_per_second", run.best.read_bytes / k_giga},
                       {"copy_gbyte_per_second", run.best.copy_bytes / k_giga},
                       {"buffer_bytes", run.buffer_bytes}};
    json["peak_resident_bytes"] = run.resident_bytes;
    return json;
}

static std::string quoted(const std::string& text) {
    std::string result = "\"";
    for (const char c : text) result += c == '"' ? std::string("\"\"") : std::string(1, c);
    return result + "\"";
}

std::string csv(const BenchRun& run) {
    std::string text =
        "model,size,backend,device,gemm,attention,threads,n_batch,type_k,type_v,rot,rotation,n_"
        "prompt,n_gen,"
        "n_depth,test,ts_median,ts_min,ts_max,gflop_per_second,gbyte_per_second,"
        "sgemm_gflop_per_second,read_gbyte_per_second,copy_gbyte_per_second\n";
    for (const BenchRow& row : run.rows) {
        text += fmt::format("{},{},{},{},{},{},", quoted(run.model), run.file_bytes, run.backend,
                            quoted(run.device), precision_name(run.precision.products),
                            precision_name(run.precision.attention));
        text += fmt::format("{},{},{},{},{},{},{},{},{},{},", run.threads, run.batch,
                            row.type_k.name(), row.type_v.name(), row.rot, quoted(row.rotated),
                            row.prompt, row.generated, row.depth, row.test());
        text += fmt::format("{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f}\n",
                            row.tokens_per_second(), row.slowest(), row.fastest(),
                            flops_per_second(row) / k_giga, bytes_per_second(row) / k_giga,
                            run.best.flops / k_giga, run.best.read_bytes / k_giga,
                            run.best.copy_bytes / k_giga);
    }
    return text;
}

}  // namespace rotkv::tools
