#pragma once
// Two caches on the same tokens until their choices differ.
// Docs: docs/14-generate.md

#include "tools/generation.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What both are asked to do.
struct SpeechPlan {
    std::vector<int32_t> prompt;
    int64_t count = 64;  ///< tokens at most
    int64_t after = 24;  ///< tokens that each says alone from where they part
    double temperature = 0;
    uint64_t seed = 0;
    bool force = false;  ///< go on after that, both on a's tokens

    int64_t cells() const { return int64_t(prompt.size()) + count + after; }
};

/// Where the choices differ, and what comes of it.
struct Parting {
    double kld = 0;               ///< of b's prediction from a's, nats
    std::vector<Candidate> a, b;  ///< the most likely words, at temperature 1
    int32_t token_a = 0, token_b = 0;
    std::vector<int32_t> after_a, after_b;
};

/// Both on a's tokens from the prompt to the end, with --force.
struct ForcedRun {
    std::vector<double> kld;  ///< of each prediction
    int64_t disagreements = 0;
};

struct SideBySide {
    std::string name_a, name_b;
    std::vector<int32_t> common;
    std::vector<double> kld;  ///< of each prediction that both chose alike from
    std::optional<Parting> parting;
    std::optional<ForcedRun> forced;
};

/// Runs both caches, each with a sampler of the plan's seed.
SideBySide run_side_by_side(LoadedModel& loaded, const SpeechPlan& plan, const Variant& a,
                            const Variant& b);

/// As lines for people: the common text, the parting, the two continuations.
std::string describe(const SideBySide& run, const SpeechPlan& plan, const Tokenizer& tokenizer);

nlohmann::ordered_json json_of(const SideBySide& run, const SpeechPlan& plan,
                               const Tokenizer& tokenizer);

}  // namespace rotkv::tools
