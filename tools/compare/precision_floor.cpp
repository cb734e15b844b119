#include "tools/compare/precision_floor.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace rotkv::tools {

std::optional<PrecisionFloor> measure_precision_floor(Model& model, KvCache& cache,
                                                      WindowPlan plan) {
    const ModelPrecision asked = model.options().precision;
    if (asked == ModelPrecision{}) return std::nullopt;
    plan.windows = std::min(plan.windows, plan.windows_at_once());
    ModelOptions unrounded = model.options();
    unrounded.precision = ModelPrecision{};
    Model exactly(model, unrounded);
    const std::vector<float> exact = run_hidden(exactly, cache, plan);
    std::vector<double> klds;
    for (const TokenPair& pair : run_kld(model, cache, plan, exact)) klds.push_back(pair.kld);
    return PrecisionFloor{asked, mean_of(klds), plan.windows, int64_t(klds.size())};
}

std::string words_of(const ModelPrecision& precision) {
    return fmt::format("products {}, attention {}", precision_name(precision.products),
                       precision_name(precision.attention));
}

std::string words_of(const PrecisionFloor& floor) {
    return fmt::format(
        "floor of {}: mean KLD {:.3g} +/- {:.2g} from f32 with the same cache, "
        "{} windows",
        words_of(floor.precision), floor.kld.value, floor.kld.error, floor.windows);
}

nlohmann::ordered_json json_of(const ModelPrecision& precision) {
    return {{"products", precision_name(precision.products)},
            {"attention", precision_name(precision.attention)}};
}

nlohmann::ordered_json json_of(const PrecisionFloor& floor) {
    return {{"mean_kld", floor.kld.value},
            {"mean_kld_err", floor.kld.error},
            {"windows", floor.windows},
            {"scored", floor.scored}};
}

}  // namespace rotkv::tools
