// A mixture of experts on every backend: the choice against the formula in f64 with the library's
// exp, and laws that need no formula.
#include "ref/experts.h"
#include "tests/laws.h"
#include "tests/random.h"
#include "tests/refused_call.h"
#include "tools/parity/parity.h"

#include <map>
#include <numeric>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// A choice and what it is made of; views are made where it runs.
struct Choice {
    RouteArgs args;  ///< all but the views
    int64_t tokens, experts, chosen;
    std::vector<float> logits, bias{}, expert_scale{};
};

struct Chosen {
    std::vector<int32_t> id;
    std::vector<float> weight;
};

Chosen run_on(Backend& backend, const Choice& c) {
    const Buffer id(backend, size_t(4 * c.tokens * c.chosen)), weight(backend, id.bytes());
    const Buffer logits = upload(backend, c.logits), bias = upload(backend, c.bias),
                 factor = upload(backend, c.expert_scale);
    RouteArgs args = c.args;
    args.id = id.view(DType::i32, {c.tokens, c.chosen});
    args.weight = weight.view(DType::f32, {c.tokens, c.chosen});
    args.logits = logits.view(DType::f32, {c.tokens, c.experts});
    if (!c.bias.empty()) args.selection_bias = bias.view(DType::f32, {c.experts});
    if (!c.expert_scale.empty()) args.expert_scale = factor.view(DType::f32, {c.experts});
    backend.run(args);
    return {contents<int32_t>(backend, args.id), contents<float>(backend, args.weight)};
}

template <class Real>
void divide(std::vector<Real>& x, Real by) {
    for (Real& value : x) value /= by;
}

template <class Real>
Real sum_of(const std::vector<Real>& x) {
    return std::accumulate(x.begin(), x.end(), Real(0));
}

template <class Real>
std::vector<Real> softmax(const std::vector<Real>& z) {
    const Real top = *std::max_element(z.begin(), z.end());
    std::vector<Real> p;
    for (const Real value : z) p.push_back(std::exp(value - top));
    divide(p, sum_of(p));
    return p;
}

template <class Real>
std::vector<size_t> sorted(const std::vector<Real>& score) {
    std::vector<size_t> order(score.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t i, size_t j) { return score[i] > score[j]; });
    return order;
}

template <class Real>
std::vector<Real> probabilities(Gating gating, std::vector<Real> z) {
    if (gating == Gating::softmax) return softmax(z);
    for (Real& value : z) {
        const Real softplus = std::log1p(std::exp(-std::fabs(value))) + std::max(value, Real(0));
        if (gating == Gating::sigmoid) value = 1 / (1 + std::exp(-value));
        if (gating == Gating::sqrt_softplus) value = std::sqrt(softplus);
    }
    return z;
}

// All but the best groups to -infinity.
template <class Real>
void mask_groups(const Choice& c, std::vector<Real>& score) {
    const size_t groups = size_t(c.args.groups), size = score.size() / groups;
    std::vector<Real> best;
    for (size_t g = 0; g < groups; ++g) {
        std::vector<Real> part(score.begin() + int64_t(g * size),
                               score.begin() + int64_t((g + 1) * size));
        std::sort(part.rbegin(), part.rend());
        best.push_back(part[0] + (size > 1 ? part[1] : 0));
    }
    const std::vector<size_t> order = sorted(best);
    for (size_t g = size_t(c.args.groups_used); g < groups; ++g) {
        std::fill_n(score.begin() + int64_t(order[g] * size), size, -Real(INFINITY));
    }
}

// One token, step by step, with nothing of ref in it.
template <class Real>
void formula(const Choice& c, size_t t, Chosen& to) {
    const auto row = c.logits.begin() + int64_t(t) * c.experts;
    const std::vector<Real> p =
        probabilities(c.args.gating, std::vector<Real>(row, row + c.experts));
    std::vector<Real> score = p;
    for (size_t x = 0; x < c.bias.size(); ++x) score[x] += Real(c.bias[x]);
    if (c.args.groups > 1) mask_groups(c, score);
    std::vector<size_t> ids = sorted(score);
    ids.resize(size_t(c.chosen));
    std::vector<Real> w;
    for (const size_t x : ids) w.push_back(p[x]);
    if (c.args.gating == Gating::softmax_chosen) w = softmax(w);
    if (c.args.normalise) divide(w, std::max(sum_of(w), Real(6.103515625e-5)));
    for (size_t a = 0; a < ids.size(); ++a) {
        const Real factor = c.expert_scale.empty() ? 1 : Real(c.expert_scale[ids[a]]);
        const Real scale = c.args.scale == 0 ? 1 : Real(c.args.scale);
        to.id.push_back(int32_t(ids[a]));
        to.weight.push_back(float(w[a] * scale * factor));
    }
}

template <class Real>
Chosen formula(const Choice& c) {
    Chosen result;
    for (size_t t = 0; t < size_t(c.tokens); ++t) formula<Real>(c, t, result);
    return result;
}

std::vector<Choice> choices() {
    std::vector<Choice> all;
    for (const Gating gating :
         {Gating::softmax, Gating::sigmoid, Gating::softmax_chosen, Gating::sqrt_softplus}) {
        for (const int kind : {0, 1, 2, 3}) {
            Choice c{{}, 40, 24, 5, normal_vector(40 * 24, uint64_t(kind) + 1), {}, {}};
            c.args.gating = gating;
            c.args.normalise = kind % 2 == 1;
            if (kind > 0) c.bias = normal_vector(24, 9);
            if (kind > 1) {
                c.args.groups = 6;
                c.args.groups_used = 2;
                c.args.scale = 2.5f;
                c.expert_scale = normal_vector(24, 10);
            }
            all.push_back(c);
        }
    }
    return all;
}

}  // namespace

TEST_CASE("experts: exp and log of sums, products and quotients are those of the library") {
    for (int i = 0; i <= 70000; ++i) {
        const double x = -double(i) / 100 * 0.999;
        CHECK(std::fabs(ref::exp_of_negative(x) / std::exp(x) - 1) < 0x1p-50);
        const double e = double(i) / 70000;
        CHECK(std::fabs(ref::log_of_one_plus(e) - std::log1p(e)) <= 0x1p-50 * std::log1p(e));
    }
    CHECK(ref::exp_of_negative(0) == 1);
    CHECK(ref::exp_of_negative(-701) == 0);
    CHECK(ref::exp_of_negative(-INFINITY) == 0);
    CHECK(std::isnan(ref::exp_of_negative(NAN)));
    CHECK(std::isnan(ref::log_of_one_plus(NAN)));
    CHECK(ref::gated(Gating::sigmoid, 0) == 0.5);
    CHECK(ref::gated(Gating::sigmoid, -INFINITY) == 0);
    CHECK(ref::gated(Gating::sigmoid, INFINITY) == 1);
    CHECK(ref::gated(Gating::sqrt_softplus, INFINITY) == INFINITY);
    CHECK(std::isnan(ref::gated(Gating::sqrt_softplus, NAN)));
}

TEST_CASE("experts: the choice is the formula's, in every gating, with bias, groups and factors") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const Choice& c : choices()) {
            INFO(backend->name() << ", gating " << int(c.args.gating) << ", groups "
                                 << c.args.groups << ", bias " << c.bias.size());
            const Chosen found = run_on(*backend, c), expected = formula<double>(c);
            CHECK(found.id == expected.id);
            // Both round a number once that is off by 2^-48 of itself.
            for (size_t i = 0; i < found.weight.size(); ++i) {
                CHECK(ulps_between(found.weight[i], expected.weight[i]) <= 1);
            }
        }
    }
}

TEST_CASE("experts: few p that are small are divided by 2^-14, a scale of 0 is none") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Choice c{{}, 1, 4, 2, {-20, -21, -22, -23}, {}, {}};
        c.args.gating = Gating::sigmoid;
        c.args.normalise = true;
        c.args.scale = 0;
        const Chosen found = run_on(*backend, c);
        CHECK(found.weight[0] == float(1 / (1 + std::exp(20.0)) * 16384));
        CHECK(found.weight[1] == float(1 / (1 + std::exp(21.0)) * 16384));
    }
}

TEST_CASE("experts: of equal logits, and of groups worth the same, the lower index comes first") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Choice c{{}, 3, 6, 3, {1, 2, 2, 1, 2, 2, -0.0f, 0, -0.0f, 0, -0.0f, 0, 5, 5, 5, 5, 5, 6},
                 {}, {}};
        for (const Gating gating :
             {Gating::softmax, Gating::sigmoid, Gating::softmax_chosen, Gating::sqrt_softplus}) {
            c.args.gating = gating;
            CHECK(run_on(*backend, c).id == std::vector<int32_t>{1, 2, 4, 0, 1, 2, 5, 0, 1});
        }
        // Pairs worth (3, 3), (4, 2), (1, 5): the first two, the second one first by its 4.
        Choice pairs{{}, 1, 6, 3, {3, 3, 2, 4, 1, 5}, {}, {}};
        pairs.args.gating = Gating::softmax_chosen;
        pairs.args.groups = 3;
        pairs.args.groups_used = 2;
        CHECK(run_on(*backend, pairs).id == std::vector<int32_t>{3, 0, 1});
    }
}

TEST_CASE("experts: without a bias, logits that p cannot tell apart are told apart") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Choice c{{}, 1, 4, 3, {40, 60, 50, -1}, {}, {}};
        for (const Gating gating : {Gating::softmax, Gating::sigmoid}) {
            c.args.gating = gating;
            c.logits = {40, 60, 50, -1};
            CHECK(run_on(*backend, c).id == std::vector<int32_t>{1, 2, 0});
            c.logits = {-900, 0, -800, -1000};
            CHECK(run_on(*backend, c).id == std::vector<int32_t>{1, 2, 0});
        }
        c.logits = {40, 60, 50, -1};
        c.bias = {0, 0, 0, 0};  // a bias is added to p, which is 1 three times
        CHECK(run_on(*backend, c).id == std::vector<int32_t>{0, 1, 2});
    }
}

TEST_CASE("experts: whom no group holds is never chosen, though all others are worth nothing") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Choice c{{}, 1, 6, 2, {-INFINITY, -INFINITY, 0, 0, -INFINITY, 9}, {}, {}};
        c.args.gating = Gating::softmax_chosen;
        c.args.groups = 3;
        CHECK(run_on(*backend, c).id == std::vector<int32_t>{2, 3});
        c.logits = {-INFINITY, 9, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
        c.args.gating = Gating::sigmoid;
        c.bias = {0, 0, 1, 1, 0, 0};
        CHECK(run_on(*backend, c).id == std::vector<int32_t>{2, 3});
    }
}

TEST_CASE("experts: a number that is none is chosen and shown") {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (Choice c : choices()) {
            c.logits[24 * 3 + 17] = nan;
            const Chosen found = run_on(*backend, c);
            INFO(backend->name() << ", gating " << int(c.args.gating) << ", groups "
                                 << c.args.groups);
            std::vector<int32_t> ids(found.id.begin() + 15, found.id.begin() + 20);
            const auto row = found.weight.begin() + 15;
            CHECK(std::any_of(row, row + 5, [](float w) { return std::isnan(w); }));
            CHECK(*std::min_element(ids.begin(), ids.end()) >= 0);
            CHECK(*std::max_element(ids.begin(), ids.end()) < 24);
            std::sort(ids.begin(), ids.end());
            CHECK(std::adjacent_find(ids.begin(), ids.end()) == ids.end());
            CHECK(!std::isnan(found.weight[14]));  // of the token before
            // A bias that is none: its expert's weight is none, for every token.
            Choice biased = c;
            biased.logits[24 * 3 + 17] = 0;
            biased.bias = std::vector<float>(24, 0.0f);
            biased.bias[5] = nan;
            const Chosen shown = run_on(*backend, biased);
            CHECK(shown.id[0] == 5);
            CHECK(std::isnan(shown.weight[0]));
        }
    }
}

TEST_CASE("law: experts in another order are chosen under their other names") {
    const std::vector<int32_t> to = {5, 3, 8, 0, 7, 1, 10, 2, 9, 4, 11, 6};
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        Choice c{
            {}, 30, 12, 4, normal_vector(30 * 12, 4), normal_vector(12, 5), normal_vector(12, 6)},
            moved = c;
        c.args.normalise = moved.args.normalise = true;
        c.args.gating = moved.args.gating = Gating::sigmoid;
        for (size_t i = 0; i < c.logits.size(); ++i) {
            moved.logits[i / 12 * 12 + size_t(to[i % 12])] = c.logits[i];
        }
        for (size_t x = 0; x < 12; ++x) {
            moved.bias[size_t(to[x])] = c.bias[x];
            moved.expert_scale[size_t(to[x])] = c.expert_scale[x];
        }
        const Chosen before = run_on(*backend, c), after = run_on(*backend, moved);
        CHECK(after.weight == before.weight);
        for (size_t i = 0; i < before.id.size(); ++i) {
            CHECK(after.id[i] == to[size_t(before.id[i])]);
        }
    }
}

TEST_CASE("cases: no choice of the table hangs on a last bit") {
    // Another engine computes p in f32 and orders by it: what is asked of it must be the same.
    for (const std::string& name : case_names("route/")) {
        const std::unique_ptr<Case> one = make_case(name);
        const tools::Expected expected = tools::expected_results(*one);
        std::map<std::string, std::string> field(one->fields().begin(), one->fields().end());
        if (field["values"] == "nan" || field["values"] == "inf") continue;
        Choice c{{}, std::stoll(field["T"]), std::stoll(field["X"]), std::stoll(field["A"]), {}};
        const std::vector<std::string> gatings = {"softmax", "sigmoid", "softmax_chosen",
                                                  "sqrt_softplus"};
        c.args.gating =
            Gating(std::find(gatings.begin(), gatings.end(), field["gating"]) - gatings.begin());
        c.args.groups = std::stoll(field["groups"]);
        c.args.groups_used = std::stoll(field["used"]);
        for (const CaseTensor& tensor : expected.tensors) {
            const std::string what = tensor.name;
            if (what == "logits") c.logits = tensor.values();
            if (what == "selection_bias") c.bias = tensor.values();
        }
        INFO(name);
        const std::vector<std::byte>& id = expected.results[0];
        std::vector<int32_t> ids(id.size() / 4);
        if (!id.empty()) std::memcpy(ids.data(), id.data(), id.size());
        CHECK(formula<float>(c).id == ids);
    }
}
