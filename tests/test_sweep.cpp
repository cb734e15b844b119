// What a sweep concludes from its rows, on small tables whose answers can be seen; and its lines.
#include "tests/catch.h"
#include "tools/sweep_file.h"
#include "tools/sweep_report.h"

#include <cmath>
#include <limits>
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
