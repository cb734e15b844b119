#pragma once
// A base run whose keys and values are stored in other caches too, on their way; the outputs of
// some of its queries are computed from each and compared, head by head.
// Docs: docs/13-where-the-error-comes-from.md

#include "tools/compare/cache_words.h"
#include "tools/compare/explain.h"
#include "tools/loaded_model.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// So many queries of a window are looked at, or a few more: every n-th of its scored positions,
/// all of them where there are no more.
inline constexpr int64_t k_explained_queries = 32;

/// The query heads of one layer that attends.
struct ExplainedLayer {
    int64_t layer = 0, kv_heads = 0;
    std::vector<OutputErrors> heads;  ///< [H]
};

/// What was found for one variant.
struct Explanation {
    std::string name;
    std::vector<ExplainedLayer> layers;     ///< ascending; none of those that keep a state
    std::vector<std::string> without_rows;  ///< layers_without_rows()
};

/// Runs the plan's windows once, with the base cache, and calls `progress` after each group with
/// the windows done. The variants' rows go through kv_store and come back through dequantize and
/// hadamard of the model's backend.
/// Memory: the base's cache and one for each variant.
/// Throws: as make_cache().
std::vector<Explanation> explain(const Model& loaded, const WindowPlan& plan, const Variant& base,
                                 const std::vector<Variant>& variants,
                                 const std::function<void(int64_t windows)>& progress);

/// One layer of another cache, with the same tokens in the same cells.
struct StoredLayer {
    TensorView k, v;
    Rotation k_rotation, v_rotation;
    TensorView k_matrix{}, v_matrix{};  ///< empty: none
};

/// Adds the errors of some queries of one attention call to `sums` [H]; what `args` reads is exact.
/// Shapes: asked: rows of args.q. Throws: Error(unsupported) for attention in parts.
void add_output_errors(Backend& backend, const AttentionArgs& args, const StoredLayer& stored,
                       const std::vector<int64_t>& asked, std::span<OutputErrors> sums);

}  // namespace rotkv::tools
