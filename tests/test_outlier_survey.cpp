// A survey of queries, keys and values that are known: what it says of outputs is what attention
// makes of them, by definition.
#include "ref/hadamard.h"
#include "ref/quant.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tools/outlier_survey.h"

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

using namespace rotkv;
using namespace rotkv::test;
using namespace rotkv::tools;

namespace {

using What = CapturedRows::What;

constexpr int64_t k_tokens = 12, k_heads = 4, k_kv_heads = 2, k_d_k = 32, k_d_v = 64;

// One layer's rows, as a model would show them: [T][heads][D].
struct LayerRows {
    std::vector<float> q, k, v;
    AttentionArgs attention{};

    LayerRows(uint64_t seed, int64_t window)
        : q(normal_vector(k_tokens * k_heads * k_d_k, seed)),
          k(loud_channels(k_tokens * k_kv_heads, k_d_k, seed + 1, 16, 6)),
          v(loud_channels(k_tokens * k_kv_heads, k_d_v, seed + 2, 32, 6)) {
        attention.scale = 0.125f;
        attention.softcap = 4;
        attention.window = window;
    }
    void show(Survey& survey, int64_t layer) {
        const auto rows = [](std::vector<float>& x, int64_t heads, int64_t d) {
            return view(x.data(), DType::f32, {k_tokens, heads, d});
        };
        survey.add({What::k, layer, nullptr, rows(k, k_kv_heads, k_d_k)});
        survey.add({What::v, layer, nullptr, rows(v, k_kv_heads, k_d_v)});
        survey.add({What::q, layer, &attention, rows(q, k_heads, k_d_k)});
    }

    // Outputs of the query heads of one KV head, [T][2][Dv], over these keys and values.
    std::vector<double> outputs(int64_t kv, const std::vector<float>& keys,
                                const std::vector<float>& values) const {
        std::vector<double> all;
        for (int64_t t = 0; t < k_tokens; ++t) {
            for (const int64_t h : {2 * kv, 2 * kv + 1}) {
                std::vector<double> o(size_t(k_d_v), 0.0);
                double total = 0;
                const int64_t from = attention.window > 0 ? t + 1 - attention.window : 0;
                for (int64_t c = std::max<int64_t>(from, 0); c <= t; ++c) {
                    double s = 0;
                    for (int64_t j = 0; j < k_d_k; ++j) {
                        s += double(q[size_t((t * k_heads + h) * k_d_k + j)]) *
                             double(keys[size_t((c * k_kv_heads + kv) * k_d_k + j)]);
                    }
                    const double p = std::exp(4 * std::tanh(0.125 * s / 4));
                    total += p;
                    for (size_t j = 0; j < o.size(); ++j) {
                        o[j] += p * double(values[size_t((c * k_kv_heads + kv) * k_d_v) + j]);
                    }
                }
                for (const double x : o) all.push_back(x / total);
            }
        }
        return all;
    }
};

SurveyPlan plan_of(int64_t layers) {
    SurveyPlan plan;
    for (int64_t l = 0; l < layers; ++l) {
        plan.layers.push_back(
            {.heads = k_heads, .kv_heads = k_kv_heads, .d_k = k_d_k, .d_v = k_d_v, .rows_of = l});
    }
    plan.types_k = {DType::q8_0, DType::q4_0};
    plan.types_v = {DType::q4_1};
    return plan;
}

Rotation rotation_of(const SurveyPlan& plan, What side, size_t kind) {
    return plan.at(0).rotation(side, plan.at(0).parts(side)[0], kind);
}

// Rows of d as they come back from a cache of this type under this rotation.
std::vector<float> stored(std::vector<float> rows, int64_t d, DType type, const Rotation& turn) {
    std::vector<std::byte> packed(size_t(row_bytes(type, d)));
    for (size_t i = 0; i < rows.size(); i += size_t(d)) {
        float* row = &rows[i];
        ref::hadamard_row(row, row, d, turn, false);
        ref::quantize_row(type, packed.data(), row, d);
        ref::dequantize_row(type, row, packed.data(), d);
        ref::hadamard_row(row, row, d, turn, true);
    }
    return rows;
}

double square_of(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

const HeadSurvey& head_of(const Survey& survey, What side, int64_t layer, int64_t head) {
    for (const HeadSurvey& one : survey.heads()) {
        if (one.side == side && one.layer == layer && one.head == head) return one;
    }
    throw std::logic_error("no such head");
}

}  // namespace

TEST_CASE("outlier survey: a head stored alone moves outputs by what attention says") {
    Survey survey(plan_of(2));
    std::vector<LayerRows> layers = {{1, 0}, {11, 5}};  // the second looks through a window
    for (int64_t l = 0; l < 2; ++l) layers[size_t(l)].show(survey, l);
    const SurveyPlan& plan = survey.plan();
    for (int64_t l = 0; l < 2; ++l) {
        const LayerRows& rows = layers[size_t(l)];
        for (int64_t kv = 0; kv < k_kv_heads; ++kv) {
            const std::vector<double> exact = rows.outputs(kv, rows.k, rows.v);
            const double square = square_of(exact, std::vector<double>(exact.size(), 0.0));
            for (size_t r = 0; r < k_rotations; ++r) {
                INFO("layer " << l << ", head " << kv << ", " << k_rotation_names[r]);
                for (size_t t = 0; t < plan.types_k.size(); ++t) {
                    const std::vector<float> keys = stored(rows.k, k_d_k, plan.types_k[t].cells(),
                                                           rotation_of(plan, What::k, r));
                    const ErrorPair found = head_of(survey, What::k, l, kv).output_error(t, r);
                    CHECK(found.measured ==
                          Approx(square_of(rows.outputs(kv, keys, rows.v), exact) / square)
                              .epsilon(1e-3));
                }
                const std::vector<float> values =
                    stored(rows.v, k_d_v, plan.types_v[0].cells(), rotation_of(plan, What::v, r));
                const ErrorPair found = head_of(survey, What::v, l, kv).output_error(0, r);
                CHECK(found.measured ==
                      Approx(square_of(rows.outputs(kv, rows.k, values), exact) / square)
                          .epsilon(1e-3));
            }
        }
    }
}

TEST_CASE("outlier survey: noise of scores is that of the queries that read the head") {
    Survey survey(plan_of(1));
    LayerRows rows(21, 0);
    rows.show(survey, 0);
    for (int64_t kv = 0; kv < k_kv_heads; ++kv) {
        for (size_t r = 0; r < k_rotations; ++r) {
            // scale^2 sum_j E[q_j^2] Var[e_j], both rotated; e from the values in the cache.
            const Rotation turn = rotation_of(survey.plan(), What::k, r);
            std::vector<double> q_square(size_t(k_d_k), 0.0), sum(q_square), sum2(q_square);
            std::vector<float> x(static_cast<size_t>(k_d_k)), y(x);
            std::vector<std::byte> packed(size_t(row_bytes(DType::q4_0, k_d_k)));
            for (int64_t t = 0; t < k_tokens; ++t) {
                for (const int64_t h : {2 * kv, 2 * kv + 1}) {
                    const float* q = &rows.q[size_t((t * k_heads + h) * k_d_k)];
                    ref::hadamard_row(x.data(), q, k_d_k, turn, false);
                    for (size_t j = 0; j < x.size(); ++j) {
                        q_square[j] += std::pow(double(x[j]), 2) / double(2 * k_tokens);
                    }
                }
                const float* k = &rows.k[size_t((t * k_kv_heads + kv) * k_d_k)];
                ref::hadamard_row(x.data(), k, k_d_k, turn, false);
                ref::quantize_row(DType::q4_0, packed.data(), x.data(), k_d_k);
                ref::dequantize_row(DType::q4_0, y.data(), packed.data(), k_d_k);
                for (size_t j = 0; j < x.size(); ++j) {
                    const double e = double(y[j]) - double(x[j]);
                    sum[j] += e / double(k_tokens);
                    sum2[j] += e * e / double(k_tokens);
                }
            }
            double noise = 0;
            for (size_t j = 0; j < x.size(); ++j) {
                noise += q_square[j] * (sum2[j] - sum[j] * sum[j]) / 64;
            }
            INFO("head " << kv << ", " << k_rotation_names[r]);
            CHECK(survey.score_noise(head_of(survey, What::k, 0, kv), 1, r).measured ==
                  Approx(noise).epsilon(1e-6));
        }
    }
}

TEST_CASE("outlier survey: the largest row of H is that of the rows themselves") {
    Survey survey(plan_of(1));
    LayerRows rows(31, 0);
    rows.show(survey, 0);
    double mean = 0;  // over the rows of K's head 1: max_i |<x, H_i>| / |x|
    for (int64_t t = 0; t < k_tokens; ++t) {
        const float* k = &rows.k[size_t((t * k_kv_heads + 1) * k_d_k)];
        const std::vector<double> x(k, k + k_d_k);
        double largest = 0, square = 0;
        for (const double y : ref::hadamard_dense(x)) largest = std::max(largest, std::fabs(y));
        for (const double one : x) square += one * one;
        mean += largest / std::sqrt(square) / double(k_tokens);
    }
    CHECK(head_of(survey, What::k, 0, 1).largest_row() == Approx(mean).epsilon(1e-6));
}

TEST_CASE("outlier survey: blocks are the policy's, or what the head size allows") {
    const auto blocks = [](int64_t d_k, int64_t d_v, bool v_in_k) {
        const SurveyLayer layer{
            .heads = 1, .kv_heads = 1, .d_k = d_k, .d_v = d_v, .v_in_k = v_in_k};
        CHECK(layer.block(What::q) == layer.block(What::k));
        return std::pair(layer.block(What::k), layer.block(What::v));
    };
    CHECK(blocks(32, 64, false) == std::pair<int64_t, int64_t>(32, 64));
    CHECK(blocks(256, 256, false) == std::pair<int64_t, int64_t>(256, 64));
    CHECK(blocks(80, 80, false) == std::pair<int64_t, int64_t>(16, 16));
    CHECK(blocks(576, 512, true) == std::pair<int64_t, int64_t>(64, 64));
    CHECK(blocks(640, 512, true) == std::pair<int64_t, int64_t>(64, 64));
    CHECK(blocks(544, 512, true) == std::pair<int64_t, int64_t>(32, 32));
}

TEST_CASE("outlier survey: a verdict of two heads by hand") {
    SurveyPlan plan = plan_of(1);
    Survey survey(plan);
    for (HeadSurvey& head : survey.heads()) {
        if (head.side != What::k) continue;
        head.output_square = 2;
        const bool second = head.head == 1;
        head.rotations[0].moved[1] = {second ? 16.0 : 8.0, second ? 8.0 : 4.0};  // law, measured
        head.rotations[1].moved[1] = {second ? 20.0 : 4.0, second ? 12.0 : 2.0};
    }
    const auto v = survey.verdict(What::k, 1, 1);  // plain 2 and 4, rotated 1 and 6
    CHECK(v.type == DType::q4_0);
    CHECK(v.plain.measured == Approx(3));
    CHECK(v.rotated.measured == Approx(3.5));
    CHECK(v.plain.predicted == Approx(6));
    CHECK(v.rotated.predicted == Approx(6));
    CHECK(v.measured.value == Approx(std::log(6.0 / 7)));
    CHECK(v.predicted.value == Approx(0).margin(1e-12));
    CHECK((v.heads == 2 && v.worse == 1));
    CHECK((v.decisive_layer == 0 && v.decisive_head == 1));  // without it rotation halves the error
    CHECK(v.without == Approx(std::log(2.0)));
    CHECK(v.advice == Advice::indifferent);
}

namespace {

// Two layers of latent attention: a row of 96, whose first 64 are the value, for 2 query heads with
// a sink each. The second layer reads the rows of the first.
struct LatentRows {
    static constexpr int64_t k_row = 96, k_latent = 64;
    std::vector<float> k = loud_channels(k_tokens, k_row, 40, 16, 6);
    std::vector<float> q[2] = {normal_vector(k_tokens * 2 * k_row, 41),
                               normal_vector(k_tokens * 2 * k_row, 42)};
    std::vector<float> sinks = {1, -0.5f};
    AttentionArgs attention{};

    LatentRows() { attention.scale = 0.125f; }

    static SurveyPlan plan() {
        const SurveyLayer layer{
            .heads = 2, .kv_heads = 1, .d_k = k_row, .d_v = k_latent, .v_in_k = true};
        SurveyPlan plan{.layers = {layer, layer}, .types_k = {DType::q4_0}, .types_v = {}};
        plan.types_v = plan.types_k;
        return plan;
    }

    void show(Survey& survey) {
        const auto rows = [](std::vector<float>& x, int64_t heads) {
            return view(x.data(), DType::f32, {k_tokens, heads, k_row});
        };
        survey.add({What::k, 0, nullptr, rows(k, 1)});
        for (int64_t l = 0; l < 2; ++l) {
            survey.add({What::q, l, &attention, rows(q[size_t(l)], 2), sinks});
        }
    }

    // All outputs of both layers over these keys, and these rows as values; what sinks take.
    std::vector<double> outputs(const std::vector<float>& keys, const std::vector<float>& values,
                                double* sink_share = nullptr) const {
        std::vector<double> all;
        double share = 0;
        for (size_t row = 0; row < size_t(2 * 2 * k_tokens); ++row) {  // [layer][T][head]
            const size_t h = row % 2, t = row / 2 % size_t(k_tokens),
                         l = row / 2 / size_t(k_tokens);
            const float* query = &q[l][(2 * t + h) * size_t(k_row)];
            std::vector<double> o(size_t(k_latent), 0.0);
            double total = std::exp(double(sinks[h]));
            for (size_t c = 0; c <= t; ++c) {
                double score = 0;
                for (size_t j = 0; j < size_t(k_row); ++j) {
                    score += 0.125 * double(query[j]) * double(keys[c * size_t(k_row) + j]);
                }
                total += std::exp(score);
                for (size_t j = 0; j < o.size(); ++j) {
                    o[j] += std::exp(score) * double(values[c * size_t(k_row) + j]);
                }
            }
            share += std::exp(double(sinks[h])) / total / double(2 * 2 * k_tokens);
            for (const double x : o) all.push_back(x / total);
        }
        if (sink_share != nullptr) *sink_share = share;
        return all;
    }

    // The rows with channels first .. first + d of each as a cache gives them back.
    std::vector<float> with_part(int64_t first, int64_t d, const Rotation& turn) const {
        std::vector<float> part;
        for (int64_t t = 0; t < k_tokens; ++t) {
            const auto row = k.begin() + t * k_row + first;
            part.insert(part.end(), row, row + d);
        }
        part = stored(part, d, DType::q4_0, turn);
        std::vector<float> rows = k;
        for (int64_t t = 0; t < k_tokens; ++t) {
            std::copy_n(part.begin() + t * d, d, rows.begin() + t * k_row + first);
        }
        return rows;
    }
};

}  // namespace

TEST_CASE("outlier survey: parts of a latent row that two layers with sinks read") {
    Survey survey(LatentRows::plan());
    LatentRows rows;
    rows.show(survey);
    REQUIRE(survey.heads().size() == 2 * 2 + 2 + 1 + 2 * 2);  // q, k and v of the first; q
    double sink_share = 0;
    const std::vector<double> exact = rows.outputs(rows.k, rows.k, &sink_share);
    const double square = square_of(exact, std::vector<double>(exact.size(), 0.0));
    for (const HeadSurvey& head : survey.heads()) {
        if (head.side == What::q) continue;
        INFO(k_side_names[size_t(head.side)] << " " << head.part.name);
        CHECK(head.layer == 0);
        for (size_t r = 0; r < k_rotations; ++r) {
            const Rotation turn = survey.plan().at(0).rotation(head.side, head.part, r);
            const std::vector<float> kept = rows.with_part(head.part.first, head.part.d, turn);
            const std::vector<double> moved =
                head.side == What::k ? rows.outputs(kept, rows.k) : rows.outputs(rows.k, kept);
            CHECK(head.output_error(0, r).measured ==
                  Approx(square_of(moved, exact) / square).epsilon(1e-3));
        }
    }
    CHECK(survey.sinks().heads == 4);
    CHECK(survey.sinks().queries == 2 * 2 * k_tokens);
    CHECK(survey.sinks().share() == Approx(sink_share).epsilon(1e-9));
    CHECK(survey.verdict(What::k, 0, 1).heads == 2);
    CHECK(survey.verdict(What::v, 0, 1).heads == 1);
}
