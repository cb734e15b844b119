#pragma once
// What rounding inside the operations does to predictions, beside which a cache's effect is read.
// Docs: docs/07-measuring.md

#include "ref/measure/evaluate.h"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace rotkv::tools {

/// KL divergence of predictions in some precision from those in f32, with the same cache.
struct PrecisionFloor {
    ModelPrecision precision;
    Mean kld;
    int64_t windows = 0, scored = 0;
};

/// Runs the first windows of the plan, as many as one batch holds, in f32 and in the model's own
/// precision; nothing, and nothing is run, where that is f32 already.
std::optional<PrecisionFloor> measure_precision_floor(Model& model, KvCache& cache,
                                                      WindowPlan plan);

/// "products bf16, attention f32".
std::string words_of(const ModelPrecision& precision);

/// "floor of products bf16, attention f32: mean KLD ... +/- ... from f32, 4 windows".
std::string words_of(const PrecisionFloor& floor);

/// {products, attention}, and the floor's {mean_kld, mean_kld_err, windows, scored}.
nlohmann::ordered_json json_of(const ModelPrecision& precision);
nlohmann::ordered_json json_of(const PrecisionFloor& floor);

}  // namespace rotkv::tools
