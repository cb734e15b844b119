#pragma once
// From the model of damage to caches to be run, and from their runs on windows held out to the
// answer for each budget.
// Docs: docs/26-search.md

#include "tools/search_damage.h"
#include "tools/sweep_run.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace rotkv::tools {

/// How much a token may take.
struct Budget {
    std::string text;   ///< "5 bits", "7200 bytes"
    int64_t bytes = 0;  ///< of a token
};

/// A cache that is worth a run on windows held out.
struct Finalist {
    Mix mix;
    SweepPoint point;           ///< named by its words
    int64_t bytes = 0;          ///< of a token
    Mean predicted;             ///< predicted_kld()
    std::vector<double> kld{};  ///< mean of each window held out

    bool is_pair() const { return mix.is_pair(); }
};

/// What is to be run for a budget, by numbers of finalists.
struct Nominated {
    std::vector<std::size_t> pairs;
    std::optional<std::size_t> mix;  ///< none where the best is a pair
};

/// Two pairs and the best mix for each budget; every cache once. `make` gives a cache's cell.
/// Throws Error(usage) for a budget in which no cache fits.
std::vector<Nominated> nominate(const DamageModel& damage, const std::vector<Budget>& budgets,
                                const std::function<SweepPoint(const Variant&)>& make,
                                std::vector<Finalist>& finalists);

/// The answer for one budget. Of several pairs the smallest figure wins, so that its own is a
/// little too small, and a mix, of which there is one, has to be better than the luckiest of them.
struct Answer {
    std::optional<std::size_t> pair;  ///< the best of all within the budget, whoever nominated it
    std::optional<std::size_t> mix;   ///< the budget's own
    Mean difference;                  ///< KLD of the mix less the pair's, error by windows
    double p = 1;                     ///< see p_of()
    bool mix_is_better = false;       ///< p < k_doubt

    /// Nothing where no figure is a number.
    std::optional<std::size_t> choice() const { return mix_is_better || !pair ? mix : pair; }
};
Answer judge(const std::vector<Finalist>& finalists, const Nominated& nominated, int64_t bytes);

/// What a finalist is for llama.cpp: its flags, "-fa on -ctk q5_0 -ctv iq4_nl", behind
/// LLAMA_ATTN_ROT_DISABLE=1 where nothing is rotated that llama.cpp would rotate.
struct LlamaLine {
    std::string flags;  ///< empty: it cannot
    std::string why;    ///< why it cannot
};
LlamaLine llama_line(const Finalist& finalist);

}  // namespace rotkv::tools
