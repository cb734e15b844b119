#include "tools/compare/kld_not_numbers.h"

#include "tools/compare/kld_tables.h"

#include <fmt/format.h>

namespace rotkv::tools {

namespace {

void add_line(RunNotNumbers& all, const std::string& who, const NotNumbers& found) {
    if (found.any()) all.lines.push_back(who + ": " + words_of(found));
}

NotNumbers of_variant(const LockStep& run, const MeasuredCache& measured, const Model& model) {
    NotNumbers found = not_numbers_of(measured.pairs, run.plan());
    if (found.in_base) {
        found.cause = "the base is none there";
    } else {
        find_cause(found, model, run.plan(), measured.shape, measured.spec);
    }
    return found;
}

// What was run beside the variant itself.
void add_other_runs(RunNotNumbers& all, const LockStep& run, const std::string& letter,
                    const MeasuredCache& measured) {
    for (const LayerRun& layer : measured.layers) {
        add_line(all, fmt::format("{}, layer {} alone", letter, layer.layer),
                 not_numbers_of(layer.pairs, run.plan()));
    }
    for (const JitterRun& jitter : measured.jitter) {
        add_line(all, letter + ", one bit changed", not_numbers_of(jitter.from_base, run.plan()));
    }
}

}  // namespace

RunNotNumbers find_not_numbers(const LockStep& run, const Model& model) {
    RunNotNumbers all;
    const MeasuredCache& base = run.base();
    all.base = not_numbers_of(figures_of(run.floor().pairs, &TokenPair::nll_a), run.plan());
    find_cause(all.base, model, run.plan(), base.shape, base.spec);
    add_line(all, "base " + base.variant.name, all.base);
    all.floor = not_numbers_of(run.floor().pairs, run.plan());
    if (!all.base.any()) add_line(all, "floor", all.floor);
    if (!all.base.any()) add_other_runs(all, run, "base", base);
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        const MeasuredCache& measured = run.variants()[i];
        all.variants.push_back(of_variant(run, measured, model));
        add_line(all, letter_of(i) + " " + measured.variant.name, all.variants.back());
        if (!all.base.any()) add_other_runs(all, run, letter_of(i), measured);
    }
    return all;
}

void print_not_numbers(std::FILE* out, const RunNotNumbers& found) {
    if (found.lines.empty()) return;
    fmt::print(out, "\n====== Not numbers ======\n");
    for (const std::string& line : found.lines) fmt::print(out, "{}\n", line);
    std::fflush(out);
}

void add_to(nlohmann::ordered_json& json, const RunNotNumbers& found) {
    json["base"]["not_numbers"] = json_of(found.base);
    json["floor"]["not_numbers"] = json_of(found.floor);
    for (std::size_t i = 0; i < found.variants.size(); ++i) {
        json["variants"][i]["not_numbers"] = json_of(found.variants[i]);
    }
}

}  // namespace rotkv::tools
