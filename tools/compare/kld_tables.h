#pragma once
// What rotkv-kld found, as tables for people and as JSON and CSV for programs.
// Docs: docs/07-measuring.md

#include "tools/compare/kld_run.h"
#include "tools/compare/paired.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// "A" for the first variant.
std::string letter_of(std::size_t index);

/// Two variants on the same tokens.
struct PairedResult {
    std::size_t a = 0, b = 0;  ///< among the variants
    Mean kld;                  ///< kld_a - kld_b, error by windows
    Mean log_ratio;            ///< ln(PPL_a / PPL_b), error by windows
    double p = 1;              ///< of the KLD difference, see p_of()
};
std::vector<PairedResult> compare_variants(const LockStep& run);

/// How one measured repeats: [runs] of the mean over all tokens.
struct Repeatability {
    std::vector<double> kld, ppl, between;  ///< from the base; perplexity; from itself unchanged
};
Repeatability repeatability_of(const MeasuredCache& measured);

/// How the run ended where --stop was given.
struct StopResult {
    double percent = 0;
    bool stopped = false;  ///< because it is certain
    int64_t looks = 0;
    bool not_a_number = false;  ///< ended because the difference is none: nothing more can come
};

/// llama-perplexity's whole block for every variant, then the tables of the comparison.
void print_results(std::FILE* out, const LockStep& run, const std::optional<StopResult>& stop);

nlohmann::ordered_json json_of(const LockStep& run, const std::optional<StopResult>& stop);

/// One line for every variant and scored position:
/// variant,window,position,target,kld,nll_base,nll,same_top. "nan" for what is not a number, the
/// same_top of such a position among it. Throws Error(io).
void write_csv(const std::string& path, const LockStep& run);

}  // namespace rotkv::tools
