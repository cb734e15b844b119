// The blocks that compare a cache with its base, as text and as JSON: each figure under its name.
#include "tests/catch.h"
#include "tests/temporary_folder.h"
#include "tools/compare/kld_block.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::tools;
using namespace rotkv::test;

namespace {

// A quantile's figure is the share below it, of changes of p a tenth of that; means are 1.5, 2.5
// ... with a tenth as error.
KldSummary summary() {
    KldSummary s;
    s.kld = {1.5, 0.15};
    s.delta_p = {2.5, 0.25};
    s.dp_rms = {3.5, 0.35};
    s.same_top = {0.5, 0.05};
    s.ppl_a = {4.5, 0.45};
    s.ppl_b = {5.5, 0.55};
    s.log_ratio = {6.5, 0.65};
    s.ratio = {7.5, 0.75};
    s.difference = {8.5, 0.85};
    s.correlation = 0.75;
    s.kld_min = 0;
    s.kld_01 = 0.001;
    s.kld_1 = 0.01;
    s.kld_5 = 0.05;
    s.kld_10 = 0.1;
    s.kld_median = 0.5;
    s.kld_90 = 0.9;
    s.kld_95 = 0.95;
    s.kld_99 = 0.99;
    s.kld_999 = 0.999;
    s.kld_max = 1;
    s.dp_min = 0;
    s.dp_01 = 0.0001;
    s.dp_1 = 0.001;
    s.dp_5 = 0.005;
    s.dp_10 = 0.01;
    s.dp_25 = 0.025;
    s.dp_median = 0.05;
    s.dp_75 = 0.075;
    s.dp_90 = 0.09;
    s.dp_95 = 0.095;
    s.dp_99 = 0.099;
    s.dp_999 = 0.0999;
    s.dp_max = 0.1;
    return s;
}

}  // namespace

TEST_CASE("kld block: each line of the summary has its own figure") {
    const std::string text =
        printed_by([](std::FILE* file) { print_kld_summary(file, summary()); });
    const char* const expected[] = {
        "Mean PPL(Q)                   :   5.500000 \u00B1   0.550000\n",
        "Mean PPL(base)                :   4.500000 \u00B1   0.450000\n",
        "Cor(ln(PPL(Q)), ln(PPL(base))):  75.00%\n",
        "Mean ln(PPL(Q)/PPL(base))     :   6.500000 \u00B1   0.650000\n",
        "Mean PPL(Q)/PPL(base)         :   7.500000 \u00B1   0.750000\n",
        "Mean PPL(Q)-PPL(base)         :   8.500000 \u00B1   0.850000\n",
        "Mean    KLD:   1.500000 \u00B1   0.150000\n"
        "Maximum KLD:   1.000000\n"
        "99.9%   KLD:   0.999000\n"
        "99.0%   KLD:   0.990000\n"
        "95.0%   KLD:   0.950000\n"
        "90.0%   KLD:   0.900000\n"
        "Median  KLD:   0.500000\n"
        "10.0%   KLD:   0.100000\n"
        " 5.0%   KLD:   0.050000\n"
        " 1.0%   KLD:   0.010000\n"
        " 0.1%   KLD:   0.001000\n"
        "Minimum KLD:   0.000000\n",
        "Mean    \u0394p: 250.000 \u00B1 25.000 %\n"
        "Maximum \u0394p: 10.000%\n"
        "99.9%   \u0394p:  9.990%\n"
        "99.0%   \u0394p:  9.900%\n"
        "95.0%   \u0394p:  9.500%\n"
        "90.0%   \u0394p:  9.000%\n"
        "75.0%   \u0394p:  7.500%\n"
        "Median  \u0394p:  5.000%\n"
        "25.0%   \u0394p:  2.500%\n"
        "10.0%   \u0394p:  1.000%\n"
        " 5.0%   \u0394p:  0.500%\n"
        " 1.0%   \u0394p:  0.100%\n"
        " 0.1%   \u0394p:  0.010%\n"
        "Minimum \u0394p:  0.000%\n"
        "RMS \u0394p    : 350.000 \u00B1 35.000 %\n"
        "Same top p: 50.000 \u00B1 5.000 %\n"};
    for (const char* lines : expected) {
        INFO(lines << "in:\n" << text);
        CHECK(text.find(lines) != std::string::npos);
    }
}

TEST_CASE("kld block: the line of a window has the figures of its columns") {
    const std::string line =
        printed_by([](std::FILE* file) { print_kld_line(file, 7, summary()); });
    CHECK(line ==
          "   7        5.5000 \u00B1    0.5500       6.50000 \u00B1    0.65000       1.50000 "
          "\u00B1    "
          "0.15000    350.000 \u00B1 35.000 %    50.000 \u00B1  5.000 %\n");
}

TEST_CASE("kld block: JSON has each figure under its own key") {
    const nlohmann::ordered_json json = json_of(summary());
    const std::map<std::string, double> expected = {
        {"mean", 1.5},        {"se", 0.15},           {"min", 0},
        {"p001", 0.001},      {"p01", 0.01},          {"p05", 0.05},
        {"p10", 0.1},         {"median", 0.5},        {"p90", 0.9},
        {"p95", 0.95},        {"p99", 0.99},          {"p999", 0.999},
        {"max", 1},           {"same_top", 0.5},      {"same_top_se", 0.05},
        {"dp_mean", 2.5},     {"dp_mean_se", 0.25},   {"dp_rms", 3.5},
        {"dp_rms_se", 0.35},  {"dp_min", 0},          {"dp_median", 0.05},
        {"dp_max", 0.1},      {"ppl_base", 4.5},      {"ppl_base_se", 0.45},
        {"log_ratio", 6.5},   {"log_ratio_se", 0.65}, {"ratio", 7.5},
        {"ratio_se", 0.75},   {"difference", 8.5},    {"difference_se", 0.85},
        {"correlation", 0.75}};
    std::map<std::string, double> found;
    for (const auto& [key, value] : json.items()) found[key] = value.get<double>();
    CHECK(found == expected);
}
