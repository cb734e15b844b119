// The statistics against their formulas written out in f64 and against values known beforehand.
#include "ref/error.h"
#include "ref/hadamard.h"
#include "ref/measure/outliers.h"
#include "ref/measure/query_output.h"
#include "ref/quant.h"
#include "tests/catch.h"
#include "tests/laws.h"
#include "tools/watch/capture.h"

#include <cmath>

using namespace rotkv;
using namespace rotkv::test;

namespace {

bool close(double a, double b, double relative = 1e-12) {
    return std::fabs(a - b) <= relative * (std::fabs(a) + std::fabs(b) + 1e-300);
}

std::span<const float> row_of(const std::vector<float>& x, size_t row, size_t d) {
    return std::span(x).subspan(row * d, d);
}

HeadStatistics statistics_of(const std::vector<float>& x, int64_t d) {
    HeadStatistics head(d);
    for (size_t i = 0; i < x.size() / size_t(d); ++i) head.add(row_of(x, i, size_t(d)));
    return head;
}

// The relative error of rows under a rotation.
ErrorPair errors_of(DType type, const std::vector<float>& x, int64_t d, Rotation rotation) {
    TypeErrors errors(type, d);
    std::vector<float> turned(static_cast<size_t>(d));
    for (size_t i = 0; i < x.size(); i += size_t(d)) {
        ref::hadamard_row(turned.data(), &x[i], d, rotation, false);
        errors.add(turned);
    }
    return errors.relative();
}

}  // namespace

TEST_CASE("outliers: figures of rows whose figures are known") {
    std::vector<float> alone(64, 0.0f), alike(64, -2.0f), two(64, 0.0f);
    alone[5] = -3.0f;
    two[1] = 1.0f, two[40] = -1.0f;
    CHECK(close(crest_factor(alone), 8));  // sqrt(D)
    CHECK(close(crest_factor(alike), 1));
    CHECK(close(crest_factor(two), std::sqrt(32.0)));
    CHECK(close(participation(alone), 1));
    CHECK(close(participation(alike), 1.0 / 64));
    CHECK(close(participation(two), 0.5));
    CHECK(close(offset_share(alike), 1));
    CHECK(close(offset_share(alone), std::sqrt(1.0 / 32)));
    CHECK(close(offset_share(std::span(alike).first(48)), 1));  // the last block has 16
    two[1] = -1.0f, two[2] = 1.0f, two[40] = 0.0f;              // cancel within their block
    CHECK(offset_share(two) == 0);
    const std::vector<float> zeros(64, 0.0f);
    CHECK(std::isnan(crest_factor(zeros)));
    CHECK(std::isnan(participation(zeros)));
    CHECK(std::isnan(offset_share(zeros)));
    HeadStatistics head(4);  // channels of rms 1, 2, 3 and 8: 2.5 is the median
    head.add(std::vector<float>{1, -2, 3, 8});
    head.add(std::vector<float>{-1, 2, 3, -8});
    CHECK(close(head.figures().channel_ratio, 8 / 2.5));
    CHECK(head.figures().loudest == 3);
}

TEST_CASE("outliers: figures of a head are the formulas over all its rows") {
    const int64_t d = 48;  // a block of 32 and one of 16
    std::vector<float> x = normal_vector(d * 40, 3);
    for (size_t i = 7; i < x.size(); i += size_t(d)) x[i] = 5 * x[i] + 2;
    std::fill(x.begin(), x.begin() + d, 0.0f);  // a row of zeros has no ratios
    const HeadFigures f = statistics_of(x, d).figures();
    double n = double(x.size()), mean = 0, m2 = 0, m4 = 0;
    for (const float v : x) mean += double(v) / n;
    for (const float v : x) {
        m2 += std::pow(double(v) - mean, 2) / n;
        m4 += std::pow(double(v) - mean, 4) / n;
    }
    double mu = 0, p4 = 0, crest = 0, offset = 0;
    for (size_t row = 1; row < 40; ++row) {
        const std::span<const float> r = row_of(x, row, size_t(d));
        mu += crest_factor(r) / 39;
        p4 += participation(r) / 39;
        offset += offset_share(r) / 39;
        crest += (crest_factor(r.first(32)) + crest_factor(r.last(16))) / 78;
    }
    CHECK(f.rows == 40);
    CHECK(close(f.kurtosis, m4 / m2 / m2 - 3, 1e-9));
    CHECK(close(f.mu, mu));
    CHECK(close(f.p4, p4));
    CHECK(close(f.crest, crest));
    CHECK(close(f.offset, offset));
    CHECK(f.loudest == 7);
    CHECK(f.channel_ratio > 4);
    CHECK(close(f.norm, std::sqrt((m2 + mean * mean) * double(d))));
}

TEST_CASE("outliers: Gaussian rows have the figures of the table in the chapter") {
    const HeadFigures f = statistics_of(normal_vector(64 * 4096, 4), 64).figures();
    CHECK(std::fabs(f.kurtosis) < 5 * std::sqrt(24.0 / (64 * 4096)));
    CHECK(std::fabs(f.p4 - 3.0 / 66) < 0.001);  // E of 3 / (D + 2) on the sphere
    // Crest and rms of a Gaussian block are independent: E[crest] = E[max |x|] / E[rms] of 32.
    CHECK(std::fabs(f.crest - 2.346 / (1 - 1.0 / 128)) < 0.02);
    CHECK(std::fabs(f.mu - 2.594 / (1 - 1.0 / 256)) < 0.03);
    CHECK(std::fabs(f.offset - std::sqrt(1.0 / 32)) < 0.02);
    CHECK(f.channel_ratio < 1.1);
}

TEST_CASE("outliers: the largest row of H is the largest value after H") {
    // max_i |<x, H_i>| / |x| by the definition, against mu of the rotated row.
    const std::vector<float> x = normal_vector(64, 5);
    std::vector<double> wide(x.begin(), x.end());
    double largest = 0;
    for (const double y : ref::hadamard_dense(wide)) largest = std::max(largest, std::fabs(y));
    std::vector<float> y(64);
    ref::hadamard_row(y.data(), x.data(), 64, {Rotation::Kind::sylvester, 64, 0, 0}, false);
    CHECK(close(crest_factor(y) / 8, largest / norm(x.data(), 64), 1e-6));
    const std::vector<float> ones(64, 1.0f);  // the blind spot itself
    ref::hadamard_row(y.data(), ones.data(), 64, {Rotation::Kind::sylvester, 64, 0, 0}, false);
    CHECK(close(crest_factor(y), 8, 1e-6));
}

TEST_CASE("outliers: by law and measured agree on values that lie spread over the steps") {
    // Gaussian rows, plain and with one loud channel, and rotated: the law needs only peak and
    // range. Its own error: the density's slope within a step, largest for 16 levels.
    std::vector<float> x = normal_vector(64 * 3000, 6);
    for (const bool loud : {false, true}) {
        for (const DType type : cache_types()) {
            for (const Rotation::Kind kind : {Rotation::Kind::none, Rotation::Kind::sylvester}) {
                const ErrorPair e = errors_of(type, x, 64, {kind, 64, 0, 0});
                INFO(type_info(type).name << (loud ? " loud " : " ") << int(kind) << ": "
                                          << e.predicted << ", measured " << e.measured);
                CHECK(std::fabs(e.measured - e.predicted) <= 0.05 * e.measured);
            }
        }
        for (size_t i = 5; i < x.size(); i += 64) x[i] += 8;
    }
}

TEST_CASE("outliers: blocks whose error is known") {
    std::vector<float> x(32, 0.0f);
    for (const DType type : cache_types()) CHECK(predicted_square_error(type, x) == 0);
    x[3] = 8;  // alone: zero is a level, and so is the peak
    for (const DType type : {DType::q8_0, DType::q5_0, DType::q4_0})
        CHECK(predicted_square_error(type, x) == 0);
    std::fill(x.begin(), x.end(), 1.0f);
    x[0] = 8, x[1] = -8;  // step 1; -8 is stored as 7 steps on that side
    CHECK(close(predicted_square_error(DType::q4_0, x), 30.0 / 12 + 1));
    CHECK(close(predicted_square_error(DType::q5_0, x), 30.0 / 48 + 0.25));
    CHECK(close(predicted_square_error(DType::q4_1, x),
                30 * std::pow(16.0 / 15, 2) / 12 + 32 * std::pow(0x1p-7, 2) / 12));
    CHECK(close(predicted_square_error(DType::f16, x), (30 * 0x1p-20 + 2 * 0x1p-14) / 12));
    x[1] = -7.25f;  // rounds to the last level, 7, as others round
    CHECK(close(predicted_square_error(DType::q4_0, x), 31.0 / 12));
    x[0] = 100, x[1] = -1;  // the minimum is rounded as -1 is: ulp 2^-10
    CHECK(close(predicted_square_error(DType::q5_1, x),
                30 * std::pow(101.0 / 31, 2) / 12 + 32 * std::pow(0x1p-10, 2) / 12));
    CHECK_THROWS_AS(predicted_square_error(DType::q4_k, x), Error);
    CHECK_THROWS_AS(predicted_square_error(DType::q4_0, std::span(x).first(31)), Error);
    CHECK_THROWS_AS(TypeErrors(DType::q4_0, 48), Error);
}

TEST_CASE("outliers: noise of scores weighs channels by queries and drops what keys share") {
    const int64_t d = 64;
    const std::vector<float> keys = normal_vector(d * 500, 7), query = normal_vector(d, 8);
    TypeErrors errors(DType::q4_0, d);
    for (size_t i = 0; i < 500; ++i) errors.add(row_of(keys, i, size_t(d)));
    std::vector<double> all(size_t(d), 1.0), none(size_t(d), 0.0), squares;
    for (const float q : query) squares.push_back(double(q) * double(q));
    // Gaussian keys share nothing, so that noise over all channels is |e|^2.
    const ErrorPair flat = errors.score_noise(all), relative = errors.relative();
    double square = 0;
    for (const float k : keys) square += double(k) * double(k) / 500;
    CHECK(close(flat.predicted, relative.predicted * square, 1e-9));
    CHECK(close(flat.measured, relative.measured * square, 0.01));
    CHECK(errors.score_noise(none).measured == 0);
    // Against q.e itself, whose variance takes the channels' correlation along.
    double sum2 = 0;
    for (size_t i = 0; i < 500; ++i) {
        std::vector<std::byte> bytes(size_t(row_bytes(DType::q4_0, d)));
        std::vector<float> back(static_cast<size_t>(d));
        ref::quantize_row(DType::q4_0, bytes.data(), &keys[i * size_t(d)], d);
        ref::dequantize_row(DType::q4_0, back.data(), bytes.data(), d);
        double dot = 0;
        for (size_t j = 0; j < size_t(d); ++j)
            dot += double(query[j]) * (double(back[j]) - double(keys[i * size_t(d) + j]));
        sum2 += dot * dot / 500;
    }
    CHECK(std::fabs(errors.score_noise(squares).measured / sum2 - 1) < 0.3);  // 5 sqrt(2 / 500)

    TypeErrors same(DType::q4_0, d);  // one key 500 times: an error, and no noise
    for (int i = 0; i < 500; ++i) same.add(row_of(keys, 0, size_t(d)));
    CHECK(same.relative().measured > 1e-3);
    CHECK(std::fabs(same.score_noise(all).measured) < 1e-12);
}

TEST_CASE("outliers: errors of keys and values in an attention output") {
    const std::vector<float> values = {1, 0, 0, 1};
    const QueryOutput even({0, 0}, 0, values);  // p = 1/2, 1/2
    CHECK(close(even.square(), 0.5));
    CHECK(close(even.key_error(std::vector<double>{std::log(3.0), 0}), 0.125));  // p = 3/4, 1/4
    const QueryOutput tilted({std::log(3.0), 0}, 0, values);  // p = 3/4, 1/4, then 9/10, 1/10
    CHECK(close(tilted.key_error(std::vector<double>{std::log(3.0), 0}), 2 * 0.15 * 0.15, 1e-9));
    CHECK(close(even.key_error(std::vector<double>{7, 7}), 0, 1e-9));  // common to all keys
    CHECK(close(even.value_error(std::vector<float>{1, 0, 1, 0}), 1));
    CHECK(close(even.value_error(std::vector<float>{1, 0, -1, 0}), 0));
    CHECK(close(even.expected_key_error(std::vector<double>{1, 1}), 0.25));
    CHECK(close(even.expected_value_error(std::vector<double>{1, 3}), 1));
    const QueryOutput sure({100, 0}, 0, values);  // one key has it all: noise on scores is nothing
    CHECK(sure.key_error(std::vector<double>{3, -3}) < 1e-30);
    const QueryOutput far({0, 1000}, 0, values), near({1000, 1000 + std::log(3.0)}, 0, values);
    CHECK(close(far.square(), 1));  // beyond what exp can give
    CHECK(close(near.square(), 10.0 / 16, 1e-9));
    const QueryOutput capped({100, 0}, 2, values);  // 2 tanh(50) = 2: p = e^2 / (e^2 + 1)
    const double p = std::exp(2.0) / (std::exp(2.0) + 1);
    CHECK(close(capped.square(), p * p + (1 - p) * (1 - p)));
    CHECK(capped.key_error(std::vector<double>{10, 0}) < 1e-30);  // beyond the cap
    CHECK(even.sink_share() == 0);
    const QueryOutput with_sink({0, 0}, 0, values, std::log(2.0));  // p = 1/4, 1/4, the sink 1/2
    CHECK(close(with_sink.sink_share(), 0.5));
    CHECK(close(with_sink.square(), 0.125));
    const double both = std::log(3.0);  // p = 3/8, 3/8: what all keys share is not nothing here
    CHECK(close(with_sink.key_error(std::vector<double>{both, both}), 2.0 / 64, 1e-9));
    CHECK(close(with_sink.value_error(std::vector<float>{1, 0, 1, 0}), 0.25));
    CHECK(close(with_sink.expected_key_error(std::vector<double>{1, 1}), 1.25 / 16));
}

TEST_CASE("outliers: small errors move outputs by what the law expects") {
    // The mean over draws of noise, within five standard errors; the second order is of the
    // noise's own size, 0.01.
    const size_t n = 12, d = 16;
    const std::vector<float> values = normal_vector(int64_t(n * d), 31);
    for (const auto& [softcap, sink] : {std::pair(0.0, -HUGE_VAL), {1.5, -HUGE_VAL}, {0.0, 2.0}}) {
        std::vector<double> scores, variance, square;
        for (const float s : normal_vector(int64_t(n), 32)) scores.push_back(double(s));
        for (size_t t = 0; t < n; ++t) {
            variance.push_back(1e-4 * double(1 + t % 3));
            square.push_back(1e-4 * double(d) * double(1 + t % 3));
        }
        const QueryOutput output(scores, softcap, values, sink);
        std::vector<double> keys, moved;
        for (uint64_t draw = 0; draw < 2000; ++draw) {
            std::vector<double> noise;
            for (const float z : normal_vector(int64_t(n), 100 + draw))
                noise.push_back(double(z) * std::sqrt(variance[noise.size()]));
            keys.push_back(output.key_error(noise));
            std::vector<float> errors = normal_vector(int64_t(n * d), 5000 + draw);
            for (size_t i = 0; i < errors.size(); ++i)
                errors[i] *= float(std::sqrt(variance[i / d]));
            moved.push_back(output.value_error(errors));
        }
        const Mean key = mean_of(keys), value = mean_of(moved);
        CHECK(std::fabs(key.value - output.expected_key_error(variance)) <=
              5 * key.error + 0.01 * key.value);
        CHECK(std::fabs(value.value - output.expected_value_error(square)) <= 5 * value.error);
    }
}

TEST_CASE("outliers: a gain over heads, its error, and the rule") {
    const std::vector<double> plain = {2, 4, 6}, half = {1, 2, 3}, mixed = {4, 2, 1};
    CHECK(close(log_gain(plain, half).value, std::log(2.0)));
    CHECK(log_gain(plain, half).error < 1e-12);  // every head says the same
    const double t[] = {std::log(10.0 / 3), std::log(8.0 / 5), std::log(6.0 / 6)};
    const double mean = (t[0] + t[1] + t[2]) / 3;
    double sum = 0;
    for (const double value : t) sum += (value - mean) * (value - mean);
    CHECK(close(log_gain(plain, mixed).error, std::sqrt(2.0 / 3 * sum)));
    CHECK(decisive_head(plain, mixed) == 0);  // 2 against 4: without it the gain grows most
    CHECK(decisive_head(std::vector<double>{1, 1, 9}, std::vector<double>{1, 1, 1}) == 2);
    CHECK(std::isnan(log_gain(std::vector<double>{1}, std::vector<double>{2}).error));

    CHECK(advise({0.5, 0.2}, {0.45, 0}) == Advice::rotate);
    CHECK(advise({0.5, 0.3}, {0.45, 0}) == Advice::indifferent);  // hangs on single heads
    CHECK(advise({0.5, 0.0}, {-0.1, 0}) == Advice::indifferent);  // the law says otherwise
    CHECK(advise({-0.5, 0.2}, {-0.3, 0}) == Advice::hurts);
    CHECK(advise({-0.5, NAN}, {-0.3, 0}) == Advice::hurts);  // one head: the law alone
}

TEST_CASE("outliers: errors that are not numbers are no small difference") {
    CHECK(!advise_without_gain(0.5, 0.25));
    CHECK(advise_without_gain(NAN, 0.25) == Advice::only_rotated);
    CHECK(advise_without_gain(HUGE_VAL, 0.25) == Advice::only_rotated);
    CHECK(advise_without_gain(0.5, -NAN) == Advice::only_plain);
    CHECK(advise_without_gain(NAN, NAN) == Advice::neither);
    const std::vector<double> none = {0, 0}, half = {1, NAN};
    CHECK(log_gain(none, none).value == 0);  // nothing lost either way
    CHECK(std::isnan(log_gain(half, none).value));
    CHECK(!std::signbit(log_gain(half, none).value));
    HeadStatistics statistics(64);
    std::vector<float> x = normal_vector(64, 1);
    statistics.add(x);
    x[40] = NAN;
    statistics.add(x);
    CHECK(statistics.figures().loudest == 40);
    for (const double figure : {statistics.figures().crest, statistics.figures().channel_ratio,
                                statistics.figures().norm}) {
        CHECK(std::isnan(figure));
        CHECK(!std::signbit(figure));
    }
}

TEST_CASE("outliers: the rule knows the sources of chapter 1") {
    // Heads of Gaussian rows with a loud channel: rotate. With an offset: not with q4_1.
    const int64_t d = 64;
    for (const auto& [offset, type, expected] :
         {std::tuple{false, DType::q4_0, Advice::rotate}, {true, DType::q4_1, Advice::hurts}}) {
        std::vector<double> measured[2], predicted[2];
        for (uint64_t head = 0; head < 4; ++head) {
            std::vector<float> x = normal_vector(d * 300, 20 + head);
            for (size_t i = 0; i < x.size(); ++i)
                x[i] += offset ? 4.0f : i % size_t(d) == 5 ? 12.0f : 0.0f;
            for (const int on : {0, 1}) {
                const Rotation::Kind kind =
                    on == 1 ? Rotation::Kind::sylvester : Rotation::Kind::none;
                const ErrorPair e = errors_of(type, x, d, {kind, d, 0, 0});
                measured[on].push_back(e.measured);
                predicted[on].push_back(e.predicted);
            }
        }
        CHECK(advise(log_gain(measured[0], measured[1]), log_gain(predicted[0], predicted[1])) ==
              expected);
    }
}

TEST_CASE("capture: keys and values are shown as they come, and stored all the same") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const std::vector<float> k = normal_vector(2 * 8, 1), v = normal_vector(2 * 4, 2);
    const Buffer k_rows = upload(*ref, k), v_rows = upload(*ref, v);
    const Buffer streams = upload(*ref, std::vector<int32_t>{0, 0});
    const Buffer cells = upload(*ref, std::vector<int32_t>{0, 1});
    const Buffer k_cache(*ref, k.size() * sizeof(float)), v_cache(*ref, v.size() * sizeof(float));
    KvStoreArgs args{.k_cache = k_cache.view(DType::f32, {1, 2, 1, 8}),
                     .v_cache = v_cache.view(DType::f32, {1, 2, 1, 4}),
                     .k = k_rows.view(DType::f32, {2, 1, 8}),
                     .v = v_rows.view(DType::f32, {2, 1, 4}),
                     .stream = streams.view(DType::i32, {2}),
                     .cell = cells.view(DType::i32, {2}),
                     .k_rotation = {Rotation::Kind::sylvester, 8, 0, 0}};
    using What = tools::CapturedRows::What;
    std::vector<std::pair<What, std::vector<float>>> shown;
    const Observer observer = tools::capture([&](const tools::CapturedRows& rows) {
        CHECK(rows.layer == 3);
        CHECK(rows.attention == nullptr);
        shown.emplace_back(rows.what, download_f32(*ref, rows.rows));
    });
    observer(3, args, *ref);
    CHECK(shown == std::vector<std::pair<What, std::vector<float>>>{{What::k, k}, {What::v, v}});
    CHECK(download_f32(*ref, args.v_cache) == v);
    CHECK(download_f32(*ref, args.k_cache) != k);  // rotated on its way, after it was shown
}

TEST_CASE("capture: queries are shown once, so that attention in parts is refused") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const Buffer memory(*ref, 4 * sizeof(float));
    AttentionArgs args;
    args.q = args.dst = memory.view(DType::f32, {0, 1, 4});  // no tokens: nothing to compute
    args.k_cache = args.v_cache = memory.view(DType::f32, {0, 0, 1, 4});
    args.position = memory.view(DType::i32, {0, 0});
    args.used = args.q_stream = args.q_position = memory.view(DType::i32, {0});
    int64_t shown = 0;
    const Observer observer = tools::capture([&](const tools::CapturedRows&) { ++shown; });
    observer(0, args, *ref);
    CHECK(shown == 1);
    args.bounds.distance.to = 2;
    CHECK_THROWS_AS(observer(0, args, *ref), Error);
}
