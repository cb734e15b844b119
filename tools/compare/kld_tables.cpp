#include "tools/compare/kld_tables.h"

#include "ref/files/output_file.h"
#include "tools/compare/by_layer.h"
#include "tools/compare/kld_block.h"
#include "tools/compare/kld_words.h"
#include "tools/layer_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace rotkv::tools {

// \u00B1 is plus-minus: the source itself stays ASCII.

static constexpr int64_t k_position_bins = 8;

static std::vector<double> klds_of(const MeasuredCache& measured) {
    return figures_of(measured.pairs, &TokenPair::kld);
}

std::vector<PairedResult> compare_variants(const LockStep& run) {
    const int64_t per_window = run.plan().scored_per_window();
    std::vector<PairedResult> results;
    for (std::size_t a = 0; a < run.variants().size(); ++a) {
        for (std::size_t b = a + 1; b < run.variants().size(); ++b) {
            const auto difference = [&](double TokenPair::*member) {
                return paired_difference(figures_of(run.variants()[a].pairs, member),
                                         figures_of(run.variants()[b].pairs, member), per_window);
            };
            PairedResult result{a, b, difference(&TokenPair::kld), difference(&TokenPair::nll_b)};
            result.p = p_of(result.kld, run.windows());
            results.push_back(result);
        }
    }
    return results;
}

Repeatability repeatability_of(const MeasuredCache& measured) {
    Repeatability result;
    for (const JitterRun& run : measured.jitter) {
        const auto mean = [](const std::vector<TokenPair>& pairs) {
            return mean_of(figures_of(pairs, &TokenPair::kld)).value;
        };
        result.kld.push_back(mean(run.from_base));
        result.between.push_back(mean(run.from_itself));
        result.ppl.push_back(perplexity(figures_of(run.from_base, &TokenPair::nll_b)).value);
    }
    return result;
}

std::string letter_of(std::size_t index) {
    return index < 26 ? std::string(1, char('A' + index)) : fmt::format("#{}", index + 1);
}

namespace {

std::string plus_minus(const Mean& mean, int digits) {
    return fmt::format("{:.{}f} \u00B1 {}", mean.value, digits,
                       unless_one_window(mean, fmt::format("{:.{}f}", mean.error, digits)));
}

double largest(const std::vector<double>& x) { return quantile(x, 1); }

// Of a sum that is 0 nothing is a share.
double percent_of(double part, double sum) { return sum <= 0 ? 0 : 100 * part / sum; }

void print_floor(std::FILE* out, const Floor& floor, bool exact) {
    const KldMeans means = summarize_means(floor.pairs);
    const double most = largest(figures_of(floor.pairs, &TokenPair::kld));
    fmt::print(
        out, "{:<5} {:>10.4f}  {:<22} {:>9}  {:>6.2f} %  {}\n", "floor", means.ppl_b.value,
        fmt::format("{:.1e} (max {:.1e})", means.kld.value, most), "", 100 * means.same_top.value,
        fmt::format("the base again: {} thread{}, batch {}, one bit changed{}", floor.threads,
                    floor.threads == 1 ? "" : "s", floor.batch, exact ? "" : ", in f32"));
}

void print_overview(std::FILE* out, const LockStep& run) {
    const int64_t per_window = run.plan().scored_per_window();
    fmt::print(out, "====== Overview: {} windows, {} scored tokens ======\n", run.windows(),
               run.windows() * per_window);
    if (run.plan().shifts.times > 0) {
        fmt::print(out, "each window {}\n", describe_shifts(run.plan()));
    }
    fmt::print(out, "{:<5} {:>10}  {:<23} {:>9}  {:>8}  {}\n", "", "PPL",
               "mean KLD \u00B1 by tokens", "by window", "same top", "cache");
    const auto line = [&](const std::string& name, std::span<const TokenPair> pairs,
                          const std::string& cache) {
        const KldMeans means = summarize_means(pairs);
        const Mean windows = mean_by_windows(figures_of(pairs, &TokenPair::kld), per_window);
        fmt::print(out, "{:<5} {:>10.4f}  {:<22} {:>9}  {:>6.2f} %  {}\n", name, means.ppl_b.value,
                   plus_minus(means.kld, 6),
                   unless_one_window(windows, fmt::format("{:.6f}", windows.error)),
                   100 * means.same_top.value, cache);
    };
    const double ppl = perplexity(figures_of(run.floor().pairs, &TokenPair::nll_a)).value;
    fmt::print(out, "{:<5} {:>10.4f}  {:<22} {:>9}  {:>8}  {}\n", "base", ppl,
               std::isnan(ppl) ? "nan" : "0", "", "", run.base().variant.name);
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        const MeasuredCache& measured = run.variants()[i];
        line(letter_of(i), measured.pairs, measured.variant.name + words_of_bits(measured.shape));
    }
    print_floor(out, run.floor(), run.precision() == ModelPrecision{});
    if (run.windows() == 1) fmt::print(out, "by window: {}\n", k_one_window);
}

void print_differences(std::FILE* out, const LockStep& run) {
    const std::vector<PairedResult> results = compare_variants(run);
    if (results.empty()) return;
    fmt::print(out, "\n====== Paired differences, errors by windows ======\n");
    fmt::print(out, "{:<8} {:<23} {:>10}  {}\n", "", "mean KLD", "p", "ln(PPL/PPL)");
    for (const PairedResult& result : results) {
        fmt::print(out, "{:<8} {:<23} {:>10.2g}  {}\n",
                   letter_of(result.a) + " - " + letter_of(result.b), plus_minus(result.kld, 6),
                   result.p, plus_minus(result.log_ratio, 6));
    }
}

void print_positions(std::FILE* out, const LockStep& run) {
    const WindowPlan& plan = run.plan();
    std::vector<std::vector<PositionBin>> columns;
    fmt::print(out, "\n====== Mean KLD by position in the window ======\n{:<12}", "position");
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        fmt::print(out, "  {:<20}", letter_of(i));
        columns.push_back(by_position(klds_of(run.variants()[i]), plan.scored_per_window(),
                                      plan.first_scored(), k_position_bins));
    }
    fmt::print(out, "\n");
    for (std::size_t bin = 0; bin < columns[0].size(); ++bin) {
        fmt::print(out, "{:<12}",
                   fmt::format("{} .. {}", columns[0][bin].first, columns[0][bin].last));
        for (const std::vector<PositionBin>& column : columns) {
            fmt::print(out, "  {:<20}", plus_minus(column[bin].mean, 6));
        }
        fmt::print(out, "\n");
    }
}

// "0.0379 .. 0.0402 (6.1 %)"; nothing is a share of 0.
std::string spread(const std::vector<double>& x, int digits) {
    const double low = quantile(x, 0), high = largest(x);
    const std::string range = fmt::format("{:.{}f} .. {:.{}f}", low, digits, high, digits);
    return low > 0 ? range + fmt::format(" ({:.1f} %)", 100 * (high - low) / low) : range;
}

void print_repeatability(std::FILE* out, const LockStep& run) {
    const std::size_t runs = run.base().jitter.size();
    if (runs == 0) return;
    fmt::print(out, "\n====== Repeatability: {} runs, one bit of the first norm changed ======\n",
               runs);
    fmt::print(out, "{:<5} {:<30} {:<30} {}\n", "", "mean KLD from base", "PPL",
               "mean KLD from the unchanged run");
    const auto line = [&](const std::string& name, const MeasuredCache& measured) {
        const Repeatability all = repeatability_of(measured);
        fmt::print(out, "{:<5} {:<30} {:<30} {:.6f}\n", name,
                   &measured == &run.base() ? "" : spread(all.kld, 6), spread(all.ppl, 4),
                   mean_of(all.between).value);
    };
    line("base", run.base());
    for (std::size_t i = 0; i < run.variants().size(); ++i) line(letter_of(i), run.variants()[i]);
}

void print_stop(std::FILE* out, const LockStep& run, const StopResult& stop) {
    fmt::print(out, "\nA - B at {:g} %: {} after {} of {} windows and {} looks\n", stop.percent,
               stop.stopped        ? "certain, stopped"
               : stop.not_a_number ? "not a number, stopped"
                                   : "not certain",
               run.windows(), run.plan().windows, stop.looks);
}

nlohmann::ordered_json json_of_mean(const Mean& mean) {
    return {{"value", mean.value}, {"se", mean.error}};
}

nlohmann::ordered_json json_of_jitter(const MeasuredCache& measured) {
    const Repeatability all = repeatability_of(measured);
    return {{"kld", all.kld}, {"ppl", all.ppl}, {"kld_from_unchanged", all.between}};
}

nlohmann::ordered_json json_of_cache(const MeasuredCache& measured) {
    nlohmann::ordered_json json;
    json["name"] = measured.variant.name;
    json["cache"] = json_of(measured.shape);
    json["rotation"] = json_of(measured.spec);
    if (!measured.jitter.empty()) json["jitter"] = json_of_jitter(measured);
    return json;
}

// {layers: [{layer, kld, se}], sum}, and where all layers were run {whole, whole_over_sum}.
static nlohmann::ordered_json json_of_layers(const LockStep& run, const MeasuredCache& measured) {
    const LayerShares shares = layer_shares(run, measured);
    nlohmann::ordered_json json;
    for (std::size_t l = 0; l < shares.kld.size(); ++l) {
        json["layers"].push_back({{"layer", measured.layers[l].layer},
                                  {"kld", shares.kld[l].value},
                                  {"se", shares.kld[l].error}});
    }
    json["without_rows"] = layers_without_rows(measured.shape);
    json["sum"] = shares.sum;
    if (shares.complete) {
        json["whole"] = shares.whole;
        json["whole_over_sum"] = shares.whole / shares.sum;
    }
    return json;
}

nlohmann::ordered_json json_of_variant(const LockStep& run, const MeasuredCache& measured) {
    const WindowPlan& plan = run.plan();
    nlohmann::ordered_json json = json_of_cache(measured);
    const KldSummary summary = summarize(measured.pairs);
    json["ppl"] = summary.ppl_b.value;
    json["ppl_err"] = summary.ppl_b.error;
    json["kld"] = json_of(summary);
    json["kld"]["se_by_windows"] =
        mean_by_windows(klds_of(measured), plan.scored_per_window()).error;
    for (const PositionBin& bin : by_position(klds_of(measured), plan.scored_per_window(),
                                              plan.first_scored(), k_position_bins)) {
        json["by_position"].push_back({{"first", bin.first},
                                       {"last", bin.last},
                                       {"kld", bin.mean.value},
                                       {"se", bin.mean.error}});
    }
    if (!measured.layers.empty()) json["by_layer"] = json_of_layers(run, measured);
    return json;
}

}  // namespace

// A table of layers and variants, and sum and whole below; nothing where no layer was run.
static void print_layers(std::FILE* out, const LockStep& run) {
    if (run.variants()[0].layers.empty()) return;
    std::vector<LayerShares> columns;
    fmt::print(out, "\n====== Mean KLD with one layer as in the variant ======\n{:<6}", "layer");
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        columns.push_back(layer_shares(run, run.variants()[i]));
        fmt::print(out, "  {:<29}", letter_of(i));
    }
    fmt::print(out, "\n");
    for (std::size_t l = 0; l < columns[0].kld.size(); ++l) {
        fmt::print(out, "{:<6}", run.variants()[0].layers[l].layer);
        for (const LayerShares& column : columns) {
            const Mean& kld = column.kld[l];
            const double share = percent_of(kld.value, column.sum);
            fmt::print(out, "  {} {:>7.1f} %", plus_minus(kld, 6), share);
        }
        fmt::print(out, "\n");
    }
    const auto line = [&](const char* name, double LayerShares::*figure) {
        fmt::print(out, "{:<6}", name);
        for (const LayerShares& column : columns) {
            const double value = column.*figure;
            const double share = percent_of(value, column.sum);
            fmt::print(out, "  {:.6f} {:>18.1f} %", value, share);
        }
        fmt::print(out, "\n");
    };
    line("sum", &LayerShares::sum);
    if (columns[0].complete) line("whole", &LayerShares::whole);
    for (const std::string& words : layers_without_rows(run.base().shape)) {
        fmt::print(out, "{}\n", words);
    }
}

void print_results(std::FILE* out, const LockStep& run, const std::optional<StopResult>& stop) {
    print_overview(out, run);
    print_words(out, run);
    print_differences(out, run);
    print_positions(out, run);
    print_layers(out, run);
    print_repeatability(out, run);
    if (stop) print_stop(out, run, *stop);
    std::fflush(out);
}

void print_blocks(std::FILE* out, const LockStep& run) {
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        const MeasuredCache& measured = run.variants()[i];
        fmt::print(out, "\n###### {}: {} ######\n{}", letter_of(i), measured.variant.name,
                   measured.words);
        print_kld_summary(out, summarize(measured.pairs));
    }
    std::fflush(out);
}

nlohmann::ordered_json json_of(const LockStep& run, const std::optional<StopResult>& stop) {
    nlohmann::ordered_json json;
    const KldMeans floor = summarize_means(run.floor().pairs);
    json["base"] = json_of_cache(run.base());
    json["base"]["ppl"] = floor.ppl_a.value;
    json["floor"] = {{"threads", run.floor().threads},
                     {"n_batch", run.floor().batch},
                     {"kld", floor.kld.value},
                     {"kld_max", largest(figures_of(run.floor().pairs, &TokenPair::kld))},
                     {"ppl", floor.ppl_b.value}};
    for (const MeasuredCache& measured : run.variants()) {
        json["variants"].push_back(json_of_variant(run, measured));
    }
    json["pairs"] = nlohmann::ordered_json::array();
    for (const PairedResult& result : compare_variants(run)) {
        json["pairs"].push_back({{"a", run.variants()[result.a].variant.name},
                                 {"b", run.variants()[result.b].variant.name},
                                 {"kld", json_of_mean(result.kld)},
                                 {"p", result.p},
                                 {"log_ratio", json_of_mean(result.log_ratio)}});
    }
    if (stop) {
        json["stop"] = {
            {"percent", stop->percent}, {"stopped", stop->stopped}, {"looks", stop->looks}};
        json["stop"]["not_a_number"] = stop->not_a_number;
    }
    return json;
}

void write_csv(const std::string& path, const LockStep& run) {
    if (path.empty()) return;
    const WindowPlan& plan = run.plan();
    OutputFile file(path);
    file.write(std::string("variant,window,position,target,kld,nll_base,nll,same_top\n"));
    for (const MeasuredCache& measured : run.variants()) {
        std::string lines;
        const std::vector<double> klds = klds_of(measured);
        for (std::size_t i = 0; i < measured.pairs.size(); ++i) {
            const TokenPair& pair = measured.pairs[i];
            const int64_t window = int64_t(i) / plan.scored_per_window();
            const int64_t position = plan.first_scored() + int64_t(i) % plan.scored_per_window();
            const int32_t target = plan.tokens[std::size_t(window * plan.length() + position + 1)];
            lines += fmt::format("\"{}\",{},{},{},{:.9g},{:.9g},{:.9g},{}\n", measured.variant.name,
                                 window, position, target, klds[i], number_or_nan(pair.nll_a),
                                 number_or_nan(pair.nll_b),
                                 !pair.comparable() ? "nan"
                                 : pair.same_top    ? "1"
                                                    : "0");
        }
        file.write(lines);
    }
    file.finish();
}

}  // namespace rotkv::tools
