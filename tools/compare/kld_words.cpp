#include "tools/compare/kld_words.h"

#include "tools/compare/kld_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace rotkv::tools {

// \u00B1 is plus-minus: the source itself stays ASCII.

std::string percent(double share) {
    const double value = 100 * share;
    if (value >= 9.95) return fmt::format("{:.0f} %", value);
    const bool one_digit = value < 0.095 && value >= 0.0005;  // less is 0.0
    return one_digit ? fmt::format("{:.1g} %", value) : fmt::format("{:.1f} %", value);
}

std::string unless_one_window(const Mean& mean, const std::string& shown) {
    return is_number(mean.value) && std::isnan(mean.error) ? "-" : shown;
}

std::string decimals(double x) {
    return x != 0 && std::abs(x) < 1e-5 ? fmt::format("{:.1e}", x) : fmt::format("{:.6f}", x);
}

std::string plus_minus(const Mean& mean) {
    return decimals(mean.value) + " \u00B1 " + unless_one_window(mean, decimals(mean.error));
}

// Below it a KLD is this run's own arithmetic.
static double rounding_of(double floor) { return 10 * std::abs(floor); }

std::string words_of_kld(double kld, double floor) {
    if (!is_number(kld)) return "not a number";
    if (kld <= rounding_of(floor)) return "rounding (KLD up to 10 x the floor): nothing to be seen";
    if (kld < 0.001) return "fine (KLD below 0.001): only near ties turn out otherwise";
    if (kld < 0.01) return "slight (KLD below 0.01): close words change places";
    if (kld < 0.1) return "visible (KLD below 0.1): favourites change";
    return "heavy (KLD of 0.1 or more): it speaks like another model";
}

// How much less `smaller` is: "3.4 x", or "12 %" where it is more than half.
static std::string times_or_percent(double smaller, double larger) {
    if (larger < 2 * smaller) return percent(1 - smaller / larger);
    const double times = larger / smaller;
    return times < 9.95 ? fmt::format("{:.1f} x", times) : fmt::format("{:.0f} x", times);
}

// "A loses 3.4 x less than B" of a difference that is there.
static std::string words_of_difference(const std::string& a, double kld_a, const std::string& b,
                                       double kld_b, double floor) {
    if (kld_a > kld_b) return words_of_difference(b, kld_b, a, kld_a, floor);
    if (!(kld_a > rounding_of(floor))) {  // of next to nothing no ratio is worth printing
        return fmt::format("{} loses less than {}, and no more than rounding", a, b);
    }
    return fmt::format("{} loses {} less than {}", a, times_or_percent(kld_a, kld_b), b);
}

std::string words_of_pair(const NamedKld& a, const NamedKld& b, double floor,
                          const Mean& difference, int64_t windows) {
    if (!is_number(difference.value)) return "not a number";
    if (difference.value == 0 && (windows < 2 || difference.error == 0)) return "the same";
    const double larger = std::max(a.kld, b.kld);
    if (!(larger > rounding_of(floor))) return "both no more than rounding";
    if (windows < 2) return "one window has no error: no difference can be shown";
    if (p_of(difference, windows) < k_doubt) {
        return words_of_difference(a.name, a.kld, b.name, b.kld, floor);
    }
    // No KLD is smaller than another by more than all of it.
    const double shown = smallest_difference(difference, windows, k_doubt) / larger;
    return fmt::format("no difference found; {} windows could {}show one of {}", windows,
                       shown < 1 ? "" : "not even ", percent(std::min(shown, 1.0)));
}

void print_words(std::FILE* out, const LockStep& run) {
    const double floor = summarize_means(run.floor().pairs).kld.value;
    std::vector<NamedKld> klds;
    fmt::print(out, "\n====== In words; of pairs, p < {:g} is a difference ======\n", k_doubt);
    for (std::size_t i = 0; i < run.variants().size(); ++i) {
        const KldMeans means = summarize_means(run.variants()[i].pairs);
        klds.push_back({letter_of(i), means.kld.value});
        fmt::print(out, "{:<8} {}", letter_of(i), words_of_kld(means.kld.value, floor));
        if (is_number(means.kld.value)) {
            fmt::print(out, "; another first choice at {}", percent(1 - means.same_top.value));
        }
        fmt::print(out, "\n");
    }
    const std::vector<PairedResult> pairs = compare_variants(run);
    for (const PairedResult& pair : pairs) {
        const NamedKld &a = klds[pair.a], &b = klds[pair.b];
        fmt::print(out, "{:<8} {}\n", a.name + ", " + b.name,
                   words_of_pair(a, b, floor, pair.kld, run.windows()));
    }
    if (pairs.size() < 2) return;
    fmt::print(out, "by chance alone about {:.2g} of {} pairs of equals would seem to differ\n",
               k_doubt * double(pairs.size()), pairs.size());
}

}  // namespace rotkv::tools
