// Where the error of outputs comes from, on queries whose answer is known, and through a cache
// beside what attention itself computes.
#include "ref/error.h"
#include "ref/kernels.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tools/compare/by_layer.h"
#include "tools/compare/explain_report.h"
#include "tools/compare/explain_run.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;
using namespace rotkv::tools;

namespace {

constexpr int64_t k_cells = 24, k_d = 16;

struct Rows {
    std::vector<float> q = normal_vector(k_d, 1);
    std::vector<float> k = normal_vector(k_cells * k_d, 2), v = normal_vector(k_cells * k_d, 3);
    std::vector<float> stored_k = k, stored_v = v;
    double softcap = 0, sink = -HUGE_VAL;

    OutputErrors split() const {
        return split_output_error({1, softcap, sink, q, k, v, stored_k, stored_v});
    }
};

void scale(std::vector<float>& x, double factor) {
    for (float& value : x) value = float(factor * double(value));
}

void add_noise(std::vector<float>& x, double size, uint64_t seed) {
    const std::vector<float> noise = normal_vector(int64_t(x.size()), seed);
    for (size_t i = 0; i < x.size(); ++i) x[i] += float(size * double(noise[i]));
}

// Two streams, a window and a softcap; either side as an exact cache or a coarse one has it.
CachedAttention stored_as(bool coarse_k, bool coarse_v, bool sinks) {
    CachedAttention c;
    if (sinks) c.sinks = {1.5f, -2, 3, 0.25f};
    c.softcap = 20;
    c.window = 9;
    c.fill(2, 21, 5);
    if (coarse_k) c.type_k = DType::q4_0;
    if (coarse_v) c.type_v = DType::q5_1;
    c.spec =
        RotationSpec::of(coarse_k ? Rotation{Rotation::Kind::signs, 64, 7, 0} : Rotation(),
                         coarse_v ? Rotation{Rotation::Kind::sylvester, 32, 0, 0} : Rotation());
    return c;
}

// The attention call of such a case, not run.
struct Asked {
    Buffer q, streams, positions, sinks;
    AttentionArgs args;

    Asked(Backend& backend, const CachedAttention& c, const KvCache& cache)
        : q(upload(backend, c.q)),
          streams(upload(backend, c.q_streams)),
          positions(upload(backend, c.q_positions)),
          sinks(upload(backend, c.sinks.empty() ? std::vector<float>{0} : c.sinks)),
          args{.dst = {},
               .q = q.view(DType::f32, {int64_t(c.q_streams.size()), c.heads, c.d_k}),
               .k_cache = cache.k(0),
               .v_cache = cache.v(0),
               .position = cache.positions(),
               .used = cache.used(),
               .q_stream = streams.view(DType::i32, {int64_t(c.q_streams.size())}),
               .q_position = positions.view(DType::i32, {int64_t(c.q_streams.size())}),
               .scale = c.scale,
               .softcap = c.softcap,
               .window = c.window,
               .k_rotation = c.spec.at(0, Side::k),
               .v_rotation = c.spec.at(0, Side::v)} {
        if (!c.sinks.empty()) args.sinks = sinks.view(DType::f32, {c.heads});
    }
};

// Layers of one head with the errors given.
Explanation explanation_of(const std::vector<double>& errors) {
    Explanation explanation{"made", {}, {}};
    for (const double both : errors) {
        OutputErrors one;
        one.output = 1;
        one.both = both;
        one.keys = 0.75 * both;
        one.values = 0.25 * both;
        explanation.layers.push_back({int64_t(explanation.layers.size()), 1, {one}});
    }
    return explanation;
}

}  // namespace

TEST_CASE("explain: exact rows have no error") {
    const OutputErrors errors = Rows().split();
    CHECK(errors.both == 0);
    CHECK(errors.keys == 0);
    CHECK(errors.values == 0);
    CHECK(errors.temperature() == 0);
    CHECK(errors.slope() == Approx(1).epsilon(1e-12));
    CHECK(errors.output > 0);
}

TEST_CASE("explain: longer keys are nothing but another temperature") {
    // e = g ln(1 + x) + terms of x^2: what is left over is of that order.
    for (const auto& [softcap, sink] : {std::pair(0.0, -HUGE_VAL), {3.0, -HUGE_VAL}, {0.0, 2.0}}) {
        for (const double factor : {1 - 1e-3, 1 + 1e-3}) {
            Rows rows;
            rows.softcap = softcap;
            rows.sink = sink;
            scale(rows.stored_k, factor);
            const OutputErrors errors = rows.split();
            INFO("softcap " << softcap << ", sink " << sink << ", factor " << factor);
            CHECK(errors.slope() == Approx(factor).epsilon(1e-6));
            CHECK(errors.temperature() / errors.keys == Approx(1).epsilon(1e-5));
            CHECK(errors.along / errors.turning == Approx(factor - 1).epsilon(5e-3));
            CHECK(errors.values == 0);
            CHECK(errors.both == Approx(errors.keys).epsilon(1e-12));
        }
    }
}

TEST_CASE("explain: one temperature for all queries is not one for each") {
    OutputErrors sum;
    for (const double factor : {1 - 1e-3, 1 + 1e-3}) {  // what one query gains the other loses
        Rows rows;
        scale(rows.stored_k, factor);
        sum.add(rows.split());
    }
    CHECK(sum.queries == 2);
    CHECK(sum.own / sum.keys == Approx(1).epsilon(1e-5));
    CHECK(sum.temperature() / sum.keys < 1e-5);
    CHECK(sum.slope() == Approx(1).epsilon(1e-6));
}

TEST_CASE("explain: queries with the same change of temperature share it") {
    OutputErrors sum;
    for (uint64_t seed = 0; seed < 3; ++seed) {
        Rows rows;
        rows.q = normal_vector(k_d, 20 + seed);
        scale(rows.stored_k, 1 + 1e-3);
        sum.add(rows.split());
    }
    CHECK(sum.temperature() / sum.keys == Approx(1).epsilon(1e-5));
    CHECK(sum.slope() == Approx(1 + 1e-3).epsilon(1e-6));
}

TEST_CASE("explain: an error that all keys share is none") {
    Rows rows;
    const std::vector<float> offset = normal_vector(k_d, 9);
    for (size_t i = 0; i < rows.k.size(); ++i) rows.stored_k[i] += offset[i % size_t(k_d)];
    const OutputErrors errors = rows.split();
    CHECK(errors.keys < 1e-12 * errors.output);
    CHECK(errors.slope() == Approx(1).epsilon(1e-6));
    rows.sink = 5;  // which scores that all move leave behind
    CHECK(rows.split().keys > 1e-3 * rows.split().output);
    CHECK(rows.split().slope() == Approx(1).epsilon(1e-6));
}

TEST_CASE("explain: errors of values are those of values") {
    Rows rows;
    add_noise(rows.stored_v, 0.1, 4);
    const OutputErrors errors = rows.split();
    CHECK(errors.values > 0);
    CHECK(errors.both == errors.values);
    CHECK(errors.keys == 0);
    CHECK(errors.product() == 0);
}

TEST_CASE("explain: of two cells and one value each, by hand") {
    // p = softmax(1, 0), o = p_1 since v = (1, 0); keys stored as (0, 0), values as (2, 0).
    const std::vector<float> q = {1}, k = {1, 0}, v = {1, 0}, stored_k = {0, 0}, stored_v = {2, 0};
    const OutputErrors errors = split_output_error({1, 0, -HUGE_VAL, q, k, v, stored_k, stored_v});
    const double p = 1 / (1 + std::exp(-1.0));
    CHECK(errors.output == Approx(p * p));
    CHECK(errors.keys == Approx((0.5 - p) * (0.5 - p)));
    CHECK(errors.values == Approx(p * p));
    CHECK(errors.both == Approx((1 - p) * (1 - p)));  // 1/2 times 2
    CHECK(errors.turning == Approx(std::pow(p * (1 - p), 2)));
    CHECK(errors.own == Approx(errors.keys));  // one dimension: g has no other direction
    CHECK(errors.own_by_chance == Approx(errors.keys));
    CHECK(errors.score_variance == Approx(p * (1 - p)));
    CHECK(errors.slope() == Approx(0).margin(1e-15));
}

TEST_CASE("explain: independent noise lies along the temperature as often as chance says") {
    for (const double softcap : {0.0, 3.0}) {
        OutputErrors sum;
        for (uint64_t seed = 0; seed < 2000; ++seed) {
            Rows rows;
            rows.softcap = softcap;
            add_noise(rows.stored_k, 1e-3, 100 + seed);
            sum.add(rows.split());
        }
        INFO("softcap " << softcap);
        CHECK(sum.own / sum.keys > 0.01);
        // A mean of squares of one normal variable each: sqrt(2 / 2000) is its standard error.
        CHECK(sum.own / sum.own_by_chance == Approx(1).margin(4 * std::sqrt(2.0 / 2000)));
        CHECK(sum.temperature() / sum.keys < 10.0 / 2000);
    }
}

TEST_CASE("explain: sums add up each figure apart") {
    OutputErrors sum{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    sum.add({100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1100});
    CHECK(sum.queries == 101);
    CHECK(sum.output == 202);
    CHECK(sum.both == 303);
    CHECK(sum.keys == 404);
    CHECK(sum.values == 505);
    CHECK(sum.along == 606);
    CHECK(sum.turning == 707);
    CHECK(sum.own == 808);
    CHECK(sum.own_by_chance == 909);
    CHECK(sum.covariance == 1010);
    CHECK(sum.score_variance == 1111);
}

TEST_CASE("explain: rows that do not fit are refused") {
    Rows rows;
    rows.stored_k.pop_back();
    CHECK_THROWS_AS(rows.split(), Error);
    rows = Rows();
    rows.stored_v.clear();
    CHECK_THROWS_AS(rows.split(), Error);
    rows = Rows();
    rows.k.clear(), rows.stored_k.clear(), rows.v.clear(), rows.stored_v.clear();
    CHECK_THROWS_AS(rows.split(), Error);
}

// Outputs of some queries and their errors, head by head, beside what attention makes of them.
static void check_outputs(bool sinks) {
    const std::unique_ptr<Backend> backend = make_ref_backend();
    const CachedAttention exact = stored_as(false, false, sinks);
    const CachedAttention coarse = stored_as(true, true, sinks);
    KvCache a(*backend, exact.shape(), exact.spec), b(*backend, coarse.shape(), coarse.spec);
    exact.store(*backend, a);
    coarse.store(*backend, b);
    const Asked asked(*backend, exact, a);
    const StoredLayer stored{b.k(0), b.v(0), coarse.spec.at(0, Side::k),
                             coarse.spec.at(0, Side::v)};
    std::vector<int64_t> rows;
    for (int64_t t = 1; t < int64_t(exact.q_streams.size()); t += 3) rows.push_back(t);
    std::vector<OutputErrors> sums(static_cast<size_t>(exact.heads));
    add_output_errors(*backend, asked.args, stored, rows, sums);

    const std::vector<float> o = exact.run(*backend), o_kv = coarse.run(*backend);
    const std::vector<float> o_k = stored_as(true, false, sinks).run(*backend);
    const std::vector<float> o_v = stored_as(false, true, sinks).run(*backend);
    const std::vector<float> zero(o.size(), 0.0f);
    for (int64_t h = 0; h < exact.heads; ++h) {
        const auto apart = [&](const std::vector<float>& x, const std::vector<float>& y) {
            double sum = 0;
            for (const int64_t t : rows) {
                for (int64_t j = 0; j < exact.d_v; ++j) {
                    const size_t i = size_t((t * exact.heads + h) * exact.d_v + j);
                    sum += std::pow(double(x[i]) - double(y[i]), 2);
                }
            }
            return sum;
        };
        const OutputErrors& found = sums[size_t(h)];
        INFO("head " << h);
        CHECK(found.queries == int64_t(rows.size()));
        CHECK(found.output == Approx(apart(o, zero)).epsilon(1e-5));
        CHECK(found.keys == Approx(apart(o_k, o)).epsilon(1e-4));
        CHECK(found.values == Approx(apart(o_v, o)).epsilon(1e-4));
        CHECK(found.both == Approx(apart(o_kv, o)).epsilon(1e-4));
        CHECK(found.keys > 1e-4 * found.output);
    }
}

TEST_CASE("explain: through a rotated cache, outputs are those of attention") {
    for (const bool sinks : {false, true}) {
        INFO("sinks " << sinks);
        check_outputs(sinks);
    }
}

TEST_CASE("explain: a part of the cells is refused") {
    const std::unique_ptr<Backend> backend = make_ref_backend();
    const CachedAttention exact = stored_as(false, false, false);
    KvCache a(*backend, exact.shape(), exact.spec);
    Asked asked(*backend, exact, a);
    asked.args.bounds.position.to = 4;
    std::vector<OutputErrors> sums(static_cast<size_t>(exact.heads));
    const StoredLayer stored{a.k(0), a.v(0), {}, {}};
    CHECK_THROWS_AS(add_output_errors(*backend, asked.args, stored, {0}, sums), Error);
}

TEST_CASE("explain: layers that hold half, and the sentence") {
    CHECK(layers_with_half(explanation_of({1, 5, 2, 2})) == std::vector<int64_t>{1});
    CHECK(layers_with_half(explanation_of({2, 4, 3, 2})) == std::vector<int64_t>{1, 2});
    CHECK(all_errors(explanation_of({1, 5, 2, 2})).both == Approx(10));
    CHECK(sentence_of(explanation_of({2, 4, 3, 2})) ==
          "75 % of the error comes through keys (0.0 % of that is a change of temperature), "
          "25 % through values; layers 1 and 2 hold half of it.");
    CHECK(sentence_of(explanation_of({1, 5})).find("layer 1 holds half") != std::string::npos);
    CHECK(sentence_of(explanation_of(std::vector<double>(12, 1))).find("6 of 12 layers") !=
          std::string::npos);
    CHECK(sentence_of(explanation_of({5})).ends_with("layer 0 holds all of it."));
    CHECK(sentence_of(explanation_of({0, 0})) == "no error.");
}

TEST_CASE("explain: a layer that is not a number is no layer without error") {
    for (const std::size_t place : {0u, 1u, 2u}) {
        std::vector<double> errors = {1, 2, 3};
        errors[place] = -NAN;
        const Explanation explanation = explanation_of(errors);
        CHECK(std::isnan(all_errors(explanation).both));
        CHECK(!std::signbit(all_errors(explanation).both));
        CHECK(layers_with_half(explanation) == std::vector<int64_t>{int64_t(place)});
        CHECK(sentence_of(explanation) ==
              "the error is not a number, by layer " + std::to_string(place) + ".");
        std::vector<std::string> lines;
        add_lines(lines, {explanation_of({1, 2}), explanation});
        REQUIRE(lines.size() == 1);
        CHECK(lines[0].find("B, outputs: ") == 0);
    }
    // A key that does not come back: nothing of what it makes passes for 0 or 1.
    const std::vector<float> q = {1, 0}, k = {1, 2, 3, 4}, v = {1, 2};
    const std::vector<float> lost = {1, 2, INFINITY, 4};
    const OutputErrors errors = split_output_error({1, 0, -HUGE_VAL, q, k, v, lost, v});
    for (const double x : {errors.both, errors.keys, errors.temperature(), errors.slope()}) {
        CHECK(std::isnan(x));
    }
    CHECK(errors.values == 0);
}

TEST_CASE("explain: lists of layers") {
    using List = std::vector<int64_t>;
    CHECK(parse_layers("", 3) == List{0, 1, 2});
    CHECK(parse_layers("2", 3) == List{2});
    CHECK(parse_layers("7,0-2,1,5-5", 8) == List{0, 1, 2, 5, 7});
    for (const char* text : {",", "0,", ",0", "3", "-1", "1-", "2-1", "0-3", "x", "1 ", "0--1",
                             "1-2-3", "99999999999999999999"}) {
        INFO(text);
        CHECK_THROWS_AS(parse_layers(text, 3), Error);
    }
}
