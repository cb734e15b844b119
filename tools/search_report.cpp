#include "tools/search_report.h"

#include "tools/compare/kld_words.h"
#include "tools/compare/paired.h"
#include "tools/layer_words.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

namespace {

double bits_of(const SearchResult& result, int64_t bytes) {
    return 8 * double(bytes) / double(result.values_per_token);
}

Mean measured(const Finalist& finalist) { return mean_of(finalist.kld); }

void print_line(std::FILE* out, const SearchResult& result, const std::string& budget,
                std::size_t index, bool chosen) {
    const Finalist& finalist = result.finalists[index];
    fmt::print(out, "{:<12} {:>11} {:>6.3f}  {:<21}  {:<21} {} {}\n", budget, finalist.bytes,
               bits_of(result, finalist.bytes), plus_minus(finalist.predicted),
               plus_minus(measured(finalist)), chosen ? '*' : ' ', finalist.point.variant.name);
}

// Which of the two, or why there is nothing to compare.
std::string verdict(const SearchResult& result, const Answer& answer) {
    if (!answer.choice()) return "no cache that fits is a number";
    if (!answer.mix) return "no mix: the best that is predicted is a pair";
    if (!answer.pair) return "no pair that fits is a number";
    const auto named = [&](const char* name, std::size_t index) {
        return NamedKld{name, measured(result.finalists[index]).value};
    };
    const std::string words =
        words_of_pair(named("the mix", *answer.mix), named("the pair", *answer.pair), 0,
                      answer.difference, result.held_out);
    return fmt::format("mix less pair {}, p {:.2g}: {}", plus_minus(answer.difference), answer.p,
                       words);
}

void print_table(std::FILE* out, const SearchResult& result) {
    fmt::print(out,
               "\n====== Mean KLD, predicted, and measured on {} windows of {} tokens held out; "
               "* is the choice ======\n{:<12} {:>11} {:>6}  {:<21}  {:<21}   {}\n",
               result.held_out, result.ctx, "budget", "bytes/token", "bits", "predicted",
               "measured", "cache");
    for (std::size_t b = 0; b < result.budgets.size(); ++b) {
        const Answer& answer = result.answers[b];
        std::string budget = result.budgets[b].text;
        for (const auto& index : {answer.pair, answer.mix}) {
            if (!index) continue;
            print_line(out, result, budget, *index, index == answer.choice());
            budget.clear();
        }
        fmt::print(out, "{:<12} {}\n", budget, verdict(result, answer));
    }
    const auto better = std::ranges::count(result.answers, true, &Answer::mix_is_better);
    fmt::print(out, "a mix of types is better than every pair that was run at {} of {} budgets\n",
               better, result.budgets.size());
}

void print_use(std::FILE* out, const SearchResult& result) {
    fmt::print(out, "\n====== To use ======\n");
    for (std::size_t b = 0; b < result.budgets.size(); ++b) {
        const Answer& answer = result.answers[b];
        if (!answer.choice()) continue;
        const Finalist& chosen = result.finalists[*answer.choice()];
        fmt::print(out, "{:<12} --variant {}\n", result.budgets[b].text, chosen.point.variant.name);
        const LlamaLine line = llama_line(chosen);
        if (!line.flags.empty()) {
            fmt::print(out, "{:<12} llama.cpp: {}\n", "", line.flags);
            continue;
        }
        fmt::print(out, "{:<12} {}\n", "", line.why);
        if (chosen.is_pair() || !answer.pair) continue;
        const LlamaLine of_pair = llama_line(result.finalists[*answer.pair]);
        if (!of_pair.flags.empty()) {
            fmt::print(out, "{:<12} llama.cpp, the pair: {}\n", "", of_pair.flags);
        }
    }
}

void print_shares(std::FILE* out, const SearchResult& result) {
    const DamageModel& damage = result.damage;
    fmt::print(out, "\n====== Share of a side's damage, in {} window{} ======\n",
               result.layer_windows, result.layer_windows == 1 ? "" : "s");
    std::vector<std::string> probes;
    for (const SideModel& side : damage.sides) {
        const Probe probe = probe_of(side);
        probes.push_back(fmt::format("{} {}", damage.types[probe.type].name(),
                                     damage.rotations[probe.rotation].text));
    }
    fmt::print(out, "{:<16}", "");
    for (std::size_t s = 0; s < damage.sides.size(); ++s) {
        fmt::print(out, " {:>16}", (s == 0 ? "K " : "V ") + probes[s]);
    }
    fmt::print(out, "\n");
    for (std::size_t g = 0; g < damage.groups.size(); ++g) {
        fmt::print(out, "{:<16}", words_of_layers(damage.groups[g]));
        for (const SideModel& side : damage.sides) {
            fmt::print(out, " {:>16}", percent(side.share[g]));
        }
        fmt::print(out, "\n");
    }
}

}  // namespace

void print_search(std::FILE* out, const SearchResult& result) {
    print_shares(out, result);
    print_table(out, result);
    print_use(out, result);
    fmt::print(out, "\n{} windows of {} tokens were read in {:.1f} s\n", result.windows_read,
               result.ctx, result.seconds);
}

namespace {

Json json_of(const SearchResult& result, const Finalist& finalist) {
    const LlamaLine line = llama_line(finalist);
    return {{"cache", finalist.point.variant.name},
            {"pair", finalist.is_pair()},
            {"bytes_per_token", finalist.bytes},
            {"bits_per_value", bits_of(result, finalist.bytes)},
            {"predicted", finalist.predicted.value},
            {"predicted_se", finalist.predicted.error},
            {"kld", measured(finalist).value},
            {"kld_se", measured(finalist).error},
            {"kld_windows", finalist.kld},
            {"llama.cpp", line.flags.empty() ? Json(nullptr) : Json(line.flags)}};
}

Json json_of(const std::optional<std::size_t>& index) {
    return index ? Json(*index) : Json(nullptr);
}

Json json_of(const Budget& budget, const Answer& answer) {
    Json json = {{"budget", budget.text},
                 {"bytes", budget.bytes},
                 {"pair", json_of(answer.pair)},
                 {"mix", json_of(answer.mix)},
                 {"choice", json_of(answer.choice())}};
    if (answer.pair && answer.mix) {
        json["difference"] = answer.difference.value;
        json["difference_se"] = answer.difference.error;
        json["p"] = answer.p;
    }
    return json;
}

Json sides_of(const DamageModel& damage) {
    Json sides = Json::array();
    for (std::size_t s = 0; s < damage.sides.size(); ++s) {
        const SideModel& side = damage.sides[s];
        for (std::size_t r = 0; r < damage.rotations.size(); ++r) {
            for (std::size_t t = 0; t < damage.types.size(); ++t) {
                const Mean kld = mean_of(side.kld[r][t]);
                sides.push_back({{"side", s == 0 ? "k" : "v"},
                                 {"type", damage.types[t].name()},
                                 {"rot", damage.rotations[r].text},
                                 {"kld", kld.value},
                                 {"kld_se", kld.error}});
            }
        }
    }
    return sides;
}

Json layers_of(const DamageModel& damage) {
    Json groups = Json::array();
    for (std::size_t g = 0; g < damage.groups.size(); ++g) {
        Json& group = groups.emplace_back(Json{{"layers", damage.groups[g]}});
        for (std::size_t s = 0; s < damage.sides.size(); ++s) {
            group[s == 0 ? "share_k" : "share_v"] = damage.sides[s].share[g];
        }
    }
    return groups;
}

}  // namespace

Json json_of(const SearchResult& result) {
    Json json = {{"n_ctx", result.ctx},
                 {"windows",
                  {{"sides", result.side_windows},
                   {"layers", result.layer_windows},
                   {"held_out", result.held_out}}},
                 {"values_per_token", result.values_per_token},
                 {"budgets", Json::array()},
                 {"finalists", Json::array()},
                 {"sides", sides_of(result.damage)},
                 {"layers", layers_of(result.damage)},
                 {"windows_read", result.windows_read},
                 {"seconds", result.seconds}};
    for (std::size_t b = 0; b < result.budgets.size(); ++b) {
        json["budgets"].push_back(json_of(result.budgets[b], result.answers[b]));
    }
    for (const Finalist& finalist : result.finalists) {
        json["finalists"].push_back(json_of(result, finalist));
    }
    return json;
}

}  // namespace rotkv::tools
