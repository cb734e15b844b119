#include "tools/outlier_report.h"

#include "tools/layer_words.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace rotkv::tools {

using What = CapturedRows::What;

namespace {

// "k", or "k/rope" of a part.
std::string name_of(const HeadSurvey& head) {
    return std::string(k_side_names[std::size_t(head.side)]) + (*head.part.name == 0 ? "" : "/") +
           head.part.name;
}

const char* capital_of(What side) { return side == What::k ? "K" : side == What::v ? "V" : "Q"; }

// |k| / |v| of a key head and the value head beside it.
double norm_ratio(const Survey& survey, const HeadSurvey& key) {
    for (const HeadSurvey& head : survey.heads()) {
        if (head.side != What::v || head.layer != key.layer || head.head != key.head) continue;
        return unsigned_nan(key.rotations[0].statistics.figures().norm /
                            head.rotations[0].statistics.figures().norm);
    }
    return NAN;
}

std::string unless(bool empty, const std::string& text) { return empty ? "" : text; }

// The mean over all heads of a side.
struct SideFigures {
    double crest = 0, offset = 0, channel_ratio = 0, largest_row = 0;
};

SideFigures mean_figures(const Survey& survey, What side, std::size_t rotation) {
    SideFigures sum;
    double heads = 0;
    for (const HeadSurvey& head : survey.heads()) {
        if (head.side != side) continue;
        const HeadFigures f = head.rotations[rotation].statistics.figures();
        sum.crest += f.crest;
        sum.offset += f.offset;
        sum.channel_ratio += f.channel_ratio;
        sum.largest_row += head.largest_row();
        ++heads;
    }
    return {sum.crest / heads, sum.offset / heads, sum.channel_ratio / heads,
            sum.largest_row / heads};
}

}  // namespace

void print_layers(std::FILE* out, const Survey& survey) {
    KvShape shape;
    int64_t heads = 0;
    for (const SurveyLayer& layer : survey.plan().layers) {
        const int64_t own = int64_t(shape.layers.size());
        shape.layers.push_back({.kv_heads = layer.kv_heads});
        if (layer.rows_of != own) shape.layers.back().source = layer.rows_of;
        heads += layer.heads;
    }
    for (const std::string& line : layers_without_rows(shape)) fmt::print(out, "{}\n", line);
    const SinkFigures sinks = survey.sinks();
    if (sinks.heads == 0) return;
    fmt::print(out, "{} of {} query heads have a sink, which takes {:.1f} % of their probability\n",
               sinks.heads, heads, 100 * sinks.share());
}

void print_heads(std::FILE* out, const Survey& survey) {
    std::size_t wide = 4;
    for (const HeadSurvey& head : survey.heads()) wide = std::max(wide, name_of(head).size());
    fmt::print(out,
               "layer head {:>{}} rotation   kurtosis crest     mu     P4 offset channel rms  "
               "loudest     norm    k/v row of H  k bias\n",
               "side", wide);
    for (const HeadSurvey& head : survey.heads()) {
        for (std::size_t r = 0; r < k_rotations; ++r) {
            const HeadFigures f = head.rotations[r].statistics.figures();
            const bool more = r == 0, key = head.side == What::k;
            fmt::print(
                out,
                "{:>5} {:>4} {:>{}} {:<9} {:>9.2f} {:>5.2f} {:>6.2f} {:>6.4f} {:>6.3f} {:>11.2f} "
                "{:>8} {:>8} {:>6} {:>8} {:>7}\n",
                head.layer, head.head, name_of(head), wide, k_rotation_names[r], f.kurtosis,
                f.crest, f.mu, f.p4, f.offset, f.channel_ratio, f.loudest,
                unless(!more, fmt::format("{:.2f}", f.norm)),
                unless(!more || !key, fmt::format("{:.2f}", norm_ratio(survey, head))),
                unless(!more, fmt::format("{:.3f}", head.largest_row())),
                unless(!more || head.k_bias_norm < 0, fmt::format("{:.2f}", head.k_bias_norm)));
        }
    }
    fmt::print(out, "\n");
}

namespace {

// At the head of a line for people.
const char* title_of(Advice advice) {
    constexpr const char* k_titles[] = {"rotate",
                                        "no clear difference",
                                        "rotation would hurt",
                                        "only rotated is finite",
                                        "only plain is finite",
                                        "finite neither way"};
    return k_titles[std::size_t(advice)];
}

// One type and rotation of a side: means over its heads.
struct SideErrors {
    ErrorPair row, output;
    double noise = 0;  ///< of scores, logits^2; K only
};

SideErrors side_errors(const Survey& survey, What side, std::size_t type, std::size_t rotation) {
    SideErrors mean;
    const double heads = double(std::ranges::count(survey.heads(), side, &HeadSurvey::side));
    for (const HeadSurvey& head : survey.heads()) {
        if (head.side != side) continue;
        const ErrorPair row = head.rotations[rotation].errors[type].relative();
        const ErrorPair output = head.output_error(type, rotation);
        mean.row.predicted += row.predicted / heads;
        mean.row.measured += row.measured / heads;
        mean.output.predicted += output.predicted / heads;
        mean.output.measured += output.measured / heads;
        if (side != What::k) continue;
        mean.noise += survey.score_noise(head, type, rotation).measured / heads;
    }
    return mean;
}

// Of the column of types: 6, or what a format's name takes.
std::size_t width_of_names(const Survey& survey) {
    std::size_t width = 6;
    for (const What side : {What::k, What::v}) {
        for (const CacheType& type : survey.plan().types(side)) {
            width = std::max(width, type.name().size());
        }
    }
    return width;
}

void print_error_line(std::FILE* out, const Survey& survey, What side, std::size_t type,
                      std::size_t rotation) {
    const SideErrors e = side_errors(survey, side, type, rotation);
    fmt::print(out, "{:<4} {:<{}} {:<9} {:>8.3g} {:>8.3g} {:>8} {:>8.3g} {:>8.3g}",
               capital_of(side), survey.plan().types(side)[type].name(), width_of_names(survey),
               k_rotation_names[rotation], e.row.predicted, e.row.measured,
               unless(side == What::v, fmt::format("{:.3g}", std::sqrt(e.noise))),
               e.output.predicted, e.output.measured);
    if (rotation == 0) {
        fmt::print(out, "\n");
        return;
    }
    const SideErrors plain = side_errors(survey, side, type, 0);
    const SideAdvice v = survey.verdict(side, type, rotation);
    fmt::print(out, " | {:>5.2f} {:>6} {:>6.2f} {:>6.2f} {:>5.2f} {:>4} of {}\n",
               unsigned_nan(plain.row.measured / e.row.measured),
               unless(side == What::v, fmt::format("{:.2f}", unsigned_nan(plain.noise / e.noise))),
               std::exp(v.measured.value), std::exp(v.predicted.value), 2 * v.measured.error,
               v.worse, v.heads);
}

}  // namespace

// What a format keeps, which its name does not say; no law is known of formats.
static void print_formats(std::FILE* out, const Survey& survey) {
    for (const What side : {What::k, What::v}) {
        const auto head = std::ranges::find(survey.heads(), side, &HeadSurvey::side);
        for (const CacheType& type : survey.plan().types(side)) {
            if (type.format() == nullptr || head == survey.heads().end()) continue;
            fmt::print(out, "{}: {}; no law is known of its errors\n", capital_of(side),
                       type.words(head->part.d));
        }
    }
}

void print_errors(std::FILE* out, const Survey& survey) {
    fmt::print(
        out,
        "Errors, mean over heads: of rows, |e|^2 / |x|^2; of scores, rms in logits; of "
        "outputs, |e|^2 / |o|^2.\nGain: how many times less than unrotated.\n"
        "{0:{1}}                    rows              scores  outputs           | gain of\n"
        "side {2:<{1}} rotation    by law measured              by law measured |  rows scores "
        "output by law  2 se worse in\n",
        "", width_of_names(survey), "type");
    for (const What side : {What::k, What::v}) {
        for (std::size_t t = 0; t < survey.plan().types(side).size(); ++t) {
            for (std::size_t r = 0; r < k_rotations; ++r) {
                print_error_line(out, survey, side, t, r);
            }
        }
    }
    print_formats(out, survey);
    fmt::print(out, "\n");
}

namespace {

// "1.26 x smaller": the error with rotation, its gain being ln(plain / rotated).
std::string times_of(double gain) {
    return fmt::format("{:.2f} x {}", std::exp(std::abs(gain)), gain < 0 ? "larger" : "smaller");
}

// "q4_0: output error 3.12 x smaller rotated", or why there is no verdict and whose doing that is.
std::string words_of(const SideAdvice& v) {
    const std::string name = v.type.name();
    if (!v.has_gain()) {
        return fmt::format("{}: not a number: {} plain, {} rotated of {} heads", name,
                           v.plain_not_numbers, v.rotated_not_numbers, v.heads);
    }
    const std::string words =
        fmt::format("{}: output error {} rotated", name, times_of(v.measured.value));
    if (v.advice == Advice::rotate || v.advice == Advice::hurts) return words;
    const std::string part = *v.decisive_part == 0 ? "" : std::string(" ") + v.decisive_part;
    return words + fmt::format(", without layer {} head {}{} {}", v.decisive_layer, v.decisive_head,
                               part, times_of(v.without));
}

// What rotation does to the rows of a side, whatever the type.
std::string reasons(const Survey& survey, What side) {
    const SideFigures a = mean_figures(survey, side, 0), b = mean_figures(survey, side, 1);
    return fmt::format(
        "    crest of blocks {:.2f} -> {:.2f}, offset {:.2f} -> {:.2f},\n"
        "    loudest channel {:.1f} -> {:.1f} x the median, largest row of H {:.2f}\n",
        a.crest, b.crest, a.offset, b.offset, a.channel_ratio, b.channel_ratio, a.largest_row);
}

}  // namespace

void print_advice(std::FILE* out, const Survey& survey) {
    const bool latent = std::ranges::any_of(survey.plan().layers, &SurveyLayer::v_in_k);
    if (latent) {
        fmt::print(out,
                   "V is the latent part of K's rows: one rotation turns both, and heads of K "
                   "below are parts of rows\n");
    }
    for (const What side : {What::k, What::v}) {
        std::map<Advice, std::vector<std::string>> all;
        for (std::size_t t = 0; t < survey.plan().types(side).size(); ++t) {
            if (!survey.plan().types(side)[t].quantized()) continue;
            const SideAdvice v = survey.verdict(side, t, 1);
            all[v.advice].push_back(words_of(v));
        }
        for (const auto& [advice, lines] : all) {
            fmt::print(out, "{}: {}\n", capital_of(side), title_of(advice));
            for (const std::string& line : lines) fmt::print(out, "    {}\n", line);
        }
        if (!all.empty()) {
            fmt::print(out, "{}, plain -> rotated:\n{}", capital_of(side), reasons(survey, side));
        }
    }
}

// A line on one type under one rotation, empty where every head's error is a number.
static std::string not_number_line(const Survey& survey, What side, std::size_t type,
                                   std::size_t rotation) {
    int64_t heads = 0, broken = 0;
    std::string first;
    for (const HeadSurvey& head : survey.heads()) {
        if (head.side != side) continue;
        ++heads;
        if (is_number(head.output_error(type, rotation).measured)) continue;
        if (++broken == 1) {
            first = fmt::format("layer {} head {}{}{}", head.layer, head.head,
                                *head.part.name == 0 ? "" : " ", head.part.name);
        }
    }
    if (broken == 0) return "";
    return fmt::format(
        "{} in {}, rotation {}: errors of {} of {} heads are not numbers, the first of {}",
        capital_of(side), survey.plan().types(side)[type].name(), k_rotation_names[rotation],
        broken, heads, first);
}

std::vector<std::string> not_number_lines(const Survey& survey) {
    std::vector<std::string> lines;
    for (const What side : {What::k, What::v}) {
        for (std::size_t t = 0; t < survey.plan().types(side).size(); ++t) {
            for (std::size_t r = 0; r < k_rotations; ++r) {
                lines.push_back(not_number_line(survey, side, t, r));
                if (lines.back().empty()) lines.pop_back();
            }
        }
    }
    return lines;
}

}  // namespace rotkv::tools
