#include "tools/search_choice.h"

#include "ref/error.h"
#include "ref/rotation_policy.h"
#include "tools/compare/paired.h"

#include <fmt/format.h>

#include <algorithm>

namespace rotkv::tools {

namespace {

constexpr std::size_t k_pairs = 2;  // whose predictions may lie within their errors

double figure(const Finalist& finalist) { return mean_of(finalist.kld).value; }

// The number of the finalist with this cache, which is added where it is new.
std::size_t enter(const DamageModel& damage, const Mix& mix,
                  const std::function<SweepPoint(const Variant&)>& make,
                  std::vector<Finalist>& finalists) {
    Finalist finalist{mix, make(variant_of(damage, mix)), bytes_of(damage, mix),
                      predicted_kld(damage, mix)};
    if (!finalist.point.unsupported.empty()) {
        throw Error(ErrorCode::unsupported,
                    finalist.point.variant.name + ": " + finalist.point.unsupported);
    }
    const auto known = std::ranges::find_if(
        finalists, [&](const Finalist& other) { return is_same(other.point, finalist.point); });
    if (known != finalists.end()) return std::size_t(known - finalists.begin());
    finalists.push_back(std::move(finalist));
    return finalists.size() - 1;
}

}  // namespace

std::vector<Nominated> nominate(const DamageModel& damage, const std::vector<Budget>& budgets,
                                const std::function<SweepPoint(const Variant&)>& make,
                                std::vector<Finalist>& finalists) {
    std::vector<Nominated> all;
    for (const Budget& budget : budgets) {
        Nominated& nominated = all.emplace_back();
        for (const Mix& pair : best_pairs(damage, budget.bytes, k_pairs)) {
            nominated.pairs.push_back(enter(damage, pair, make, finalists));
        }
        const std::optional<Mix> mix = best_mix(damage, budget.bytes);
        if (!mix) {
            throw Error(ErrorCode::usage,
                        fmt::format("{}: no cache fits that is a number", budget.text));
        }
        if (!mix->is_pair()) nominated.mix = enter(damage, *mix, make, finalists);
    }
    return all;
}

Answer judge(const std::vector<Finalist>& finalists, const Nominated& nominated, int64_t bytes) {
    Answer answer;
    for (std::size_t i = 0; i < finalists.size(); ++i) {
        const Finalist& here = finalists[i];
        if (!here.is_pair() || here.bytes > bytes || !is_number(figure(here))) continue;
        if (!answer.pair || figure(here) < figure(finalists[*answer.pair])) answer.pair = i;
    }
    if (!nominated.mix || !is_number(figure(finalists[*nominated.mix]))) return answer;
    answer.mix = nominated.mix;
    if (!answer.pair) return answer;
    const std::vector<double>& of_mix = finalists[*answer.mix].kld;
    answer.difference = paired_difference(of_mix, finalists[*answer.pair].kld, 1);
    answer.p = p_of(answer.difference, int64_t(of_mix.size()));
    answer.mix_is_better = answer.difference.value < 0 && answer.p < k_doubt;
    return answer;
}

LlamaLine llama_line(const Finalist& finalist) {
    const Variant& variant = finalist.point.variant;
    if (!finalist.is_pair()) return {"", "llama.cpp keeps all layers in the same two types"};
    for (const CacheType* type : {&variant.type_k, &variant.type_v}) {
        if (type->format() != nullptr) return {"", "llama.cpp has no type " + type->name()};
    }
    const std::string types =
        fmt::format("-fa on -ctk {} -ctv {}", variant.type_k.name(), variant.type_v.name());
    const KvShape& shape = finalist.point.shape;
    if (finalist.point.spec == decide_rotation(RotationRequest{}, shape)) return {types, ""};
    const auto off = RotationRequest::both({.mode = RotationRequest::Mode::off});
    if (finalist.point.spec == decide_rotation(off, shape)) {
        return {"LLAMA_ATTN_ROT_DISABLE=1, " + types, ""};
    }
    return {"", "llama.cpp turns each side that it quantizes, by its own rule, or none"};
}

}  // namespace rotkv::tools
