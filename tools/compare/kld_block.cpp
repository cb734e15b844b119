#include "tools/compare/kld_block.h"

#include <fmt/format.h>

#include <string>

namespace rotkv::tools {

// \u00B1 is plus-minus, \u0394 a capital delta: the source itself stays ASCII.

void print_kld_header(std::FILE* out) {
    fmt::print(
        out,
        "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence      "
        "        \u0394p RMS            Same top p\n");
}

void print_kld_line(std::FILE* out, int64_t window, const KldMeans& s) {
    fmt::print(out, "{:4}", window);
    fmt::print(out, "    {:10.4f} \u00B1 {:9.4f}", s.ppl_b.value, s.ppl_b.error);
    fmt::print(out, "    {:10.5f} \u00B1 {:10.5f}", s.log_ratio.value, s.log_ratio.error);
    fmt::print(out, "    {:10.5f} \u00B1 {:10.5f}", s.kld.value, s.kld.error);
    fmt::print(out, "    {:6.3f} \u00B1 {:6.3f} %", 100 * s.dp_rms.value, 100 * s.dp_rms.error);
    fmt::print(out, "    {:6.3f} \u00B1 {:6.3f} %\n", 100 * s.same_top.value,
               100 * s.same_top.error);
    std::fflush(out);
}

namespace {

struct Row {
    const char* name;
    double value;
};

void print_perplexities(std::FILE* out, const KldSummary& s) {
    const auto line = [out](const char* name, const Mean& mean) {
        fmt::print(out, "{:<30}: {:10.6f} \u00B1 {:10.6f}\n", name, mean.value, mean.error);
    };
    fmt::print(out, "\n====== Perplexity statistics ======\n");
    line("Mean PPL(Q)", s.ppl_b);
    line("Mean PPL(base)", s.ppl_a);
    fmt::print(out, "{:<30}: {:6.2f}%\n", "Cor(ln(PPL(Q)), ln(PPL(base)))", 100 * s.correlation);
    line("Mean ln(PPL(Q)/PPL(base))", s.log_ratio);
    line("Mean PPL(Q)/PPL(base)", s.ratio);
    line("Mean PPL(Q)-PPL(base)", s.difference);
}

void print_klds(std::FILE* out, const KldSummary& s) {
    fmt::print(out, "\n====== KL divergence statistics ======\n");
    fmt::print(out, "Mean    KLD: {:10.6f} \u00B1 {:10.6f}\n", s.kld.value, s.kld.error);
    const Row rows[] = {{"Maximum", s.kld_max}, {"99.9%", s.kld_999},  {"99.0%", s.kld_99},
                        {"95.0%", s.kld_95},    {"90.0%", s.kld_90},   {"Median", s.kld_median},
                        {"10.0%", s.kld_10},    {" 5.0%", s.kld_5},    {" 1.0%", s.kld_1},
                        {" 0.1%", s.kld_01},    {"Minimum", s.kld_min}};
    for (const Row& row : rows) fmt::print(out, "{:<7} KLD: {:10.6f}\n", row.name, row.value);
}

void print_delta_ps(std::FILE* out, const KldSummary& s) {
    const auto line = [out](const char* name, const Mean& mean) {
        fmt::print(out, "{}: {:6.3f} \u00B1 {:5.3f} %\n", name, 100 * mean.value, 100 * mean.error);
    };
    fmt::print(out, "\n====== Token probability statistics ======\n");
    line("Mean    \u0394p", s.delta_p);
    const Row rows[] = {{"Maximum", s.dp_max},   {"99.9%", s.dp_999}, {"99.0%", s.dp_99},
                        {"95.0%", s.dp_95},      {"90.0%", s.dp_90},  {"75.0%", s.dp_75},
                        {"Median", s.dp_median}, {"25.0%", s.dp_25},  {"10.0%", s.dp_10},
                        {" 5.0%", s.dp_5},       {" 1.0%", s.dp_1},   {" 0.1%", s.dp_01},
                        {"Minimum", s.dp_min}};
    for (const Row& row : rows) {
        fmt::print(out, "{:<7} \u0394p: {:6.3f}%\n", row.name, 100 * row.value);
    }
    line("RMS \u0394p    ", s.dp_rms);
    line("Same top p", s.same_top);
}

// A mean under `key`, its standard error under key + "_se".
void add_mean(nlohmann::ordered_json& json, const std::string& key, const Mean& mean) {
    json[key] = mean.value;
    json[key + "_se"] = mean.error;
}

}  // namespace

void print_kld_summary(std::FILE* out, const KldSummary& summary) {
    print_perplexities(out, summary);
    print_klds(out, summary);
    print_delta_ps(out, summary);
}

nlohmann::ordered_json json_of(const KldSummary& s) {
    nlohmann::ordered_json json;
    json["mean"] = s.kld.value;
    json["se"] = s.kld.error;
    json["min"] = s.kld_min;
    json["p001"] = s.kld_01;
    json["p01"] = s.kld_1;
    json["p05"] = s.kld_5;
    json["p10"] = s.kld_10;
    json["median"] = s.kld_median;
    json["p90"] = s.kld_90;
    json["p95"] = s.kld_95;
    json["p99"] = s.kld_99;
    json["p999"] = s.kld_999;
    json["max"] = s.kld_max;
    add_mean(json, "same_top", s.same_top);
    add_mean(json, "dp_mean", s.delta_p);
    add_mean(json, "dp_rms", s.dp_rms);
    json["dp_min"] = s.dp_min;
    json["dp_median"] = s.dp_median;
    json["dp_max"] = s.dp_max;
    add_mean(json, "ppl_base", s.ppl_a);
    add_mean(json, "log_ratio", s.log_ratio);
    add_mean(json, "ratio", s.ratio);
    add_mean(json, "difference", s.difference);
    json["correlation"] = s.correlation;
    return json;
}

}  // namespace rotkv::tools
