#include "tools/sweep_report.h"

#include "ref/files/output_file.h"
#include "tools/compare/kld_words.h"
#include "tools/compare/paired.h"
#include "tools/sweep_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

// \u00B1 is plus-minus: the source itself stays ASCII.

std::vector<std::size_t> pareto_front(std::span<const SweepRow> rows) {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (rows[i].is_number() && rows[i].same_as.empty()) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        if (rows[a].bytes_per_token != rows[b].bytes_per_token) {
            return rows[a].bytes_per_token < rows[b].bytes_per_token;
        }
        return rows[a].found->kld.value < rows[b].found->kld.value;
    });
    std::vector<std::size_t> front;
    for (const std::size_t i : order) {
        const bool better =
            front.empty() || rows[i].found->kld.value < rows[front.back()].found->kld.value;
        if (better) front.push_back(i);
    }
    return front;
}

Mean paired_kld(const SweepRow& a, const SweepRow& b) {
    return paired_difference(a.found->kld_windows, b.found->kld_windows, 1);
}

static double p_of(const SweepRow& row, const Mean& difference) {
    return p_of(difference, int64_t(row.found->kld_windows.size()));
}

static RotationChange::Kind kind_of(const SweepRow& plain, const SweepRow& rotated) {
    if (!plain.is_number() && !rotated.is_number()) return RotationChange::Kind::neither;
    if (!plain.is_number()) return RotationChange::Kind::rescued;
    return rotated.is_number() ? RotationChange::Kind::compared : RotationChange::Kind::broken;
}

std::vector<RotationChange> rotation_changes(std::span<const SweepRow> rows) {
    constexpr const char* k_plain = "k=none v=none";
    std::vector<RotationChange> changes;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const SweepRow& rotated = rows[i];
        if (!rotated.found || !rotated.same_as.empty() || rotated.rotation == k_plain) continue;
        const auto plain = std::find_if(rows.begin(), rows.end(), [&](const SweepRow& row) {
            return row.found && row.k == rotated.k && row.v == rotated.v && row.rotation == k_plain;
        });
        if (plain == rows.end()) continue;
        const Mean difference = paired_kld(rotated, *plain);
        changes.push_back({std::size_t(plain - rows.begin()), i, difference,
                           p_of(rotated, difference), kind_of(*plain, rotated)});
    }
    return changes;
}

std::vector<std::string> not_number_lines(std::span<const SweepRow> rows) {
    std::map<std::string, std::vector<const SweepRow*>> causes;
    std::vector<const SweepRow*> without_ppl;
    for (const SweepRow& row : rows) {
        if (!row.found || !row.found->not_numbers.any()) continue;
        if (row.found->not_numbers.count == 0) without_ppl.push_back(&row);
        if (row.found->not_numbers.count > 0) causes[row.found->not_numbers.cause].push_back(&row);
    }
    std::vector<std::string> lines;
    const auto add = [&](const std::vector<const SweepRow*>& cells, const char* one,
                         const char* several) {
        const bool single = cells.size() == 1;
        lines.push_back(fmt::format("{} cell{} ({}{}): {}", cells.size(), single ? one : several,
                                    cells[0]->name(), single ? "" : ", ...",
                                    words_of(cells[0]->found->not_numbers)));
    };
    for (const auto& [cause, cells] : causes) add(cells, " is not a number", "s are not numbers");
    if (!without_ppl.empty()) add(without_ppl, " is without a PPL", "s are without a PPL");
    return lines;
}

double bits_of(const SweepResult& result, const SweepRow& row) {
    return 8 * double(row.bytes_per_token) / double(result.values_per_token);
}

namespace {

// K down, V across, one figure of each cell.
template <class Figure>
void print_matrix(std::FILE* out, const SweepResult& result, std::size_t rot,
                  const std::string& title, Figure figure) {
    fmt::print(out, "\n====== {}, rotation {}: K down, V across ======\n{:<7}", title,
               result.rot[rot], "");
    for (const std::string& v : result.v) fmt::print(out, " {:>9}", v);
    fmt::print(out, "\n");
    for (std::size_t k = 0; k < result.k.size(); ++k) {
        fmt::print(out, "{:<7}", result.k[k]);
        for (std::size_t v = 0; v < result.v.size(); ++v) {
            const SweepRow& row = result.rows[(k * result.v.size() + v) * result.rot.size() + rot];
            fmt::print(out, " {:>9}", row.found ? figure(*row.found) : "-");
        }
        fmt::print(out, "\n");
    }
}

// What was not computed, and why, each reason once.
void print_notes(std::FILE* out, const SweepResult& result) {
    std::map<std::string, std::vector<std::string>> reasons;
    std::vector<std::string> same;
    for (const SweepRow& row : result.rows) {
        if (!row.unsupported.empty()) reasons[row.unsupported].push_back(row.name());
        if (!row.same_as.empty()) same.push_back(row.name());
    }
    fmt::print(out, "\n{} cells", result.rows.size());
    if (!same.empty()) {
        fmt::print(out, "; {} with the types and rotations of an earlier one, computed once ({}{})",
                   same.size(), same[0], same.size() > 1 ? ", ..." : "");
    }
    fmt::print(out, "\n");
    for (const auto& [reason, cells] : reasons) {
        const std::string which = cells[0] + (cells.size() > 1 ? ", ..." : "");
        if (reason == k_not_run) {
            fmt::print(out, "{} not run ({})\n", cells.size(), which);
        } else {
            fmt::print(out, "{} unsupported ({}): {}\n", cells.size(), which, reason);
        }
    }
    for (const std::string& line : not_number_lines(result.rows)) fmt::print(out, "{}\n", line);
}

void print_front(std::FILE* out, const SweepResult& result) {
    fmt::print(out,
               "\n====== Pareto front: no cell has fewer bytes and a smaller KLD ======\n"
               "{:>11}  {:>5}  {:<22}  {:>8}  {}\n",
               "bytes/token", "bits", "mean KLD \u00B1 by window", "p", "cell");
    const std::vector<std::size_t> front = pareto_front(result.rows);
    for (std::size_t i = 0; i < front.size(); ++i) {
        const SweepRow& row = result.rows[front[i]];
        std::string p;
        if (i > 0 && result.windows > 1) {
            p = fmt::format("{:.2g}", p_of(row, paired_kld(result.rows[front[i - 1]], row)));
        }
        fmt::print(out, "{:>11}  {:>5.2f}  {:<22}  {:>8}  {}\n", row.bytes_per_token,
                   bits_of(result, row),
                   plus_minus({row.found->kld.value, row.found->kld_se_window}), p, row.name());
    }
    fmt::print(out, "p: of the difference from the line above, paired by windows\n");
    if (result.windows < 2) fmt::print(out, "by window: {}\n", k_one_window);
    const auto none = [](const SweepRow& row) { return row.found && !row.is_number(); };
    const int64_t left_out = std::count_if(result.rows.begin(), result.rows.end(), none);
    if (left_out == 0) return;
    fmt::print(out, "left out, as it is not a number: {} cell{}\n", left_out,
               left_out == 1 ? "" : "s");
}

// "k=q4_1,v=q4_1,rot=auto       KLD 0.078078 instead of 0.065938"
std::string words_of(const SweepResult& result, const RotationChange& change) {
    const SweepRow &rotated = result.rows[change.rotated], &plain = result.rows[change.plain];
    return fmt::format("{:<28} KLD {} instead of {}", rotated.name(),
                       decimals(rotated.found->kld.value), decimals(plain.found->kld.value));
}

// The pairs between which there is no difference to be taken, if there are any.
void print_without_numbers(std::FILE* out, const SweepResult& result,
                           const std::vector<RotationChange>& changes) {
    using Kind = RotationChange::Kind;
    const auto count = [&](Kind kind) {
        return std::count_if(changes.begin(), changes.end(),
                             [&](const RotationChange& change) { return change.kind == kind; });
    };
    if (count(Kind::compared) == int64_t(changes.size())) return;
    fmt::print(out,
               "rescued by rotation: {} (plain is not a number); broken by rotation: {}; not a "
               "number either way: {}\n",
               count(Kind::rescued), count(Kind::broken), count(Kind::neither));
    for (const RotationChange& change : changes) {
        if (change.kind == Kind::compared || change.kind == Kind::neither) continue;
        fmt::print(out, "{}: {}\n", change.kind == Kind::rescued ? "rescued" : "broken",
                   words_of(result, change));
    }
}

// How large a change has to be to be called certain (smallest_difference() as a share of the plain
// KLD, the median of the pairs), with these windows and with twice as many: the error goes with
// 1 / sqrt(windows), and t has more degrees of freedom.
void print_reach(std::FILE* out, const SweepResult& result,
                 const std::vector<RotationChange>& changes) {
    std::vector<double> needed;
    for (const RotationChange& change : changes) {
        const double kld = result.rows[change.plain].found->kld.value;
        if (change.kind != RotationChange::Kind::compared || kld <= 0) continue;
        needed.push_back(smallest_difference(change.kld, result.windows, k_significant) / kld);
    }
    if (needed.empty()) return;
    const int64_t n = result.windows;
    const double now = quantile(needed, 0.5);
    const double later = now * std::sqrt(0.5) * student_t(k_significant, 2 * n - 1) /
                         student_t(k_significant, n - 1);
    fmt::print(out,
               "in half of the pairs {} windows show only changes of {} or more of the plain KLD, "
               "{} of about {}\n",
               n, percent(now), 2 * n, percent(later));
}

void print_changes(std::FILE* out, const SweepResult& result) {
    const std::vector<RotationChange> changes = rotation_changes(result.rows);
    if (changes.empty()) return;
    std::size_t helps = 0, hurts = 0, larger = 0, compared = 0;
    for (const RotationChange& change : changes) {
        compared += change.kind == RotationChange::Kind::compared;
        const bool significant = change.p < k_significant;
        helps += significant && change.kld.value < 0;
        hurts += significant && change.kld.value > 0;
        larger += change.kld.value > 0;
    }
    fmt::print(out,
               "\n====== Rotation against none: {} pairs, by windows, p < {:g} ======\n"
               "helps in {}, hurts in {}; of the {} not certain {} have a larger KLD rotated\n",
               changes.size(), k_significant, helps, hurts, compared - helps - hurts,
               larger - hurts);
    print_without_numbers(out, result, changes);
    if (result.windows < 2) {
        fmt::print(out, "{}: nothing can be certain\n", k_one_window);
        return;
    }
    for (const RotationChange& change : changes) {
        const bool hurts_here = change.kld.value > 0 && change.p < k_significant;
        if (!hurts_here) continue;
        fmt::print(out, "hurts: {}, difference {}, p {:.2g}\n", words_of(result, change),
                   plus_minus(change.kld), change.p);
    }
    fmt::print(out, "by chance alone about {:.1f} would be called certain, half of them to hurt\n",
               k_significant * double(compared));
    print_reach(out, result, changes);
}

}  // namespace

static void print_matrices(std::FILE* out, const SweepResult& result) {
    for (std::size_t rot = 0; rot < result.rot.size(); ++rot) {
        print_matrix(out, result, rot, "PPL / PPL of the base", [](const SweepFigures& found) {
            return fmt::format("{:.4f}", number_or_nan(std::exp(found.log_ratio.value)));
        });
    }
    for (std::size_t rot = 0; rot < result.rot.size(); ++rot) {
        print_matrix(out, result, rot, "Mean KLD",
                     [](const SweepFigures& found) { return decimals(found.kld.value); });
    }
}

void print_sweep(std::FILE* out, const SweepResult& result) {
    if (result.same) {
        print_formats(out, result);
    } else {
        print_matrices(out, result);
    }
    print_notes(out, result);
    print_front(out, result);
    print_changes(out, result);
    std::fflush(out);
}

static const char* name_of(RotationChange::Kind kind) {
    constexpr const char* k_names[] = {"compared", "rescued", "broken", "neither"};
    return k_names[std::size_t(kind)];
}

Json json_of(const SweepResult& result) {
    Json json;
    json["cells"] = Json::array();
    for (const SweepRow& row : result.rows) json["cells"].push_back(json_of(row));
    json["front"] = Json::array();
    for (const std::size_t i : pareto_front(result.rows)) {
        const SweepRow& row = result.rows[i];
        json["front"].push_back({{"cell", row.name()},
                                 {"bytes_per_token", row.bytes_per_token},
                                 {"bits", bits_of(result, row)},
                                 {"kld", row.found->kld.value}});
    }
    json["rotation"] = Json::array();
    for (const RotationChange& change : rotation_changes(result.rows)) {
        json["rotation"].push_back({{"plain", result.rows[change.plain].name()},
                                    {"rotated", result.rows[change.rotated].name()},
                                    {"kld", change.kld.value},
                                    {"se", change.kld.error},
                                    {"p", change.p},
                                    {"kind", name_of(change.kind)}});
    }
    if (result.same) json["formats"] = json_of_formats(result);
    return json;
}

void write_csv(const std::string& path, const SweepResult& result) {
    if (path.empty()) return;
    std::string text =
        "k,v,rot,rotation,bytes_per_token,bits,ppl,log_ratio,log_ratio_se,kld,kld_se,"
        "kld_se_window,kld_median,kld_99,same_top,same_as,unsupported\n";
    for (const SweepRow& row : result.rows) {
        text += fmt::format("{},{},{},{},", row.k, row.v, row.rot, row.rotation);
        if (!row.found) {
            text += fmt::format(",,,,,,,,,,,,\"{}\"\n", row.unsupported);
            continue;
        }
        const SweepFigures& f = *row.found;
        text += fmt::format("{},{:.4f},{},{},{},{},{},{},{},{},{},\"{}\",\n", row.bytes_per_token,
                            bits_of(result, row), f.ppl, f.log_ratio.value, f.log_ratio.error,
                            f.kld.value, f.kld.error, f.kld_se_window, f.kld_median, f.kld_99,
                            f.same_top, row.same_as);
    }
    OutputFile file(path);
    file.write(text);
    file.finish();
}

}  // namespace rotkv::tools
