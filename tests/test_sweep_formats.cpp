// A sweep of formats: seeds are one column, a format that no head has is a gap, and what wins is
// told apart from luck; on small tables whose answers can be seen.
#include "tests/catch.h"
#include "tests/temporary_folder.h"
#include "tools/sweep_formats.h"
#include "tools/sweep_lists.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace rotkv;
using namespace rotkv::tools;

SweepRow row_of(const std::string& format, const std::string& rot, int64_t bytes,
                std::vector<double> klds) {
    SweepRow row;
    row.k = row.v = format;
    row.rot = rot;
    row.rotation = rot == "off" ? "k=none v=none" : "k=" + rot + " v=" + rot;
    row.bytes_per_token = bytes;
    SweepFigures& found = row.found.emplace();
    found.kld = mean_of(klds);
    found.kld_windows = klds;
    return row;
}

SweepRow refused(const std::string& format, const std::string& rot) {
    SweepRow row;
    row.k = row.v = format;
    row.rot = rot;
    row.unsupported = "needs a head size that is a multiple of 128, found 64";
    return row;
}

// 16 values a token: 9 bytes are 4.5 bits. Three formats of these bits or fewer, one that does not
// fit; two seeds.
SweepResult three_formats() {
    SweepResult result{{"q4_0", "q8_0", "turbo3", "tqmse4"},
                       {"q4_0", "q8_0", "turbo3", "tqmse4"},
                       {"off", "signed:1", "signed:2"},
                       16,
                       4,
                       {},
                       true};
    result.rows = {row_of("q4_0", "off", 9, {3.0, 3.1, 2.9, 3.0}),
                   row_of("q4_0", "signed:1", 9, {1.0, 1.1, 0.9, 1.0}),
                   row_of("q4_0", "signed:2", 9, {1.2, 1.3, 1.1, 1.2}),
                   row_of("q8_0", "off", 17, {0.1, 0.1, 0.2, 0.2}),
                   row_of("q8_0", "signed:1", 17, {0.1, 0.1, 0.1, 0.1}),
                   row_of("q8_0", "signed:2", 17, {0.1, 0.1, 0.1, 0.1}),
                   refused("turbo3", "off"),
                   refused("turbo3", "signed:1"),
                   refused("turbo3", "signed:2"),
                   row_of("tqmse4", "off", 8, {1.0, 1.4, 1.3, 0.9}),
                   row_of("tqmse4", "signed:1", 8, {2.0, 2.0, 2.0, 2.0}),
                   refused("tqmse4", "signed:2")};
    return result;
}

std::string printed(const SweepResult& result) {
    return rotkv::test::printed_by([&](std::FILE* file) { print_formats(file, result); });
}

bool near(double a, double b) { return std::abs(a - b) < 1e-9; }

bool has(const std::string& text, const std::string& words) {
    return text.find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("sweep: rotations that differ in their seed alone are one column", "[sweep]") {
    const std::vector<RotationColumn> columns = rotation_columns(
        {"off", "64", "64:7", "signed:1", "dense:4", "signed:2", "signed:1:3", "calibrated:a/b"});
    std::vector<std::string> names;
    for (const RotationColumn& column : columns) names.push_back(column.name);
    CHECK(names == std::vector<std::string>{"off", "64", "64:7", "signed", "dense",
                                            "signed, 3 rounds", "calibrated"});
    CHECK(columns[3].rotations == std::vector<std::size_t>{3, 5});
    CHECK(columns[5].rotations == std::vector<std::size_t>{6});
}

TEST_CASE("sweep: a format's KLD is the mean over seeds, window by window", "[sweep]") {
    const SweepResult result = three_formats();
    const std::vector<FormatCell> cells = format_cells(result, rotation_columns(result.rot));
    // turbo3 has none, and a seed of tqmse4 is missing.
    REQUIRE(cells.size() == 5);
    const FormatCell& q4 = cells[1];
    CHECK((q4.format == 0 && q4.column == 1));
    CHECK(near(q4.bits, 4.5));
    CHECK(near(q4.kld_windows[1], 1.2));
    CHECK(near(q4.kld.value, 1.1));
    CHECK(near(q4.kld.error, std::sqrt(0.02 / 3 / 4)));
    CHECK(near(q4.spread, std::sqrt(0.02)));  // sd of 1.0 and 1.2
    CHECK(std::isnan(cells[0].spread));
    CHECK(near(paired_kld(cells[0], cells[1]).value, 1.9));
    CHECK(paired_kld(cells[0], cells[1]).error < 1e-9);
    // Medians of two spreads, sqrt(0.02) / 1.1 and 0.
    CHECK(near(spread_of_seeds(cells), std::sqrt(0.02) / 1.1 / 2));
}

TEST_CASE("sweep: what wins at so many bits, and what is not told apart from it", "[sweep]") {
    const SweepResult result = three_formats();
    std::vector<FormatCell> cells = format_cells(result, rotation_columns(result.rot));
    const std::vector<Win> wins = wins_of(cells);
    REQUIRE(wins.size() == 3);  // nothing has 3.5 bits
    CHECK(near(wins[0].most_bits, 4.5));
    CHECK(wins[0].cell == 1);
    CHECK(wins[0].not_told == std::vector<std::size_t>{4});  // 1.15 +- 0.12 beside 1.1
    CHECK(wins[0].next_told == 0u);
    CHECK(wins[0].others == 2);
    CHECK(near(wins[2].most_bits, 8.5));
    CHECK(wins[2].cell == 3);
    CHECK(wins[2].not_told == std::vector<std::size_t>{2});
    CHECK(wins[2].next_told == 1u);
    cells[1].kld.value = std::numeric_limits<double>::quiet_NaN();
    CHECK(wins_of(cells)[0].cell == 4);
    CHECK(wins_of({}).empty());
}

TEST_CASE("sweep: formats in words: gaps, seeds, what is not run", "[sweep]") {
    SweepResult result = three_formats();
    const std::string text = printed(result);
    CHECK(has(text, "| format | bits | off | signed: 2 seeds, their spread |"));
    CHECK(has(text, "| q4_0 | 4.5 | 3.00 \u00B1 0.041 | 1.10 \u00B1 0.041; 0.14 |"));
    CHECK(has(text, "| turbo3 | does not fit | - | - |"));
    CHECK(has(text, "| q4_0 | 4.5 | -1.90 \u00B1 "));
    CHECK(has(text, "| tqmse4 | 4 | - |"));
    CHECK(text.find("| tqmse4 | 4 |") < text.find("| q4_0 | 4.5 |"));
    const std::string missing = text.substr(text.find("not run:"));
    CHECK(has(missing.substr(0, missing.find('\n')), " exl3:4 "));
    CHECK_FALSE(has(missing.substr(0, missing.find('\n')), " q4_0 "));
    CHECK(has(text, "at most 4.5 bits: q4_0, signed, 4.5 bits, KLD 1.10"));
    CHECK(has(text, "not told apart from it: 1 of 2 others: tqmse4, off (4 bits, 1.05 x)"));
    CHECK(has(text, "the fewest bits of these: tqmse4, off"));
    CHECK(has(text, "told apart: the next is q4_0, off (4.5 bits, 2.73 x)"));
    CHECK(has(text, "times the spread of seeds"));
    for (SweepRow& row : result.rows) {
        if (row.found) row.found->kld_windows.resize(1);
    }
    result.windows = 1;
    const std::string one = printed(result);
    CHECK_FALSE(has(one, "nan"));
    CHECK(has(one, "no error from one window: nothing is told apart"));
}

TEST_CASE("sweep: all formats are every type and every format", "[sweep]") {
    const SweepTypes all = parse_sweep_types("f16", "f16", "all");
    CHECK(all.same);
    CHECK(all.k == all.v);
    CHECK(all.k.size() == all_cache_types().size());
    for (const char* name : {"f32", "q4_0", "iq4_nl", "exl3:4", "turbo3", "tqmse3:lsq"}) {
        CHECK(std::ranges::count(all.k, std::string(name), &CacheType::name) == 1);
    }
    CHECK_FALSE(parse_sweep_types("f16", "q8_0,q4_0", "").same);
    CHECK(parse_sweep_types("f16", "q8_0,q4_0", "").v.size() == 2);
    CHECK_THROWS(parse_sweep_types("f16", "f16", "q4_0,q4_0"));
}
