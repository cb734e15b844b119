#include "tools/sampling.h"

#include "ref/error.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace rotkv::tools {

namespace {

// Words are looked at in blocks: of each one figure is kept, and the word found in one of them.
constexpr std::size_t k_block = 256;

template <class Real>
std::span<const Real> block_of(std::span<const Real> x, std::size_t begin) {
    return x.subspan(begin, std::min(k_block, x.size() - begin));
}

// Words [0, V) and the largest of their x, the first of equals; nothing where one is not finite.
template <class Real>
std::optional<int32_t> largest_of(std::span<const Real> x) {
    Real most = -std::numeric_limits<Real>::infinity();
    std::size_t block = 0;
    bool finite = true;
    for (std::size_t begin = 0; begin < x.size(); begin += k_block) {
        const Real* words = x.data() + begin;
        const std::size_t count = block_of(x, begin).size();
        Real here = words[0];
        int strange = 0;
#pragma omp simd reduction(max : here) reduction(| : strange)
        for (std::size_t v = 0; v < count; ++v) {
            here = std::max(here, words[v]);
            strange |= int(!(std::abs(words[v]) <= std::numeric_limits<Real>::max()));
        }
        finite &= strange == 0;
        if (here > most) {
            most = here;
            block = begin;
        }
    }
    if (!finite) return {};
    return int32_t(std::find(x.begin() + std::ptrdiff_t(block), x.end(), most) - x.begin());
}

template <class Real>
std::optional<int32_t> choose(std::span<const Real> x, double temperature, double u) {
    const std::optional<int32_t> top = largest_of(x);
    if (!top || temperature == 0) return top;
    const double most = double(x[std::size_t(*top)]);
    const auto weight = [&](Real of_word) {
        return std::exp((double(of_word) - most) / temperature);
    };
    std::vector<double> before;  // sums of the weights of all words before a block
    double sum = 0;
    for (std::size_t begin = 0; begin < x.size(); begin += k_block) {
        before.push_back(sum);
        for (const Real of_word : block_of(x, begin)) sum += weight(of_word);
    }
    const double goal = u * sum;
    const std::size_t block =
        std::size_t(std::ranges::upper_bound(before, goal) - before.begin()) - 1;
    std::size_t word = block * k_block;
    for (double part = before[block]; word + 1 < x.size(); ++word) {
        part += weight(x[word]);
        if (part > goal) break;
    }
    return int32_t(word);
}

template <class Real>
int32_t required(std::span<const Real> x, double temperature, double u) {
    const std::optional<int32_t> word = choose_word(x, temperature, u);
    require(word.has_value(), ErrorCode::bad_file, "the model's logits are not finite numbers");
    return *word;
}

}  // namespace

std::optional<int32_t> choose_word(std::span<const float> x, double temperature, double u) {
    return choose(x, temperature, u);
}
std::optional<int32_t> choose_word(std::span<const double> x, double temperature, double u) {
    return choose(x, temperature, u);
}

int32_t Sampler::choose(std::span<const float> logits) {
    return required(logits, temperature_, next());
}
int32_t Sampler::choose(std::span<const double> log_p) {
    return required(log_p, temperature_, next());
}

}  // namespace rotkv::tools
