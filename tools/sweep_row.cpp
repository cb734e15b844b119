#include "tools/sweep_row.h"

#include "tools/compare/paired.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

// Digits beyond these tell nothing about a cache and make the file three times as long.
static double rounded(double x) {
    return std::isfinite(x) ? std::stod(fmt::format("{:.7g}", x)) : x;
}

// JSON knows no NaN; nlohmann writes null.
static double number(const Json& value) {
    return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

// The reverse of json_of(NotNumbers).
static NotNumbers parse_not_numbers(const Json& json) {
    NotNumbers found;
    found.count = json.at("count").get<int64_t>();
    found.scored = json.at("scored").get<int64_t>();
    found.overflow = json.value("overflow", "");
    if (found.count == 0) return found;
    const Json& first = json.at("first");
    found.window = first.at("window").get<int64_t>();
    found.position = first.at("position").get<int64_t>();
    if (!first.at("cause").is_null()) found.cause = first.at("cause").get<std::string>();
    return found;
}

std::string SweepRow::name() const { return fmt::format("k={},v={},rot={}", k, v, rot); }

SweepFigures sweep_figures(std::span<const TokenPair> pairs, int64_t per_window) {
    const KldSummary all = summarize(pairs);
    const std::vector<double> klds = figures_of(pairs, &TokenPair::kld);
    const auto both = [](const Mean& mean) {
        return Mean{rounded(mean.value), rounded(mean.error)};
    };
    SweepFigures found;
    found.ppl = rounded(all.ppl_b.value);
    found.log_ratio = both(all.log_ratio);
    found.kld = both(all.kld);
    found.kld_se_window = rounded(mean_by_windows(klds, per_window).error);
    found.kld_median = rounded(all.kld_median);
    found.kld_99 = rounded(all.kld_99);
    found.same_top = rounded(all.same_top.value);
    for (const double mean : window_means(klds, per_window)) {
        found.kld_windows.push_back(rounded(mean));
    }
    return found;
}

Json json_of(const SweepRow& row) {
    Json json = {{"k", row.k}, {"v", row.v}, {"rot", row.rot}};
    if (!row.found) {
        json["unsupported"] = row.unsupported;
        return json;
    }
    const SweepFigures& found = *row.found;
    json["rotation"] = row.rotation;
    json["bytes_per_token"] = row.bytes_per_token;
    json["ppl"] = found.ppl;
    json["log_ratio"] = found.log_ratio.value;
    json["log_ratio_se"] = found.log_ratio.error;
    json["kld"] = found.kld.value;
    json["kld_se"] = found.kld.error;
    json["kld_se_window"] = found.kld_se_window;
    json["kld_median"] = found.kld_median;
    json["kld_99"] = found.kld_99;
    json["same_top"] = found.same_top;
    json["kld_windows"] = found.kld_windows;
    if (found.not_numbers.any()) json["not_numbers"] = json_of(found.not_numbers);
    if (!row.same_as.empty()) json["same_as"] = row.same_as;
    json["seconds"] = row.seconds;
    return json;
}

std::string line_of(const SweepRow& row) {
    return json_of(row).dump(-1, ' ', false, Json::error_handler_t::replace);
}

SweepRow parse_row(const Json& json) {
    SweepRow row;
    row.k = json.at("k").get<std::string>();
    row.v = json.at("v").get<std::string>();
    row.rot = json.at("rot").get<std::string>();
    if (json.contains("unsupported")) {
        row.unsupported = json.at("unsupported").get<std::string>();
        return row;
    }
    row.rotation = json.at("rotation").get<std::string>();
    row.bytes_per_token = json.at("bytes_per_token").get<int64_t>();
    SweepFigures& found = row.found.emplace();
    found.ppl = number(json.at("ppl"));
    found.log_ratio = {number(json.at("log_ratio")), number(json.at("log_ratio_se"))};
    found.kld = {number(json.at("kld")), number(json.at("kld_se"))};
    found.kld_se_window = number(json.at("kld_se_window"));
    found.kld_median = number(json.at("kld_median"));
    found.kld_99 = number(json.at("kld_99"));
    found.same_top = number(json.at("same_top"));
    for (const Json& mean : json.at("kld_windows")) found.kld_windows.push_back(number(mean));
    if (json.contains("not_numbers")) found.not_numbers = parse_not_numbers(json["not_numbers"]);
    row.same_as = json.value("same_as", "");
    row.seconds = number(json.at("seconds"));
    return row;
}

}  // namespace rotkv::tools
