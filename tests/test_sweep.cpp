// What a sweep concludes from its rows, on small tables whose answers can be seen; and its lines.
#include "ref/files/gguf.h"
#include "ref/kernels.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"
#include "tests/tiny_model.h"
#include "tools/sweep_file.h"
#include "tools/sweep_report.h"
#include "tools/sweep_run.h"

#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace rotkv;
using namespace rotkv::tools;

constexpr double k_nan = std::numeric_limits<double>::quiet_NaN();

SweepRow row_of(const std::string& name, int64_t bytes, std::vector<double> klds,
                const std::string& rotation = "k=none v=none") {
    SweepRow row;
    row.k = row.v = name;
    row.rot = rotation == "k=none v=none" ? "off" : "auto";
    row.rotation = rotation;
    row.bytes_per_token = bytes;
    SweepFigures& found = row.found.emplace();
    found.kld = mean_of(klds);
    found.kld_windows = klds;
    return row;
}

// Two types of K, three of V, two rotations; each figure says which cell it is of.
SweepResult six_pairs() {
    SweepResult result{{"f16", "q8_0"}, {"f16", "q8_0", "q4_0"}, {"off", "auto"}, 64, 2, {}};
    for (int k = 0; k < 2; ++k) {
        for (int v = 0; v < 3; ++v) {
            for (int rot = 0; rot < 2; ++rot) {
                const double x = k + 0.1 * v + 0.01 * rot + 0.001;
                SweepRow row = row_of(result.k[size_t(k)], 100 - 10 * k - v, {x, x});
                row.v = result.v[size_t(v)];
                row.rot = result.rot[size_t(rot)];
                row.found->log_ratio.value = std::log(2 + x);
                result.rows.push_back(row);
            }
        }
    }
    return result;
}

std::string printed(const SweepResult& result) {
    return rotkv::test::printed_by([&](std::FILE* file) { print_sweep(file, result); });
}

// The words of the lines below a title, as many lines as are asked for.
std::vector<std::vector<std::string>> words_below(const std::string& text, const std::string& title,
                                                  int lines) {
    const std::size_t at = text.find(title);
    REQUIRE(at != std::string::npos);
    std::istringstream stream(text.substr(text.find('\n', at) + 1));
    std::vector<std::vector<std::string>> all;
    for (std::string line; lines > 0 && std::getline(stream, line); --lines) {
        std::istringstream words(line);
        all.emplace_back(std::istream_iterator<std::string>(words),
                         std::istream_iterator<std::string>());
    }
    return all;
}

SweepRow unsupported(const std::string& name) {
    SweepRow row;
    row.k = row.v = name;
    row.rot = "off";
    row.unsupported = "no such cache";
    return row;
}

}  // namespace

TEST_CASE("sweep: the Pareto front holds what nothing beats", "[sweep]") {
    SweepRow twin = row_of("twin", 10, {0.5});
    twin.same_as = "first";
    const std::vector<SweepRow> rows = {
        row_of("many bytes, no gain", 40, {0.2}),  // 0: as bad as 3 with fewer bytes
        unsupported("x"),                          // 1
        row_of("as many bytes as b, worse", 20, {0.4}),
        row_of("b", 20, {0.2}),  // 3: on the front
        row_of("as many bytes as b, worse", 20, {0.3}),
        row_of("most bytes, best", 50, {0.0}),  // 5: on the front
        twin,                                   // 6: figures of another row
        row_of("a", 10, {0.5}),                 // 7: on the front
        row_of("equal to a", 10, {0.5}),
        row_of("not a number", 5, {k_nan}),
        row_of("in between, beaten by b", 30, {0.25}),
    };
    CHECK(pareto_front(rows) == std::vector<std::size_t>{7, 3, 5});
    CHECK(pareto_front({}).empty());
    CHECK(pareto_front(std::vector<SweepRow>{unsupported("x")}).empty());
}

TEST_CASE("sweep: rotation is compared with none, window by window", "[sweep]") {
    const std::string turned = "k=sylvester/64 v=sylvester/64";
    SweepRow same = row_of("f16", 32, {0.1, 0.2, 0.3});
    same.rot = "auto";
    same.same_as = "k=f16,v=f16,rot=off";
    const std::vector<SweepRow> rows = {
        row_of("f16", 32, {0.1, 0.2, 0.3}),         // 0
        same,                                       // 1: nothing to compare
        row_of("q8", 16, {1.0, 2.0, 3.0}),          // 2
        row_of("q8", 16, {0.9, 1.9, 2.9}, turned),  // 3: less by 0.1 in each window
        row_of("q4", 8, {1.0, 2.0, 3.0}),           // 4
        row_of("q4", 8, {1.1, 2.3, 3.2}, turned),   // 5: more by 0.1, 0.3, 0.2
        row_of("q5", 8, {1.0, 2.0, 3.0}, turned),   // 6: no plain row beside it
    };
    const std::vector<RotationChange> changes = rotation_changes(rows);
    REQUIRE(changes.size() == 2);
    CHECK(changes[0].plain == 2);
    CHECK(changes[0].rotated == 3);
    CHECK(std::abs(changes[0].kld.value + 0.1) < 1e-12);
    CHECK(changes[0].p < 1e-6);  // never varies
    CHECK(changes[1].plain == 4);
    CHECK(changes[1].rotated == 5);
    CHECK(std::abs(changes[1].kld.value - 0.2) < 1e-12);
    CHECK(std::abs(changes[1].kld.error - 0.1 / std::sqrt(3.0)) < 1e-12);
    CHECK(changes[1].p > 0.01);  // t = 3.46 with two degrees of freedom: 0.074
    CHECK(changes[1].p < 0.1);
}

TEST_CASE("sweep: a cell that is not a number is rescued by rotation, not left out", "[sweep]") {
    const std::string turned = "k=sylvester/64 v=sylvester/64";
    SweepResult result{{"q8", "q4", "q5", "q6"}, {"q8"}, {"off", "auto"}, 64, 3, {}};
    result.rows = {
        row_of("q8", 16, {1.0, 2.0, 3.0}),    row_of("q8", 16, {0.9, 1.9, 2.9}, turned),
        row_of("q4", 8, {1.0, k_nan, 3.0}),   row_of("q4", 8, {1.0, 2.5, 3.0}, turned),
        row_of("q5", 8, {1.0, 2.0, 3.0}),     row_of("q5", 8, {k_nan, 2.0, 3.0}, turned),
        row_of("q6", 4, {k_nan, k_nan, 3.0}), row_of("q6", 4, {k_nan, 2.0, 3.0}, turned)};
    for (SweepRow& row : result.rows) {
        if (row.is_number()) continue;
        row.found->not_numbers = {1, 30, 2, 5, false, "K does not fit", ""};
    }
    using Kind = RotationChange::Kind;
    const Kind expected[] = {Kind::compared, Kind::rescued, Kind::broken, Kind::neither};
    const std::vector<RotationChange> changes = rotation_changes(result.rows);
    REQUIRE(changes.size() == 4);
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(changes[i].kind == expected[i]);
        CHECK(std::isnan(changes[i].p) == (i > 0));
    }
    CHECK(pareto_front(result.rows) == std::vector<std::size_t>{4, 1});

    const std::string text = printed(result);
    CHECK(text.find("helps in 1, hurts in 0; of the 0 not certain 0 have") != std::string::npos);
    CHECK(text.find("rescued by rotation: 1 (plain is not a number); broken by rotation: 1; not a "
                    "number either way: 1\n") != std::string::npos);
    CHECK(text.find("\nrescued: k=q4,v=q4,rot=auto") != std::string::npos);
    CHECK(text.find("\nbroken: k=q5,v=q5,rot=auto") != std::string::npos);
    CHECK(text.find("\nhurts:") == std::string::npos);
    CHECK(text.find("left out, as it is not a number: 4 cells\n") != std::string::npos);
    CHECK(text.find("4 cells are not numbers (k=q4,v=q4,rot=off, ...): 1 of 30 positions") !=
          std::string::npos);
    CHECK(text.find("-nan") == std::string::npos);

    // A line of the file keeps what is known of it.
    const NotNumbers back =
        parse_row(nlohmann::ordered_json::parse(line_of(result.rows[2]))).found->not_numbers;
    CHECK(back.count == 1);
    CHECK(back.scored == 30);
    CHECK(back.window == 2);
    CHECK(back.position == 5);
    CHECK(back.cause == "K does not fit");

    // A perplexity beyond exp() is said too, and leaves the other figures as they are.
    result.rows = {row_of("q8", 16, {1.0, 2.0, 3.0}), row_of("q8", 16, {0.9, 1.9, 2.9}, turned)};
    for (SweepRow& row : result.rows) row.found->not_numbers.overflow = "more than exp() holds";
    result.rows[0] = parse_row(nlohmann::ordered_json::parse(line_of(result.rows[0])));
    CHECK(not_number_lines(result.rows) ==
          std::vector<std::string>{
              "2 cells are without a PPL (k=q8,v=q8,rot=off, ...): more than exp() holds"});
    CHECK(pareto_front(result.rows) == std::vector<std::size_t>{1});
}

TEST_CASE("sweep: cells are one where types and rotations are", "[sweep]") {
    const rotkv::test::TemporaryFile file("sweep.gguf");
    rotkv::test::TinyModel::make("llama").write(file.path());
    const GgufFile gguf = GgufFile::open(file.path());
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const Model model(gguf, *ref, {.context = 8});
    const WindowPlan plan = plan_windows(std::vector<int32_t>(16, 1), 8, 8, -1, -1);
    std::vector<AskedRotation> rotations;
    for (const char* text : {"off", "auto", "16"}) {  // auto leaves what is not quantized alone
        rotations.push_back({text, RotationRequest::both(*parse_request(text, "test"))});
    }
    const std::vector<SweepPoint> cells = sweep_cells(
        model, plan, {{DType::f32, DType::bf16}, {DType::f32, DType::q8_0}}, rotations, {});
    REQUIRE(cells.size() == 12);
    for (std::size_t i = 0; i < cells.size(); ++i) {
        INFO(cells[i].variant.name);
        const bool fits = i % 6 < 3;  // heads of 16 are no blocks of q8_0
        CHECK(cells[i].unsupported.empty() == fits);
        CHECK(cells[i].same_as.has_value() == (fits && cells[i].rot == "auto"));
        if (cells[i].same_as) CHECK(*cells[i].same_as == i - 1);
    }
    const std::vector<CacheType> types = {DType::f32, DType::bf16};
    const std::vector<SweepPoint> equal =
        sweep_cells(model, plan, {types, types, true}, rotations, {});
    REQUIRE(equal.size() == 6);
    for (const SweepPoint& cell : equal) CHECK(cell.variant.type_k == cell.variant.type_v);
}

TEST_CASE("sweep: a row of a sweep survives its line", "[sweep]") {
    SweepRow row = row_of("q8_0", 544, {0.25, k_nan}, "k=sylvester/64 v=none");
    row.found->kld_se_window = k_nan;
    row.found->ppl = 21.37222;
    row.found->log_ratio = {-0.001, 0.0005};
    row.found->kld_median = 1e-9;
    row.found->kld_99 = 3;
    row.found->same_top = 1;
    row.same_as = "k=\"odd\"";
    row.seconds = 1.5;
    for (const SweepRow& one : {row, unsupported("q4_0")}) {
        const std::string line = line_of(one);
        CHECK(line.find('\n') == std::string::npos);
        const SweepRow back = parse_row(nlohmann::ordered_json::parse(line));
        CHECK(back.name() == one.name());
        CHECK(back.rotation == one.rotation);
        CHECK(back.same_as == one.same_as);
        CHECK(back.unsupported == one.unsupported);
        CHECK(line_of(back) == line);
    }
}

TEST_CASE("sweep: headers differ where they differ, and names of files do not count", "[sweep]") {
    const nlohmann::ordered_json a = {{"model", "a.gguf"}, {"n_ctx", 512}, {"rot", {"off"}}};
    nlohmann::ordered_json b = a;
    b["model"] = "moved.gguf";
    CHECK(difference_of(a, b).empty());
    b["n_ctx"] = 32;
    CHECK(difference_of(a, b) == "n_ctx: the file has 512, this run 32");
    b = a;
    b["more"] = 1;
    CHECK(difference_of(a, b) == "more: the file has nothing, this run 1");
    CHECK(difference_of(b, a) == "more: the file has 1, this run nothing");
}

TEST_CASE("sweep: the matrices have K down and V across", "[sweep]") {
    const std::string text = printed(six_pairs());
    using Table = std::vector<std::vector<std::string>>;
    CHECK(words_below(text, "Mean KLD, rotation auto: K down, V across", 3) ==
          Table{{"f16", "q8_0", "q4_0"},
                {"f16", "0.011000", "0.111000", "0.211000"},
                {"q8_0", "1.011000", "1.111000", "1.211000"}});
    CHECK(words_below(text, "PPL / PPL of the base, rotation off: K down, V across", 3) ==
          Table{{"f16", "q8_0", "q4_0"},
                {"f16", "2.0010", "2.1010", "2.2010"},
                {"q8_0", "3.0010", "3.1010", "3.2010"}});
}

TEST_CASE("sweep: what helps, hurts and is not certain is counted apart", "[sweep]") {
    const std::string turned = "k=sylvester/64 v=sylvester/64";
    SweepResult result{{"q8", "q5", "q4"}, {"q8"}, {"off", "auto"}, 64, 3, {}};
    result.rows = {
        row_of("q8", 16, {1.0, 2.0, 3.0}), row_of("q8", 16, {0.9, 1.9, 2.9}, turned),  // helps
        row_of("q5", 12, {1.0, 2.0, 3.0}), row_of("q5", 12, {1.1, 2.3, 3.2}, turned),  // who knows
        row_of("q4", 8, {1.0, 2.0, 3.0}),  row_of("q4", 8, {1.1, 2.1, 3.1}, turned),   // hurts
    };
    const std::string text = printed(result);
    CHECK(text.find("Rotation against none: 3 pairs, by windows, p < 0.01") != std::string::npos);
    CHECK(text.find("helps in 1, hurts in 1; of the 1 not certain 1 have a larger KLD rotated") !=
          std::string::npos);
    CHECK(text.find("hurts: k=q4,v=q4,rot=auto") != std::string::npos);
    CHECK(text.find("hurts: k=q5") == std::string::npos);
    // Only q5's difference varies: the median of the three is one that needs no more than nothing.
    CHECK(
        text.find("in half of the pairs 3 windows show only changes of 0.0 % or more of the plain "
                  "KLD, 6 of about 0.0 %\n") != std::string::npos);
}

TEST_CASE("sweep: the last words say how large a change would have shown", "[sweep]") {
    SweepResult result{{"q5"}, {"q8"}, {"off", "auto"}, 64, 3, {}};
    result.rows = {row_of("q5", 12, {1.0, 2.0, 3.0}),
                   row_of("q5", 12, {1.1, 2.3, 3.2}, "k=sylvester/64 v=sylvester/64")};
    // The error 0.1 / sqrt(3), times t = 9.925 (two degrees, 1 %), of a KLD of 2: 28.65 %. With six
    // windows t is 4.032: 28.65 x 4.032 / 9.925 / sqrt(2) = 8.23.
    CHECK(
        printed(result).find("in half of the pairs 3 windows show only changes of 29 % or more of "
                             "the plain KLD, 6 of about 8.2 %\n") != std::string::npos);
}

TEST_CASE("sweep: each column of the table is what its title says", "[sweep]") {
    SweepResult result{{"f16"}, {"f16"}, {"off"}, 64, 2, {row_of("f16", 128, {0.25})}};
    SweepFigures& found = *result.rows[0].found;
    found.ppl = 12.5;
    found.log_ratio = {0.125, 0.0625};
    found.kld = {0.25, 0.5};
    found.kld_se_window = 0.75;
    found.kld_median = 0.375;
    found.kld_99 = 4;
    found.same_top = 0.875;
    const rotkv::test::TemporaryFolder folder;
    write_csv(folder.file("cells.csv"), result);
    std::istringstream lines(rotkv::test::read_all(folder.file("cells.csv")));
    std::string titles, values;
    std::getline(lines, titles);
    std::getline(lines, values);
    std::istringstream title(titles), value(values);
    std::map<std::string, std::string> row;
    for (std::string name, figure; std::getline(title, name, ',');) {
        std::getline(value, figure, ',');
        row[name] = figure;
    }
    CHECK(row == std::map<std::string, std::string>{{"k", "f16"},
                                                    {"v", "f16"},
                                                    {"rot", "off"},
                                                    {"rotation", "k=none v=none"},
                                                    {"bytes_per_token", "128"},
                                                    {"bits", "16.0000"},
                                                    {"ppl", "12.5"},
                                                    {"log_ratio", "0.125"},
                                                    {"log_ratio_se", "0.0625"},
                                                    {"kld", "0.25"},
                                                    {"kld_se", "0.5"},
                                                    {"kld_se_window", "0.75"},
                                                    {"kld_median", "0.375"},
                                                    {"kld_99", "4"},
                                                    {"same_top", "0.875"},
                                                    {"same_as", "\"\""},
                                                    {"unsupported", ""}});
}

TEST_CASE("sweep: a row has the figures of its scored positions", "[sweep]") {
    std::vector<TokenPair> pairs;
    for (int i = 0; i < 200; ++i) {
        pairs.push_back({0.001 * i * i, 0.01 * i, 0.01 * i + 0.002 * (i % 7), i % 3 != 0});
    }
    const SweepFigures found = sweep_figures(pairs, 50);
    const KldSummary all = summarize(pairs);
    CHECK(found.ppl == Approx(all.ppl_b.value).epsilon(1e-6));
    CHECK(found.log_ratio.value == Approx(all.log_ratio.value).epsilon(1e-6));
    CHECK(found.log_ratio.error == Approx(all.log_ratio.error).epsilon(1e-6));
    CHECK(found.kld.value == Approx(all.kld.value).epsilon(1e-6));
    CHECK(found.kld.error == Approx(all.kld.error).epsilon(1e-6));
    CHECK(found.kld_median == Approx(all.kld_median).epsilon(1e-6));
    CHECK(found.kld_99 == Approx(all.kld_99).epsilon(1e-6));
    CHECK(found.same_top == Approx(all.same_top.value).epsilon(1e-6));
    REQUIRE(found.kld_windows.size() == 4);
    double first = 0;
    for (int i = 0; i < 50; ++i) first += 0.001 * i * i / 50;
    CHECK(found.kld_windows[0] == Approx(first).epsilon(1e-6));
    CHECK(found.kld_se_window == Approx(mean_of(found.kld_windows).error).epsilon(1e-5));
}
