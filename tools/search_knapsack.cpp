#include "tools/search_knapsack.h"

#include "ref/error.h"
#include "ref/measure/metrics.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace rotkv::tools {

namespace {

using Places = std::span<const std::vector<KnapsackChoice>>;

constexpr double k_none = std::numeric_limits<double>::infinity();

void check(Places places) {
    for (const std::vector<KnapsackChoice>& choices : places) {
        require(!choices.empty() && choices.size() <= 255, ErrorCode::bad_argument,
                "knapsack: expected 1 to 255 choices for every place");
        for (const KnapsackChoice& choice : choices) {
            require(choice.bytes >= 0 && is_number(choice.damage), ErrorCode::bad_argument,
                    "knapsack: expected bytes from 0 on and damages that are numbers");
        }
    }
}

// What all choices' bytes are multiples of; 1 where they take none.
int64_t unit_of(Places places) {
    int64_t unit = 0;
    for (const std::vector<KnapsackChoice>& choices : places) {
        for (const KnapsackChoice& choice : choices) unit = std::gcd(unit, choice.bytes);
    }
    return std::max(unit, int64_t(1));
}

// More than all places can take buys nothing.
int64_t most_bytes(Places places) {
    int64_t bytes = 0;
    for (const std::vector<KnapsackChoice>& choices : places) {
        bytes += std::ranges::max(choices, {}, &KnapsackChoice::bytes).bytes;
    }
    return bytes;
}

}  // namespace

std::optional<std::vector<std::size_t>> solve_knapsack(Places places, int64_t budget) {
    check(places);
    if (budget < 0) return std::nullopt;
    const int64_t unit = unit_of(places);
    const std::size_t end = std::size_t(std::min(budget, most_bytes(places)) / unit) + 1;
    // least[b]: of the places so far with exactly b units; chosen[i][b]: what place i has there.
    std::vector<double> least(end, k_none), before;
    least[0] = 0;
    std::vector<std::vector<uint8_t>> chosen(places.size(), std::vector<uint8_t>(end));
    for (std::size_t i = 0; i < places.size(); ++i) {
        before.swap(least);
        least.assign(end, k_none);
        for (std::size_t c = 0; c < places[i].size(); ++c) {
            const std::size_t bytes = std::size_t(places[i][c].bytes / unit);
            for (std::size_t b = bytes; b < end; ++b) {
                const double sum = before[b - bytes] + places[i][c].damage;
                if (!(sum < least[b])) continue;
                least[b] = sum;
                chosen[i][b] = uint8_t(c);
            }
        }
    }
    std::size_t b = std::size_t(std::ranges::min_element(least) - least.begin());
    if (least[b] == k_none) return std::nullopt;
    std::vector<std::size_t> answer(places.size());
    for (std::size_t i = places.size(); i-- > 0;) {
        answer[i] = chosen[i][b];
        b -= std::size_t(places[i][answer[i]].bytes / unit);
    }
    return answer;
}

}  // namespace rotkv::tools
