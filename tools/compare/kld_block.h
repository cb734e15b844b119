#pragma once
// The KL-divergence statistics of a run, as lines for people and as JSON.
// Docs: docs/07-measuring.md

#include "ref/measure/metrics.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstdio>

namespace rotkv::tools {

/// The header over the lines of print_kld_line().
void print_kld_header(std::FILE* out);

/// One line with the values over all windows up to `window` (counted from 1).
void print_kld_line(std::FILE* out, int64_t window, const KldMeans& means);

/// The three blocks that llama-perplexity --kl-divergence ends with, line for line. There, and
/// here, "Q" is the run that is compared and "base" the one it is compared with.
void print_kld_summary(std::FILE* out, const KldSummary& summary);

/// Every figure of the summary; {value, error} for means.
nlohmann::ordered_json json_of(const KldSummary& summary);

}  // namespace rotkv::tools
