#include "tools/compare/kld_words.h"

#include "tools/compare/kld_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace rotkv::tools {

std::string percent(double share) {
    const double value = 100 * share;
    return value < 9.95 ? fmt::format("{:.1f} %", value) : fmt::format("{:.0f} %", value);
}

std::string words_of_kld(double kld, double floor) {
    if (!is_number(kld)) return "not a number";
    if (kld <= 10 * std::abs(floor)) return "no more than rounding (the floor)";
    if (kld < 0.001) return "fine (KLD below 0.001: only near ties turn out otherwise)";
    if (kld < 0.01) return "slight (KLD below 0.01: close words change places)";
    if (kld < 0.1) return "plain to see (KLD below 0.1: favourites change)";
    return "heavy (KLD of 0.1 and more: another mind)";
}

// How much less `smaller` is: "3.4 x", or "12 %" where it is more than half.
static std::string times_or_percent(double smaller, double larger) {
    if (smaller <= 0 || larger < 2 * smaller) return percent(1 - smaller / larger);
    const double times = larger / smaller;
    return times < 9.95 ? fmt::format("{:.1f} x", times) : fmt::format("{:.0f} x", times);
}

std::string words_of_pair(const std::string& a, const std::string& b, double kld_a, double kld_b,
                          const Mean& difference, int64_t windows) {
    if (!is_number(difference.value)) return "not a number";
    if (difference.value == 0 && (windows < 2 || difference.error == 0)) return "the same";
    if (windows < 2) return "one window has no error: nothing can be said";
    const double larger = std::max(kld_a, kld_b);
    const double needed = smallest_difference(difference, windows, k_doubt) / larger;
    if (p_of(difference, windows) < k_doubt) {
        const bool first = difference.value < 0;
        return fmt::format("{} loses {} less than {}", first ? a : b,
                           times_or_percent(std::min(kld_a, kld_b), larger), first ? b : a);
    }
    // No KLD is smaller than another by more than all of it.
    if (!(needed < 1)) return fmt::format("no difference found; {} windows show none", windows);
    return fmt::format("no difference found; {} windows could show {}", windows, percent(needed));
}

void print_words(std::FILE* out, const LockStep& run) {
    const double floor = summarize_means(run.floor().pairs).kld.value;
    std::vector<double> klds;
    fmt::print(out, "\n====== In words, each pair by itself at 95 % ======\n");
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        const KldMeans means = summarize_means(run.variants()[i].pairs);
        klds.push_back(means.kld.value);
        fmt::print(out, "{:<8} {}", letter_of(i), words_of_kld(means.kld.value, floor));
        if (is_number(means.kld.value)) {
            fmt::print(out, "; another first choice at {}", percent(1 - means.same_top.value));
        }
        fmt::print(out, "\n");
    }
    const std::vector<PairedResult> pairs = compare_variants(run);
    for (const PairedResult& pair : pairs) {
        const std::string a = letter_of(pair.a), b = letter_of(pair.b);
        fmt::print(out, "{:<8} {}\n", a + ", " + b,
                   words_of_pair(a, b, klds[pair.a], klds[pair.b], pair.kld, run.windows()));
    }
    if (pairs.size() < 2) return;
    fmt::print(out, "by chance alone about {:.2g} of {} equal pairs would seem to differ\n",
               k_doubt * double(pairs.size()), pairs.size());
}

}  // namespace rotkv::tools
