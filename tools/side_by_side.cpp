#include "tools/side_by_side.h"

#include "ref/measure/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

namespace {

constexpr int64_t k_candidates = 5;

// What each says alone from here on; the caches come back as they were.
Parting part(Continuation& a, Continuation& b, const SpeechPlan& plan, Sampler sampler_a,
             Sampler sampler_b, const std::set<int32_t>& endings) {
    Parting parting;
    parting.kld = divergence(a.log_p(), b.log_p());
    parting.a = most_likely(a.log_p(), k_candidates);
    parting.b = most_likely(b.log_p(), k_candidates);
    const Continuation::Mark here_a = a.mark(), here_b = b.mark();
    parting.after_a = continue_text(a, sampler_a, plan.after, endings);
    parting.after_b = continue_text(b, sampler_b, plan.after, endings);
    a.back_to(here_a);
    b.back_to(here_b);
    return parting;
}

}  // namespace

SideBySide run_side_by_side(LoadedModel& loaded, const SpeechPlan& plan, const Variant& variant_a,
                            const Variant& variant_b) {
    SideBySide run{variant_a.name, variant_b.name, {}, {}, {}, {}};
    if (plan.force) run.forced.emplace();
    if (plan.count == 0) return run;
    const std::set<int32_t>& endings = loaded.tokenizer.vocab().ends;
    Continuation a(loaded, variant_a, plan.cells()), b(loaded, variant_b, plan.cells());
    Sampler sampler_a(plan.temperature, plan.seed), sampler_b = sampler_a;
    a.read(plan.prompt);
    b.read(plan.prompt);
    for (int64_t i = 0; i < plan.count; ++i) {
        const Sampler before_a = sampler_a, before_b = sampler_b;
        const int32_t token_a = sampler_a.choose(a.log_p()), token_b = sampler_b.choose(b.log_p());
        const double kld = divergence(a.log_p(), b.log_p());
        if (run.forced) {
            run.forced->kld.push_back(kld);
            run.forced->disagreements += token_a != token_b;
        }
        if (!run.parting && token_a != token_b) {
            run.parting = part(a, b, plan, before_a, before_b, endings);
            run.parting->token_a = token_a;
            run.parting->token_b = token_b;
        }
        if (run.parting && !plan.force) break;
        if (!run.parting) run.kld.push_back(kld);
        if (endings.contains(token_a)) break;
        if (!run.parting) run.common.push_back(token_a);
        if (i + 1 == plan.count) break;
        a.read(std::span(&token_a, 1));
        b.read(std::span(&token_a, 1));
    }
    a.require_quantized_reads();
    b.require_quantized_reads();
    return run;
}

namespace {

double largest(const std::vector<double>& x) {
    return x.empty() ? 0 : *std::max_element(x.begin(), x.end());
}

// The text in quotes on one line, its control characters and broken bytes spelled.
std::string quoted(const std::string& text) {
    return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

int32_t last_common(const SideBySide& run, const SpeechPlan& plan) {
    return run.common.empty() ? plan.prompt.back() : run.common.back();
}

// Columns are counted in characters, not bytes.
std::string padded(const std::string& text, int64_t width) {
    const int64_t characters =
        std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
    return text + std::string(std::size_t(std::max(int64_t(0), width - characters)), ' ');
}

std::string describe_parting(const SideBySide& run, const SpeechPlan& plan,
                             const Tokenizer& tokenizer) {
    const Parting& parting = *run.parting;
    const int32_t before = last_common(run, plan);
    const auto text = [&](std::span<const int32_t> tokens) {
        return quoted(text_behind(tokenizer, before, tokens));
    };
    const auto cell = [&](const Candidate& word) {
        return padded(text(std::span(&word.token, 1)), 20) + fmt::format("{:5.1f} %", 100 * word.p);
    };
    std::string out = fmt::format(
        "They part at token {}, KLD there {:.4f}: A says {}, B says {}\n", run.common.size() + 1,
        parting.kld, text(std::span(&parting.token_a, 1)), text(std::span(&parting.token_b, 1)));
    out += "  " + padded("A", 30) + "B\n";
    for (std::size_t i = 0; i < parting.a.size(); ++i) {
        out += "  " + padded(cell(parting.a[i]), 30) + cell(parting.b[i]) + "\n";
    }
    return out + "A goes on: " + text(parting.after_a) + "\nB goes on: " + text(parting.after_b) +
           "\n";
}

}  // namespace

std::string describe(const SideBySide& run, const SpeechPlan& plan, const Tokenizer& tokenizer) {
    std::string out = fmt::format("A: {}\nB: {}\n", run.name_a, run.name_b);
    out += fmt::format("In common, {} tokens: {}\n", run.common.size(),
                       quoted(text_behind(tokenizer, plan.prompt.back(), run.common)));
    if (!run.kld.empty()) {
        out += fmt::format("KLD of these predictions: mean {:.6f}, largest {:.6f}\n",
                           mean_of(run.kld).value, largest(run.kld));
    }
    out += run.parting ? describe_parting(run, plan, tokenizer) : "They never part.\n";
    if (run.forced && !run.forced->kld.empty()) {
        out += fmt::format(
            "B on A's tokens to the end: another choice at {} of {}, KLD mean {:.6f}, largest "
            "{:.6f}\n",
            run.forced->disagreements, run.forced->kld.size(), mean_of(run.forced->kld).value,
            largest(run.forced->kld));
    }
    return out;
}

static Json json_of(const std::vector<Candidate>& words, int32_t before,
                    const Tokenizer& tokenizer) {
    Json list = Json::array();
    for (const Candidate& word : words) {
        list.push_back({{"token", word.token},
                        {"text", text_behind(tokenizer, before, std::span(&word.token, 1))},
                        {"p", word.p}});
    }
    return list;
}

Json json_of(const SideBySide& run, const SpeechPlan& plan, const Tokenizer& tokenizer) {
    Json json = {{"a", run.name_a},
                 {"b", run.name_b},
                 {"common", run.common},
                 {"common_text", text_behind(tokenizer, plan.prompt.back(), run.common)},
                 {"kld", run.kld},
                 {"kld_mean", mean_of(run.kld).value},
                 {"kld_max", largest(run.kld)},
                 {"parting", nullptr}};
    if (run.parting) {
        const int32_t before = last_common(run, plan);
        const auto side = [&](int32_t token, const std::vector<Candidate>& words,
                              const std::vector<int32_t>& after) {
            return Json{{"token", token},
                        {"top", json_of(words, before, tokenizer)},
                        {"after", after},
                        {"after_text", text_behind(tokenizer, before, after)}};
        };
        const Parting& p = *run.parting;
        json["parting"] = {{"at", run.common.size()},
                           {"kld", p.kld},
                           {"a", side(p.token_a, p.a, p.after_a)},
                           {"b", side(p.token_b, p.b, p.after_b)}};
    }
    if (run.forced) {
        json["forced"] = {{"predictions", run.forced->kld.size()},
                          {"disagreements", run.forced->disagreements},
                          {"kld_mean", mean_of(run.forced->kld).value},
                          {"kld_max", largest(run.forced->kld)}};
    }
    return json;
}

}  // namespace rotkv::tools
