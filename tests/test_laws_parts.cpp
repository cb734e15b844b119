// The laws of attention in parts: what cells that are shared out among calls give, merged by the
// logs of their sums, is what one call gives. On the reference and on every backend that is built,
// within bounds that follow from the number of roundings.
#include "tests/laws_attention.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

/// The first tokens, the recent ones, the rest.
std::vector<CellBounds> three_parts(int64_t first, int64_t recent) {
    std::vector<CellBounds> parts(3);
    parts[0].position.to = first;
    parts[1].position.from = parts[2].position.from = first;
    parts[1].distance.to = parts[2].distance.from = recent;
    return parts;
}

/// The backends that can tell parts; those that cannot say why.
std::vector<std::unique_ptr<Backend>> backends_with_parts() {
    std::vector<std::unique_ptr<Backend>> result;
    for (std::unique_ptr<Backend>& backend : all_backends()) {
        AttentionArgs args;
        args.bounds.position.to = 1;
        const Support support = backend->supports(args);
        if (!support.yes) WARN(backend->name() << ": " << support.reason);
        if (support.yes) result.push_back(std::move(backend));
    }
    return result;
}

/// What one call gave, or several merged: rows and their lse.
struct Sums {
    std::vector<float> out, lse;
};

Sums sums_of(Backend& backend, const CachedAttention& c) {
    Sums sums;
    sums.out = c.run(backend, &sums.lse);
    return sums;
}

/// All parts, one after the other merged into the first, where it lies.
Sums merged(Backend& backend, const std::vector<Sums>& parts, const CachedAttention& c) {
    const int64_t tokens = int64_t(c.q_streams.size());
    std::vector<Buffer> rows, logs;
    for (const Sums& part : parts) {
        rows.push_back(upload(backend, part.out));
        logs.push_back(upload(backend, part.lse));
    }
    const auto out = [&](size_t i) { return rows[i].view(DType::f32, {tokens, c.heads, c.d_v}); };
    const auto lse = [&](size_t i) { return logs[i].view(DType::f32, {tokens, c.heads}); };
    for (size_t i = 1; i < parts.size(); ++i) {
        backend.run(MergeArgs{.dst = out(0),
                              .lse = lse(0),
                              .a = out(0),
                              .b = out(i),
                              .lse_a = lse(0),
                              .lse_b = lse(i)});
    }
    return {download_f32(backend, out(0)), download_f32(backend, lse(0))};
}

/// The largest |a - b|, as a multiple of its bound; equal infinities are not apart.
template <class A, class B>
double times_bound_each(const std::vector<A>& a, const std::vector<B>& b,
                        const std::vector<double>& bounds) {
    double largest = 0;
    for (size_t i = 0; i < bounds.size(); ++i) {
        if (double(a[i]) == double(b[i])) continue;
        const double apart = std::fabs(double(a[i]) - double(b[i])) / bounds[i];
        largest = std::isnan(apart) ? INFINITY : std::max(largest, apart);
    }
    return largest;
}

/// What two merges add, in u: each moves a row by 13 of its length, and lse by 8 beside the
/// rounding of lse itself (ref/cases/case_rows.cpp).
constexpr double k_rows_merged = 2 * 13 * k_unit, k_lse_merged = 2 * 8 * k_unit;

/// How far the merged rows of parts can be from those of one call: the rounding of both and of the
/// merges, and that of the weights, which are off by two lse each in each merge, times the longest
/// value.
std::vector<double> merged_rounding(const std::vector<CachedAttention>& parts,
                                    const CachedAttention& whole, const CachedAttention& plain,
                                    const Backend& backend) {
    std::vector<double> bounds = attention_rounding(whole, plain, backend);
    std::vector<double> shares(bounds.size(), 0.0), weights(bounds.size(), 0.0);
    for (const CachedAttention& part : parts) {
        const std::vector<double> of_rows = attention_rounding(part, plain, backend);
        const std::vector<double> of_lse = lse_rounding(part, plain, backend);
        for (size_t row = 0; row < bounds.size(); ++row) {
            shares[row] = std::max(shares[row], of_rows[row]);
            weights[row] = std::max(weights[row], of_lse[row]);
        }
    }
    const double longest = largest_norm(plain.v, plain.d_v);
    for (size_t row = 0; row < bounds.size(); ++row)
        bounds[row] += shares[row] + (4 * weights[row] + k_lse_merged + k_rows_merged) * longest;
    return bounds;
}

}  // namespace

TEST_CASE("law: lse is the log of what softmax divides by, in every part of the cells") {
    // log(exp(sink) + sum exp(s)), -inf for an empty sum.
    for (const std::unique_ptr<Backend>& backend : backends_with_parts()) {
        for (CachedAttention c : mixed_cases()) {
            std::vector<CellBounds> bounds = three_parts(4, 8);
            bounds.push_back({});
            for (const CellBounds& part : bounds) {
                c.bounds = part;
                const CachedAttention plain = as_stored(c);
                std::vector<double> lse;
                dense_attention(plain, &lse);
                INFO(words(*backend, c));
                CHECK(times_bound_each(sums_of(*backend, c).lse, lse,
                                       lse_rounding(c, plain, *backend)) <= 1);
            }
        }
    }
}

TEST_CASE("law: three parts of the cells, merged by their lse, are the whole") {
    // The first tokens, the recent ones, the rest; a sink belongs to one of them, whichever.
    // Milakov and Gimelshein 2018 (online softmax); Ye et al. 2024 (states of FlashInfer).
    for (const std::unique_ptr<Backend>& backend : backends_with_parts()) {
        for (const CachedAttention& c : mixed_cases()) {
            const CachedAttention plain = as_stored(c);
            const Sums whole = sums_of(*backend, c);
            const std::vector<double> rounding = merged_rounding({c}, c, plain, *backend);
            std::vector<double> of_lse = lse_rounding(c, plain, *backend);
            for (double& bound : of_lse) bound = 2 * bound + k_lse_merged;
            for (const auto& [first, recent] :
                 {std::pair{0, 0}, {4, 8}, {1, 1}, {23, 1}, {0, 5}, {2, 500}}) {
                for (size_t owner = 0; owner < (c.sinks.empty() ? 1 : 3); ++owner) {
                    std::vector<Sums> sums;
                    for (size_t i = 0; i < 3; ++i) {
                        CachedAttention part = c;
                        part.bounds = three_parts(first, recent)[i];
                        if (i != owner) part.sinks.clear();
                        sums.push_back(sums_of(*backend, part));
                    }
                    const Sums found = merged(*backend, sums, c);
                    INFO(words(*backend, c) << ", " << first << " first, " << recent
                                            << " recent, a sink in part " << owner);
                    CHECK(times_bound(whole.out, found.out, rounding) <= 1);
                    CHECK(times_bound_each(whole.lse, found.lse, of_lse) <= 1);
                }
            }
        }
    }
}

TEST_CASE("law: parts rotated differently, each in a cache of its own, are the whole unrotated") {
    // Rows come back from their rotation before they are merged: R_i^T sum p (R_i v) = sum p v.
    const char* specs[] = {"k=none v=none", "k=64 v=32:5", "k=32:4 v=none"};
    std::vector<CachedAttention> cases(3, case_of(DType::f32, DType::f32, specs[0], 61));
    cases[1].sinks = normal_vector(cases[1].heads, 62, 2.0);
    cases[2] = long_case();
    cases[2].type_k = cases[2].type_v = DType::f32;
    cases[2].spec = spec_of(specs[0]);
    for (const std::unique_ptr<Backend>& backend : backends_with_parts()) {
        for (const CachedAttention& c : cases) {
            std::vector<CachedAttention> parts(3, c);
            std::vector<Sums> sums;
            for (size_t i = 0; i < 3; ++i) {
                parts[i].spec = spec_of(specs[i]);
                parts[i].bounds = three_parts(4, 8)[i];
                if (i > 0) parts[i].sinks.clear();
                sums.push_back(sums_of(*backend, parts[i]));
            }
            INFO(words(*backend, c) << ", " << c.cells << " cells");
            CHECK(times_bound(c.run(*backend), merged(*backend, sums, c).out,
                              merged_rounding(parts, c, c, *backend)) <= 1);
        }
    }
}

TEST_CASE("law: two halves of a cache, merged by their sums, are the whole") {
    // With Z = sum exp(s): o = (Z_a o_a + Z_b o_b) / (Z_a + Z_b). A sink belongs to one half.
    // Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022.
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const CachedAttention& c : mixed_cases()) {
            const CachedAttention plain = as_stored(c);
            const std::vector<double> bounds = attention_rounding(c, plain, *backend);
            const int32_t end = c.positions.back() + 1;
            for (const int32_t cut : {1, 9, end / 2, end - 1}) {
                std::vector<float> part[2];
                for (int half = 0; half < 2; ++half) {
                    CachedAttention only = c;
                    if (half == 1) only.sinks.clear();
                    KvCache cache(*backend, c.shape(), c.spec);
                    c.store(*backend, cache);
                    for (int32_t stream = 0; stream < cache.shape().streams; ++stream)
                        cache.remove(stream, half == 0 ? cut : 0, half == 0 ? end : cut);
                    part[half] = only.attend(*backend, cache);
                }
                std::vector<double> merged;
                for (size_t row = 0; row < part[0].size() / size_t(c.d_v); ++row) {
                    const int64_t h = int64_t(row) % c.heads;
                    std::vector<double> s[2] = {scores(plain, row / size_t(c.heads), h), {}};
                    s[1] = s[0];
                    for (size_t t = 0; t < s[0].size(); ++t)
                        s[c.positions[t] < cut ? 1 : 0][t] = -INFINITY;
                    if (!c.sinks.empty()) s[0].push_back(double(c.sinks[size_t(h)]));
                    const double share = 1 / (1 + std::exp(log_sum_exp(s[1]) - log_sum_exp(s[0])));
                    for (size_t j = row * size_t(c.d_v); j < (row + 1) * size_t(c.d_v); ++j)
                        merged.push_back(share * double(part[0][j]) +
                                         (1 - share) * double(part[1][j]));
                }
                INFO(words(*backend, c) << ", cut at " << cut);
                // The whole, the halves (each part of the bound is a mean over cells), the sums.
                CHECK(times_bound(c.run(*backend), merged, bounds) <= 3);
            }
        }
    }
}

TEST_CASE("law: a part that is not a number makes the whole none, whichever comes first") {
    // Where nothing took part, lse is -inf; that beside a NaN is not nothing.
    for (const std::unique_ptr<Backend>& backend : backends_with_parts()) {
        for (const bool is_first : {false, true}) {
            const Sums none{{0, 0}, {-INFINITY}}, broken{{NAN, 1}, {NAN}};
            CachedAttention c;
            c.heads = 1;
            c.d_v = 2;
            c.q_streams = {0};
            const Sums whole = is_first ? merged(*backend, {broken, none}, c)
                                        : merged(*backend, {none, broken}, c);
            INFO(backend->name() << (is_first ? ", first" : ", second"));
            CHECK(std::isnan(whole.lse[0]));
            CHECK(std::isnan(whole.out[0]));
            CHECK(std::isnan(whole.out[1]));
        }
    }
}

TEST_CASE("law: cells whose scores are -inf are as if they were not there, alone too") {
    CachedAttention c;
    c.fill(1, 6, 8);
    for (size_t i = 3; i < c.q.size(); i += 64) c.q[i] = 1;
    for (size_t i = 3; i < 3 * 2 * 64; i += 64) c.k[i] = -INFINITY;  // of the first three tokens
    for (const std::unique_ptr<Backend>& backend : backends_with_parts()) {
        INFO(backend->name());
        std::vector<float> lse, rest_lse;
        CachedAttention rest = c;
        rest.bounds.position.from = 3;
        const std::vector<float> out = c.run(*backend, &lse);
        const std::vector<float> of_rest = rest.run(*backend, &rest_lse);
        for (size_t i = 0; i < out.size(); ++i) {
            INFO("output " << i);
            REQUIRE(std::fabs(out[i] - of_rest[i]) <= 1e-5f * (1 + std::fabs(of_rest[i])));
        }
        for (size_t i = 0; i < lse.size(); ++i) {
            INFO("lse " << i);
            REQUIRE((lse[i] == rest_lse[i] || std::fabs(lse[i] - rest_lse[i]) <= 1e-5f));
        }
    }
}
