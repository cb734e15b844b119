#include "tools/compare/not_numbers.h"

#include "ref/error.h"
#include "tools/watch/first_not_finite.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

// Which position is the i-th of those that are scored.
static void take(NotNumbers& found, std::size_t i, const WindowPlan& plan) {
    if (++found.count > 1) return;
    found.window = int64_t(i) / plan.scored_per_window();
    found.position = plan.first_scored() + int64_t(i) % plan.scored_per_window();
}

// Why the perplexity of these is not a number though they are, or nothing.
static std::string overflow_of(const char* whose, std::span<const double> nll) {
    const Mean mean = mean_of(nll), ppl = perplexity(nll);
    const bool error =
        is_number(ppl.error) || !is_number(mean.error);  // of one value there is none
    if (!is_number(mean.value) || (is_number(ppl.value) && error)) return "";
    return fmt::format(
        "the {} is not a number: the mean NLL of {:.6g} nats is more than exp() holds", whose,
        mean.value);
}

NotNumbers not_numbers_of(std::span<const TokenPair> pairs, const WindowPlan& plan) {
    NotNumbers found;
    found.scored = int64_t(pairs.size());
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (pairs[i].comparable()) continue;
        take(found, i, plan);
        if (found.count == 1) found.in_base = !is_number(pairs[i].nll_a);
    }
    if (found.count > 0) return found;
    found.overflow = overflow_of("PPL", figures_of(pairs, &TokenPair::nll_b));
    if (!found.overflow.empty()) return found;
    found.overflow = overflow_of("base's PPL", figures_of(pairs, &TokenPair::nll_a));
    return found;
}

NotNumbers not_numbers_of(std::span<const double> nll, const WindowPlan& plan) {
    NotNumbers found;
    found.scored = int64_t(nll.size());
    for (std::size_t i = 0; i < nll.size(); ++i) {
        if (!is_number(nll[i])) take(found, i, plan);
    }
    found.overflow = overflow_of("PPL", nll);
    return found;
}

void find_cause(NotNumbers& found, const Model& model, const WindowPlan& plan, KvShape shape,
                const RotationSpec& spec) {
    if (found.count == 0) return;
    WindowPlan one = plan;
    one.windows = 1;
    one.batch = std::min(plan.batch, plan.ctx);
    const auto begin = plan.tokens.begin() + found.window * plan.length();
    one.tokens.assign(begin, begin + plan.length());
    shape.streams = 1;
    FirstNotFinite first;
    ModelOptions options = model.options();
    options.observer = first.observer();
    try {
        Model watched(model, options);
        KvCache cache(model.backend(), shape, spec);
        run_nll(watched, cache, one, {});
        found.cause = first.words();
    } catch (const Error&) {
        found.cause.clear();  // what was measured is worth more than its cause
    }
}

std::string words_of(const NotNumbers& found) {
    if (!found.any()) return "all positions are numbers";
    if (found.count == 0) return found.overflow;
    return fmt::format(
        "{} of {} positions are not numbers, the first at token {} of window {} (both from 0){}{}",
        found.count, found.scored, found.position, found.window, found.cause.empty() ? "" : ": ",
        found.cause);
}

nlohmann::ordered_json json_of(const NotNumbers& found) {
    nlohmann::ordered_json json = {{"count", found.count}, {"scored", found.scored}};
    if (!found.overflow.empty()) json["overflow"] = found.overflow;
    if (found.count == 0) return json;
    json["first"] = {{"window", found.window}, {"position", found.position}};
    json["first"]["cause"] = nullptr;
    if (!found.cause.empty()) json["first"]["cause"] = found.cause;
    return json;
}

void end_without_numbers(const std::vector<std::string>& lines) {
    if (lines.empty()) return;
    const std::string more =
        lines.size() > 1 ? fmt::format("; {} more in the results", lines.size() - 1) : "";
    throw Error(ErrorCode::bad_file, lines[0] + more);
}

}  // namespace rotkv::tools
