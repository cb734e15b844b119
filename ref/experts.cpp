// A mixture of experts: who is chosen, the products of the chosen, and their sum.
#include "ref/experts.h"

#include "ref/kernels.h"
#include "ref/quant.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace rotkv::ref {

namespace {

using Numbers = std::vector<double>;

// Largest first; a NaN is the largest, and of equals the lower index comes first.
bool comes_before(const Numbers& of, int64_t i, int64_t j) {
    const double a = of[size_t(i)], b = of[size_t(j)];
    if (std::isnan(a) != std::isnan(b)) return std::isnan(a);
    if (a != b && !std::isnan(a)) return a > b;
    return i < j;
}

// The first `count` candidates in that order.
std::vector<int64_t> largest(const Numbers& of, std::vector<int64_t> candidates, int64_t count) {
    std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(),
                      [&](int64_t i, int64_t j) { return comes_before(of, i, j); });
    candidates.resize(size_t(count));
    return candidates;
}

std::vector<int64_t> numbers_from(int64_t first, int64_t count) {
    std::vector<int64_t> all;
    for (int64_t i = first; i < first + count; ++i) all.push_back(i);
    return all;
}

double greatest(const Numbers& z) {
    double top = -std::numeric_limits<double>::infinity();
    for (const double value : z) top = value > top ? value : top;
    return top;
}

// p_x = exp(z_x - max z) / sum
void softmax(Numbers& z) {
    const double top = greatest(z);
    double sums[k_sums] = {};
    for (size_t x = 0; x < z.size(); ++x) {
        z[x] = exp_of_negative(z[x] - top);
        sums[x % k_sums] += z[x];
    }
    for (int64_t half = k_sums / 2; half > 0; half /= 2) {
        for (int64_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    }
    for (double& p : z) p /= sums[0];
}

// p of every expert; with softmax_chosen the logits, which become p when the chosen are known.
Numbers probabilities(Gating gating, Numbers z) {
    if (gating == Gating::softmax) softmax(z);
    if (gating == Gating::sigmoid || gating == Gating::sqrt_softplus) {
        for (double& value : z) value = gated(gating, value);
    }
    return z;
}

// The experts of the best groups. A group is worth its two best, in the order that chooses.
std::vector<int64_t> candidates(const RouteArgs& args, const Numbers& score, const Numbers& order) {
    const int64_t size = args.logits.n[3] / args.groups;
    if (args.groups_used == args.groups) return numbers_from(0, args.logits.n[3]);
    Numbers of_group;
    for (int64_t g = 0; g < args.groups; ++g) {
        double sum = 0;
        for (const int64_t x :
             largest(order, numbers_from(g * size, size), std::min<int64_t>(2, size))) {
            sum += score[size_t(x)];
        }
        of_group.push_back(sum);
    }
    std::vector<int64_t> result;
    for (const int64_t g : largest(of_group, numbers_from(0, args.groups), args.groups_used)) {
        for (int64_t x = g * size; x < (g + 1) * size; ++x) result.push_back(x);
    }
    return result;
}

double sum_of(const Numbers& p) {
    double sum = 0;
    for (const double value : p) sum += value;
    return sum;
}

// The chosen experts' p, which become weights.
void weigh(const RouteArgs& args, Numbers& p, const std::vector<int64_t>& ids) {
    if (args.gating == Gating::softmax_chosen) {
        const double top = greatest(p);
        for (double& value : p) value = exp_of_negative(value - top);
        const double sum = sum_of(p);
        for (double& value : p) value /= sum;
    }
    if (args.normalise) {
        const double sum = sum_of(p), divisor = sum < 0x1p-14 ? 0x1p-14 : sum;  // a NaN stays one
        for (double& value : p) value /= divisor;
    }
    const float* const of_expert = args.expert_scale.row<const float>(0);
    for (size_t a = 0; a < p.size(); ++a) {
        if (args.scale != 0) p[a] *= double(args.scale);
        if (!args.expert_scale.empty()) p[a] *= double(of_expert[ids[a]]);
    }
}

}  // namespace

void route_token(const RouteArgs& args, int64_t t) {
    const int64_t experts = args.logits.n[3], chosen = args.id.n[3];
    const float* const logits = args.logits.row<const float>(t);
    const float* const bias = args.selection_bias.row<const float>(0);
    const bool biased = !args.selection_bias.empty();
    const Numbers z(logits, logits + experts), p = probabilities(args.gating, z);
    Numbers score = p;
    for (int64_t x = 0; x < experts && biased; ++x) score[size_t(x)] += double(bias[x]);
    const Numbers& order = biased ? score : z;
    const std::vector<int64_t> ids = largest(order, candidates(args, score, order), chosen);
    Numbers weights;
    for (const int64_t x : ids) {  // who was chosen for a NaN shows it
        weights.push_back(std::isnan(order[size_t(x)]) ? order[size_t(x)] : p[size_t(x)]);
    }
    weigh(args, weights, ids);
    for (int64_t a = 0; a < chosen; ++a) {
        args.id.row<int32_t>(t)[a] = int32_t(ids[size_t(a)]);
        args.weight.row<float>(t)[a] = float(weights[size_t(a)]);
    }
}

// id, weight = the A best experts of each token, and what each of them counts
void route(const RouteArgs& args) {
    for (int64_t t = 0; t < args.logits.n[2]; ++t) route_token(args, t);
}

// y[t, a, o] = sum_i w[id[t, a], o, i] x[t, a, i] + bias[id[t, a], o]
void expert_matmul(const ExpertMatmulArgs& args) {
    const int64_t in = args.src.n[3], out = args.weight.n[2], experts = args.weight.n[1];
    std::vector<std::vector<std::pair<int64_t, int64_t>>> uses(static_cast<size_t>(experts));
    for (int64_t t = 0; t < args.dst.n[1]; ++t) {
        for (int64_t a = 0; a < args.dst.n[2]; ++a) {
            uses[size_t(ints(args.id, t)[a])].emplace_back(t, a);
        }
    }
    std::vector<float> w(static_cast<size_t>(in));
    for (int64_t e = 0; e < experts; ++e) {
        const float* const bias = args.bias.row<const float>(e);
        for (int64_t o = 0; o < out && !uses[size_t(e)].empty(); ++o) {
            dequantize_row(args.weight.type, w.data(), args.weight.row<const std::byte>(e, o), in);
            for (const auto& [t, a] : uses[size_t(e)]) {
                const float* const x = args.src.row<const float>(t, a);
                double sum = 0;
                for (int64_t i = 0; i < in; ++i) sum += double(w[size_t(i)]) * double(x[i]);
                if (!args.bias.empty()) sum += double(bias[o]);
                args.dst.row<float>(t, a)[o] = float(sum);
            }
        }
    }
}

// y[t, i] = sum_a weight[t, a] x[t, a, i]
void expert_sum(const ExpertSumArgs& args) {
    for (int64_t t = 0; t < args.dst.n[2]; ++t) {
        const float* const weight = args.weight.row<const float>(t);
        for (int64_t i = 0; i < args.dst.n[3]; ++i) {
            double sum = 0;
            for (int64_t a = 0; a < args.src.n[2]; ++a) {
                sum += double(weight[a]) * double(args.src.row<const float>(t, a)[i]);
            }
            args.dst.row<float>(t)[i] = float(sum);
        }
    }
}

}  // namespace rotkv::ref
