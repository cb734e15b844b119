#pragma once
// One cell of a sweep as a line of its file: a cache, what was measured of it, how long that took.
// Docs: docs/12-sweeps.md

#include "ref/measure/metrics.h"
#include "tools/compare/not_numbers.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What a cache does to the predictions, each figure rounded to seven digits.
struct SweepFigures {
    double ppl = 0;
    Mean log_ratio;            ///< ln(PPL / PPL of the base), error by tokens
    Mean kld;                  ///< error by tokens
    double kld_se_window = 0;  ///< the mean's error by windows; NaN for one window
    double kld_median = 0, kld_99 = 0;
    double same_top = 0;              ///< share in [0, 1]
    std::vector<double> kld_windows;  ///< mean KLD of each window, for paired differences
    NotNumbers not_numbers;           ///< if any, the figures above are NaN where they rest on them
};

struct SweepRow {
    std::string k, v, rot;              ///< as asked for: "q8_0", "q4_0", "auto"
    std::string rotation;               ///< as done: "k=sylvester/64 v=none"; empty if unsupported
    int64_t bytes_per_token = 0;        ///< 0 if unsupported
    std::optional<SweepFigures> found;  ///< none if unsupported
    std::string same_as;                ///< the earlier cell whose figures these are, or empty
    std::string unsupported;            ///< why this model or backend cannot, or empty
    double seconds = 0;

    /// Measured, and every scored position is a number. The perplexity may be none all the same.
    bool is_number() const { return found && rotkv::is_number(found->kld.value); }

    std::string name() const;  ///< "k=q8_0,v=q4_0,rot=auto", a variant of rotkv-kld
};

/// The figures of one cache, from its scored positions in whole windows.
SweepFigures sweep_figures(std::span<const TokenPair> pairs, int64_t per_window);

/// The row as one line of the file, without its end.
std::string line_of(const SweepRow& row);
nlohmann::ordered_json json_of(const SweepRow& row);

/// Reads json_of() back. Throws nlohmann's exceptions for what is missing or of another type.
SweepRow parse_row(const nlohmann::ordered_json& json);

}  // namespace rotkv::tools
