#pragma once
// A cache in the words of a command line: "k=q4_0,v=q8_0,rot=off".
// Docs: docs/07-measuring.md

#include "ref/measure/evaluate.h"
#include "tools/cli.h"

#include <string>
#include <vector>

namespace rotkv::tools {

/// One cache to be compared.
struct Variant {
    std::string name;  ///< as it was asked for
    CacheType type_k = DType::f32, type_v = DType::f32;
    RotationRequest rotation;
    Placement placement{};
    bool key_bias = false;  ///< subtracted before keys are quantized
};

/// Parses fields KEY=VALUE, separated by commas, each at most once:
///   k, v           cache types; a side that is not named has `otherwise`'s
///   rot            both sides: auto, on, off, a block or BLOCK:SEED
///   rot-k, rot-v   one side; wins over rot
///   signs          seed of random signs
///   first, recent  tokens whose rows are read in f16
///   ends           TYPE:N, the N first and the N last layers keep K and V in this type
///   k:LAYERS       K of these layers, as 0-2+7, in a type of its own; v:LAYERS likewise; they win
///                  over ends
///   kbias          on or off: keys are kept without their layer's bias
/// What is not said about rotation is as the environment and the policy have it.
/// Throws Error(usage) that names the flag, the field and what was expected.
Variant parse_variant(const std::string& flag, const std::string& text, const Variant& otherwise);

/// The fields of places alone: first, recent, ends, k:LAYERS and v:LAYERS.
Placement parse_placement(const std::string& flag, const std::string& text);

/// What --place asks for.
Placement placement_of(const CacheFlags& flags);

/// Adds --place to a tool that has caches of CacheFlags.
void add_place_flag(CLI::App& app, std::string& place);

/// The variants, and behind them two companions for each whose K and V both differ from the base's
/// and whose end layers are like the others:
/// "... [K only]" with the base's V, "... [V only]" with the base's K.
std::vector<Variant> with_single_sides(const std::vector<Variant>& variants, const Variant& base);

/// The shape of a variant's cache, so many streams of so many cells, and how it is turned. `last`:
/// the position of the last query that anybody will look at.
/// Throws as decide_rotation(), without_key_bias() and require_quantized_reads().
struct PlannedCache {
    KvShape shape;
    RotationSpec spec;
};
PlannedCache plan_cache(const Model& model, const Variant& variant, int64_t streams, int64_t cells,
                        int64_t last);

/// An empty cache for the windows of the plan.
KvCache make_cache(const Model& model, const WindowPlan& plan, const Variant& variant);

}  // namespace rotkv::tools
