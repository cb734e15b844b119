// Likelihoods: nll, kld. Kernels leave a state for each simdgroup and token; the host, which has
// double, joins them once they have run.
#include "metal/operations.h"

#include <algorithm>
#include <cmath>

namespace rotkv::metal {

namespace {

constexpr uint32_t k_tokens = 8;        // of a simdgroup
constexpr uint32_t k_most_groups = 64;  // of threadgroups, for one set of tokens

using State = metal_args::Likelihood;

// The states of one token's words so far.
struct Joined {
    double largest = -INFINITY;
    double sum = 0;  // of exp(logit - largest)
    int32_t top = 0;

    // Brings what is counted in units of exp(old) to those of exp(now).
    static double factor(double old, double now) {
        return now > -INFINITY ? std::exp(old - now) : 1;
    }

    // Returns the factors of the sums before and of the new one.
    std::pair<double, double> add(const State& state) {
        const double other = double(state.largest), before = largest;
        if (other > largest || (other == largest && state.top < top)) top = state.top;
        if (other > largest) largest = other;
        const std::pair<double, double> factors(factor(before, largest), factor(other, largest));
        sum = sum * factors.first + (double(state.sum) + double(state.rest)) * factors.second;
        return factors;
    }
    double log_sum() const { return largest + std::log(sum); }
};

Grid by_words(const metal_args::Words& job) {
    Grid grid = by_simdgroups(job.simdgroups);
    grid.groups[1] = (job.tokens + k_tokens - 1) / k_tokens;
    return grid;
}

metal_args::Words job_of(const TensorView& weight, const TensorView& a, const TensorView& b,
                         float softcap) {
    const uint32_t words = uint32_t(weight.n[2]);
    const uint32_t groups = std::min(k_most_groups, (words + k_simdgroups - 1) / k_simdgroups);
    return {weight.stride[2],      a.stride[2], b.stride[2],
            uint32_t(a.n[2]),      words,       uint32_t(weight.n[3]),
            groups * k_simdgroups, softcap,     0};
}

// [simdgroups][tokens] of State or metal_args::Divergence, as bytes of i32.
template <class Of>
TensorView states_of(Commands& commands, const metal_args::Words& job) {
    return commands.scratch(DType::i32,
                            {job.simdgroups, job.tokens, int64_t(sizeof(Of) / sizeof(int32_t))});
}

template <class Of>
const Of& state_at(const TensorView& states, uint32_t simdgroup, uint32_t token) {
    return *states.row<const Of>(simdgroup, token);
}

}  // namespace

Support can(const NllArgs&) { return {}; }

void run(Commands& commands, const NllArgs& args) {
    if (args.hidden.empty()) return;
    const metal_args::Words job = job_of(args.weight, args.hidden, args.hidden, args.softcap);
    const TensorView states = states_of<State>(commands, job);
    commands.dispatch("nll_" + name_of(args.weight.type), job,
                      {states, args.weight, args.hidden, args.target}, by_words(job));
    commands.afterwards([=] {
        for (uint32_t t = 0; t < job.tokens; ++t) {
            Joined all;
            for (uint32_t s = 0; s < job.simdgroups; ++s) all.add(state_at<State>(states, s, t));
            const uint32_t of = uint32_t(ints(args.target)[t]) % job.simdgroups;
            const double target = double(state_at<State>(states, of, t).target);
            args.nll.row<double>(0)[t] = all.log_sum() - target;
            args.top.row<int32_t>(0)[t] = all.top;
        }
    });
}

Support can(const KldArgs&) { return {}; }

static void join_kld(const KldArgs& args, const metal_args::Words& job, const TensorView& states,
                     uint32_t t) {
    using Of = metal_args::Divergence;
    Joined a, b;
    double difference = 0;  // sum of exp(a_v - largest a) (a_v - b_v)
    for (uint32_t s = 0; s < job.simdgroups; ++s) {
        const Of& state = state_at<Of>(states, s, t);
        const auto [before, now] = a.add(state.a);
        difference = difference * before + (double(state.sum) + double(state.rest)) * now;
        b.add(state.b);
    }
    const double kld = difference / a.sum - a.log_sum() + b.log_sum();
    args.kld.row<double>(0)[t] = kld < 0 ? 0 : kld;  // rounding may leave less; a NaN stays
    const Of& target = state_at<Of>(states, uint32_t(ints(args.target)[t]) % job.simdgroups, t);
    args.nll_a.row<double>(0)[t] = a.log_sum() - double(target.a.target);
    args.nll_b.row<double>(0)[t] = b.log_sum() - double(target.b.target);
    args.top_a.row<int32_t>(0)[t] = a.top;
    args.top_b.row<int32_t>(0)[t] = b.top;
}

void run(Commands& commands, const KldArgs& args) {
    if (args.hidden_a.empty()) return;
    const metal_args::Words job = job_of(args.weight, args.hidden_a, args.hidden_b, args.softcap);
    const TensorView states = states_of<metal_args::Divergence>(commands, job);
    commands.dispatch("kld_" + name_of(args.weight.type), job,
                      {states, args.weight, args.hidden_a, args.hidden_b, args.target},
                      by_words(job));
    commands.afterwards([=] {
        for (uint32_t t = 0; t < job.tokens; ++t) join_kld(args, job, states, t);
    });
}

}  // namespace rotkv::metal
