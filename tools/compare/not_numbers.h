#pragma once
// What is said of scored positions whose figure is not a number, and how a program ends that met
// one. The rule stands in ref/measure/metrics.h.
// Docs: docs/07-measuring.md

#include "ref/measure/evaluate.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// The positions of one run that are not numbers, or why there is no perplexity without any.
struct NotNumbers {
    int64_t count = 0, scored = 0;
    int64_t window = -1, position = -1;  ///< of the first, both counted from 0; -1: none
    bool in_base = false;                ///< the first is none in the base already
    std::string cause;                   ///< of the first, as far as it is known
    std::string overflow;                ///< where all are: why a perplexity is none, or empty

    bool any() const { return count > 0 || !overflow.empty(); }
};

/// Of whole windows of the plan, from the first on. Of pairs, that of b is the run and that of a
/// the base.
NotNumbers not_numbers_of(std::span<const TokenPair> pairs, const WindowPlan& plan);
NotNumbers not_numbers_of(std::span<const double> nll, const WindowPlan& plan);

/// Runs the first position's window once more with such a cache and looks for the operation that
/// is to blame. Nothing to do where there is none.
void find_cause(NotNumbers& found, const Model& model, const WindowPlan& plan, KvShape shape,
                const RotationSpec& spec);

/// "31 of 248 positions are not numbers, the first at token 32 of window 0 (both from 0): layer 0,
/// kv_store: K does not fit f16"; "the PPL is not a number: the mean NLL of 1234.5 nats is more
/// than exp() holds"
std::string words_of(const NotNumbers& found);

/// {count, scored}, and where there are any {first: {window, position, cause}} or {overflow}.
nlohmann::ordered_json json_of(const NotNumbers& found);

/// The end of a program that has written everything: Error(bad_file) with the first of the lines,
/// and how many more there are; nothing where there is none.
void end_without_numbers(const std::vector<std::string>& lines);

}  // namespace rotkv::tools
