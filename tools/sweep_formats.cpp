#include "tools/sweep_formats.h"

#include "tools/compare/kld_words.h"
#include "tools/compare/paired.h"
#include "tools/sweep_lists.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

// \u00B1 is plus-minus: the source itself stays ASCII.

// "signed:7:2" -> "signed, 2 rounds"; "calibrated:smollm2" -> "calibrated"; "64" stays.
static std::string column_of(const std::string& rot) {
    const std::size_t colon = rot.find(':');
    const std::string kind = rot.substr(0, colon);
    if (kind == "calibrated" || kind == "dense") return kind;
    if (kind != "signed") return rot;
    const std::size_t rounds = rot.find(':', colon + 1);
    return rounds == std::string::npos ? kind
                                       : fmt::format("{}, {} rounds", kind, rot.substr(rounds + 1));
}

std::vector<RotationColumn> rotation_columns(const std::vector<std::string>& rot) {
    std::vector<RotationColumn> columns;
    for (std::size_t i = 0; i < rot.size(); ++i) {
        const std::string name = column_of(rot[i]);
        auto column = std::ranges::find(columns, name, &RotationColumn::name);
        if (column == columns.end()) column = columns.insert(columns.end(), {name, {}});
        column->rotations.push_back(i);
    }
    return columns;
}

static const SweepRow& row_at(const SweepResult& result, std::size_t format, std::size_t rot) {
    return result.rows[format * result.rot.size() + rot];
}

std::vector<FormatCell> format_cells(const SweepResult& result,
                                     const std::vector<RotationColumn>& columns) {
    std::vector<FormatCell> cells;
    for (std::size_t i = 0; i < result.k.size() * columns.size(); ++i) {
        FormatCell cell;
        cell.format = i / columns.size();
        cell.column = i % columns.size();
        const std::vector<std::size_t>& seeds = columns[cell.column].rotations;
        std::vector<double> means;
        for (const std::size_t rot : seeds) {
            const SweepRow& row = row_at(result, cell.format, rot);
            if (!row.found) break;
            cell.bits = bits_of(result, row);
            const std::vector<double>& klds = row.found->kld_windows;
            cell.kld_windows.resize(klds.size());
            for (std::size_t w = 0; w < klds.size(); ++w) {
                cell.kld_windows[w] += klds[w] / double(seeds.size());
            }
            means.push_back(row.found->kld.value);
        }
        if (means.size() < seeds.size()) continue;
        cell.kld = mean_by_windows(cell.kld_windows, 1);
        const Mean seed = mean_of(means);
        cell.spread = seed.error * std::sqrt(double(means.size()));
        cells.push_back(cell);
    }
    return cells;
}

Mean paired_kld(const FormatCell& a, const FormatCell& b) {
    return paired_difference(a.kld_windows, b.kld_windows, 1);
}

static double p_of_pair(const FormatCell& a, const FormatCell& b) {
    return p_of(paired_kld(a, b), int64_t(a.kld_windows.size()));
}

std::vector<Win> wins_of(const std::vector<FormatCell>& cells) {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < cells.size(); ++i) {
        if (is_number(cells[i].kld.value)) order.push_back(i);
    }
    std::ranges::stable_sort(order, {}, [&](std::size_t i) { return cells[i].kld.value; });
    std::vector<Win> wins;
    for (const int bits : {2, 3, 4, 5, 8}) {
        Win win;
        win.most_bits = bits + 0.5;
        bool found = false;
        for (const std::size_t i : order) {
            if (cells[i].bits > win.most_bits) continue;
            if (!found) {
                win.cell = i;
                found = true;
                continue;
            }
            ++win.others;
            if (p_of_pair(cells[i], cells[win.cell]) >= k_significant) {
                win.not_told.push_back(i);
            } else if (!win.next_told) {
                win.next_told = i;
            }
        }
        if (found) wins.push_back(win);
    }
    return wins;
}

double spread_of_seeds(const std::vector<FormatCell>& cells) {
    std::vector<double> shares;
    for (const FormatCell& cell : cells) {
        if (is_number(cell.spread) && cell.kld.value > 0) {
            shares.push_back(cell.spread / cell.kld.value);
        }
    }
    return shares.empty() ? std::numeric_limits<double>::quiet_NaN() : quantile(shares, 0.5);
}

std::vector<std::string> formats_not_run(const SweepResult& result) {
    std::vector<std::string> missing = all_cache_types();
    std::erase_if(missing, [&](const std::string& name) {
        return std::ranges::find(result.k, name) != result.k.end();
    });
    return missing;
}

namespace {

// Three digits, as many as a figure with an error of some per cent has.
std::string three(double x) { return fmt::format("{:#.3g}", x); }

std::string short_plus_minus(const Mean& mean) {
    return fmt::format("{} \u00B1 {}", three(mean.value),
                       unless_one_window(mean, fmt::format("{:#.2g}", mean.error)));
}

// What a sweep of formats comes to, once for all that is printed of it.
struct FormatTable {
    const SweepResult& result;
    std::vector<RotationColumn> columns;
    std::vector<FormatCell> cells;
    std::vector<std::size_t> order;  ///< formats by ascending bits; those that no head has, last

    explicit FormatTable(const SweepResult& of)
        : result(of), columns(rotation_columns(of.rot)), cells(format_cells(of, columns)) {
        order.resize(of.k.size());
        std::iota(order.begin(), order.end(), std::size_t(0));
        std::ranges::stable_sort(order, {}, [&](std::size_t i) { return bits(i); });
    }

    const FormatCell* cell(std::size_t format, std::size_t column) const {
        const auto at = std::ranges::find_if(cells, [&](const FormatCell& one) {
            return one.format == format && one.column == column;
        });
        return at == cells.end() ? nullptr : &*at;
    }

    // Of whichever rotation was measured; infinite where none was.
    double bits(std::size_t format) const {
        const auto at = std::ranges::find(cells, format, &FormatCell::format);
        return at == cells.end() ? std::numeric_limits<double>::infinity() : at->bits;
    }

    // Why a format has no bits.
    std::string gap(std::size_t format) const {
        const SweepRow& row = row_at(result, format, 0);
        return row.unsupported == k_not_run ? row.unsupported : "does not fit";
    }

    std::string name(const FormatCell& cell) const {
        return fmt::format("{}, {}", result.k[cell.format], columns[cell.column].name);
    }

    std::string title(const RotationColumn& column) const {
        const std::size_t seeds = column.rotations.size();
        return seeds == 1 ? column.name
                          : fmt::format("{}: {} seeds, their spread", column.name, seeds);
    }
};

// One line a format, one word a column. Formats that no head has are a gap.
template <class Word>
void print_table(std::FILE* out, const FormatTable& table, std::size_t first_column, Word word) {
    fmt::print(out, "| format | bits |");
    for (std::size_t c = first_column; c < table.columns.size(); ++c) {
        fmt::print(out, " {} |", table.title(table.columns[c]));
    }
    fmt::print(out, "\n|---|---|");
    for (std::size_t c = first_column; c < table.columns.size(); ++c) fmt::print(out, "---|");
    fmt::print(out, "\n");
    for (const std::size_t format : table.order) {
        const double bits = table.bits(format);
        fmt::print(out, "| {} | {} |", table.result.k[format],
                   std::isfinite(bits) ? fmt::format("{:.4g}", bits) : table.gap(format));
        for (std::size_t c = first_column; c < table.columns.size(); ++c) {
            const FormatCell* cell = table.cell(format, c);
            fmt::print(out, " {} |", cell == nullptr ? "-" : word(format, *cell));
        }
        fmt::print(out, "\n");
    }
}

void print_klds(std::FILE* out, const FormatTable& table) {
    fmt::print(
        out, "\n====== Mean KLD \u00B1 error by {} windows; K and V in the same format ======\n\n",
        table.result.windows);
    print_table(out, table, 0, [](std::size_t, const FormatCell& cell) {
        const std::string kld = short_plus_minus(cell.kld);
        return is_number(cell.spread) ? fmt::format("{}; {:#.2g}", kld, cell.spread) : kld;
    });
    const std::vector<std::string> missing = formats_not_run(table.result);
    if (missing.empty()) return;
    fmt::print(out, "\nnot run: {}\n", fmt::join(missing, " "));
}

void print_against_first(std::FILE* out, const FormatTable& table) {
    if (table.columns.size() < 2) return;
    fmt::print(out,
               "\n====== Difference from rotation {}, paired by windows; * p < {:g} ======\n\n",
               table.columns[0].name, k_significant);
    print_table(out, table, 1, [&](std::size_t format, const FormatCell& cell) -> std::string {
        const FormatCell* plain = table.cell(format, 0);
        if (plain == nullptr) return "-";
        const Mean difference = paired_kld(cell, *plain);
        return short_plus_minus(difference) + (p_of_pair(cell, *plain) < k_significant ? " *" : "");
    });
}

// "3.1 times what seeds alone do", or nothing where no rotation has several.
std::string words_of_repeatability(double gap, double spread) {
    if (!is_number(spread)) return "";
    return fmt::format(", {:.2g} times the spread of seeds", gap / spread);
}

void print_win(std::FILE* out, const FormatTable& table, const Win& win) {
    const FormatCell& best = table.cells[win.cell];
    const auto times = [&](const FormatCell& cell) {
        return fmt::format("{} ({:.4g} bits, {:.2f} x)", table.name(cell), cell.bits,
                           cell.kld.value / best.kld.value);
    };
    fmt::print(out, "at most {:g} bits: {}, {:.4g} bits, KLD {}\n", win.most_bits, table.name(best),
               best.bits, short_plus_minus(best.kld));
    if (!win.not_told.empty()) {
        constexpr std::size_t k_named = 4;
        const auto fewest = std::ranges::min_element(
            win.not_told, {}, [&](std::size_t i) { return table.cells[i].bits; });
        std::vector<std::string> names;
        for (const std::size_t i : win.not_told) {
            if (names.size() < k_named) names.push_back(times(table.cells[i]));
        }
        fmt::print(out, "    not told apart from it: {} of {} others: {}{}\n", win.not_told.size(),
                   win.others, fmt::join(names, "; "),
                   win.not_told.size() > k_named ? "; ..." : "");
        if (table.cells[*fewest].bits < best.bits) {
            fmt::print(out, "    the fewest bits of these: {}\n", times(table.cells[*fewest]));
        }
    }
    if (!win.next_told) return;
    const FormatCell& next = table.cells[*win.next_told];
    const Mean difference = paired_kld(next, best);
    fmt::print(
        out, "    told apart: the next is {}, by {}, p {:.2g}{}\n", times(next),
        short_plus_minus(difference), p_of_pair(next, best),
        words_of_repeatability(difference.value / best.kld.value, spread_of_seeds(table.cells)));
}

void print_wins(std::FILE* out, const FormatTable& table) {
    fmt::print(out, "\n====== What wins, paired by {} windows, p < {:g} ======\n",
               table.result.windows, k_significant);
    const std::vector<Win> wins = wins_of(table.cells);
    if (wins.empty()) fmt::print(out, "nothing has at most 8.5 bits\n");
    if (table.result.windows < 2) {
        fmt::print(out, "{}: nothing is told apart\n", k_one_window);
    }
    for (const Win& win : wins) print_win(out, table, win);
    const double spread = spread_of_seeds(table.cells);
    if (is_number(spread)) {
        fmt::print(out,
                   "repeatability: seeds of one rotation lie {} of their KLD apart (sd, median of "
                   "the formats)\n",
                   percent(spread));
    } else {
        fmt::print(out, "repeatability: not known, no rotation has several seeds\n");
    }
    fmt::print(
        out,
        "the best of many is also the luckiest: of 100 equals several are told apart from it "
        "by chance\n");
}

}  // namespace

void print_formats(std::FILE* out, const SweepResult& result) {
    const FormatTable table(result);
    print_klds(out, table);
    print_against_first(out, table);
    print_wins(out, table);
}

Json json_of_formats(const SweepResult& result) {
    const FormatTable table(result);
    const auto number = [](double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); };
    Json json = {{"cells", Json::array()}, {"wins", Json::array()}};
    for (const FormatCell& cell : table.cells) {
        Json one = {{"format", result.k[cell.format]},
                    {"rotation", table.columns[cell.column].name},
                    {"seeds", table.columns[cell.column].rotations.size()},
                    {"bits", cell.bits},
                    {"kld", number(cell.kld.value)},
                    {"se", number(cell.kld.error)},
                    {"spread", number(cell.spread)}};
        const FormatCell* plain = cell.column == 0 ? nullptr : table.cell(cell.format, 0);
        if (plain != nullptr) {
            const Mean difference = paired_kld(cell, *plain);
            one["from_first"] = {{"kld", number(difference.value)},
                                 {"se", number(difference.error)},
                                 {"p", number(p_of_pair(cell, *plain))}};
        }
        json["cells"].push_back(one);
    }
    for (const Win& win : wins_of(table.cells)) {
        Json one = {{"most_bits", win.most_bits}, {"cell", win.cell}, {"others", win.others}};
        one["not_told_apart"] = win.not_told;
        one["next_told_apart"] = win.next_told ? Json(*win.next_told) : Json(nullptr);
        json["wins"].push_back(one);
    }
    json["spread_of_seeds"] = number(spread_of_seeds(table.cells));
    json["not_run"] = formats_not_run(result);
    return json;
}

}  // namespace rotkv::tools
