#pragma once
// What the laws of attention share: the case that a cache stands for, scores and probabilities in
// f64, how far rounding carries, and caches of many kinds.
// Docs: docs/09-proof.md

#include "ref/hadamard.h"
#include "ref/quant.h"
#include "tests/laws.h"
#include "tests/rotation_of.h"

namespace rotkv::test {

/// The case that a quantized, rotated cache stands for: plain f32 with R^T Q(R k) for k and v.
inline CachedAttention as_stored(const CachedAttention& c) {
    CachedAttention plain = c;
    plain.type_k = plain.type_v = DType::f32;
    plain.spec = RotationSpec();
    const auto through = [&](std::vector<float>& x, int64_t d, DType type, Side side) {
        const Rotation rotation = c.spec.at(0, side);
        std::vector<std::byte> bytes(size_t(row_bytes(type, d)));
        for (float* row = x.data(); row < x.data() + x.size(); row += d) {
            ref::hadamard_row(row, row, d, rotation, false);
            ref::quantize_row(type, bytes.data(), row, d);
            ref::dequantize_row(type, row, bytes.data(), d);
            ref::hadamard_row(row, row, d, rotation, true);
        }
    };
    through(plain.k, c.d_k, c.type_k, Side::k);
    through(plain.v, c.d_v, c.type_v, Side::v);
    return plain;
}

/// Scores of every stored token for query i and head h, in f64; -inf where it is not visible.
inline std::vector<double> scores(const CachedAttention& c, size_t i, int64_t h) {
    const int64_t kv = h / (c.heads / c.kv_heads);
    const float* q = c.q.data() + (int64_t(i) * c.heads + h) * c.d_k;
    std::vector<double> result(c.streams.size(), -INFINITY);
    for (size_t t = 0; t < c.streams.size(); ++t) {
        const int64_t distance = int64_t(c.q_positions[i]) - c.positions[t];
        if (c.streams[t] != c.q_streams[i] || distance < 0) continue;
        const float* k = c.k.data() + (int64_t(t) * c.kv_heads + kv) * c.d_k;
        double s = 0;
        for (int64_t j = 0; j < c.d_k; ++j) s += double(q[j]) * double(k[j]);
        s *= double(c.scale);
        result[t] = c.softcap > 0 ? double(c.softcap) * std::tanh(s / double(c.softcap)) : s;
    }
    return result;
}

/// log sum exp; -inf for nothing.
inline double log_sum_exp(const std::vector<double>& x) {
    const double largest = *std::max_element(x.begin(), x.end());
    if (largest == -INFINITY) return largest;
    double sum = 0;
    for (const double value : x) sum += std::exp(value - largest);
    return largest + std::log(sum);
}

/// What the stored tokens get of query i and head h, the sink's share left out.
inline std::vector<double> probabilities(const CachedAttention& c, size_t i, int64_t h) {
    std::vector<double> p = scores(c, i, h), all = p;
    if (!c.sinks.empty()) all.push_back(double(c.sinks[size_t(h)]));
    const double sum = log_sum_exp(all);
    for (double& x : p) x = std::exp(x - sum);
    return p;
}

/// What rounding does to attention over a cache of c, relative to what is rounded: to a score (a
/// rounding for each term of its sum, 4 for scale and softcap, and those of rotating q and k), to
/// the sums of softmax (exp and division: 8, each cell: rescaling twice, its product and sum), to a
/// value (those, and rotating v and the row). The reference sums in f64 and rounds once.
struct AttentionRounding {
    double score, sums, value;

    AttentionRounding(const CachedAttention& c, const Backend& backend) {
        const bool f64 = backend.name() == "ref";
        const auto rotating = [&](Side side) {
            const Rotation rotation = c.spec.at(0, side);
            return rotation.on() ? 2 * hadamard_rounding(rotation.block) : 0;
        };
        score = (f64 ? 0 : double(c.d_k + 4) * k_unit) + rotating(Side::k);
        sums = (f64 ? 1 : double(8 + 4 * c.cells)) * k_unit;
        value = sums + rotating(Side::v);
    }
};

/// How far rounding can move each output row of attention over a cache of c, |o| being the length
/// of a row; `plain` is what the cache stands for. A score is off by ds, in proportion to
/// scale |q| |k|, so that the row is off by sum p ds |v| + sum p ds max |v|; and by sum p |v| times
/// the rest.
inline std::vector<double> attention_rounding(const CachedAttention& c,
                                              const CachedAttention& plain,
                                              const Backend& backend) {
    const AttentionRounding of(c, backend);
    std::vector<double> bounds;
    for (size_t row = 0; row < c.q_streams.size() * size_t(c.heads); ++row) {
        const int64_t h = int64_t(row) % c.heads;
        const float* q = &plain.q[row * size_t(c.d_k)];
        const std::vector<double> p = probabilities(plain, row / size_t(c.heads), h);
        double value = 0, score = 0, both = 0, longest = 0;
        for (size_t t = 0; t < p.size(); ++t) {
            const size_t kv = t * size_t(c.kv_heads) + size_t(h / (c.heads / c.kv_heads));
            const float* k = &plain.k[kv * size_t(c.d_k)];
            const float* v = c.v_in_k ? k + c.v_first : &plain.v[kv * size_t(c.d_v)];
            const double ds = double(c.scale) * norm(q, size_t(c.d_k)) * norm(k, size_t(c.d_k));
            const double length = norm(v, size_t(c.d_v));
            value += p[t] * length;
            score += p[t] * ds * of.score;
            both += p[t] * ds * of.score * length;
            if (p[t] > 0) longest = std::max(longest, length);
        }
        bounds.push_back(both + score * longest + value * of.value);
    }
    return bounds;
}

/// How far rounding can move each row's lse, whatever part of the cells it is about: as far as a
/// score, and as the sum relative to itself; and by rounding the log and lse, each of which lies
/// within a score, a sink and log C of 0, once.
inline std::vector<double> lse_rounding(const CachedAttention& c, const CachedAttention& plain,
                                        const Backend& backend) {
    const AttentionRounding of(c, backend);
    std::vector<double> bounds;
    for (size_t row = 0; row < c.q_streams.size() * size_t(c.heads); ++row) {
        const double score = double(c.scale) * norm(&plain.q[row * size_t(c.d_k)], size_t(c.d_k)) *
                             largest_norm(plain.k, c.d_k);
        const double sink = c.sinks.empty() ? 0 : std::fabs(double(c.sinks[row % size_t(c.heads)]));
        bounds.push_back(of.score * score + of.sums +
                         2 * k_unit * (score + sink + std::log(double(c.cells))));
    }
    return bounds;
}

/// The largest |a - b| of a row, as a multiple of its bound.
template <class A, class B>
inline double times_bound(const std::vector<A>& a, const std::vector<B>& b,
                          const std::vector<double>& bounds) {
    const size_t d = a.size() / bounds.size();
    double largest = 0;
    for (size_t row = 0; row < bounds.size(); ++row) {
        const std::vector<A> x(a.begin() + ptrdiff_t(row * d), a.begin() + ptrdiff_t(row * d + d));
        const std::vector<B> y(b.begin() + ptrdiff_t(row * d), b.begin() + ptrdiff_t(row * d + d));
        largest = std::max(largest, farthest(x, y, int64_t(d)) / bounds[row]);
    }
    return largest;
}

/// Two streams of 24 tokens in 32 cells, more query heads than KV heads.
inline CachedAttention case_of(DType type_k, DType type_v, const char* spec, uint64_t seed) {
    CachedAttention c;
    c.cells = 32;
    c.type_k = type_k;
    c.type_v = type_v;
    c.spec = spec_of(spec);
    c.fill(2, 24, seed);
    return c;
}

/// One token's queries over many cells, which a backend may share out among its threads.
inline CachedAttention long_case() {
    CachedAttention c = case_of(DType::q8_0, DType::q5_0, "k=64 v=64", 36);
    c.kv_heads = 1;
    c.cells = 500;
    c.fill(1, 420, 37);
    c.q_streams = {0};
    c.q_positions = {419};
    c.q.resize(size_t(c.heads * c.d_k));
    return c;
}

inline std::vector<CachedAttention> mixed_cases() {
    std::vector<CachedAttention> cases = {case_of(DType::f32, DType::f32, "k=none v=none", 31),
                                          case_of(DType::q8_0, DType::q4_0, "k=64 v=32:5", 32),
                                          case_of(DType::q5_1, DType::f16, "k=64:4 v=none", 33),
                                          case_of(DType::iq4_nl, DType::q4_1, "k=32 v=64", 34),
                                          long_case()};
    cases[2].softcap = 20;
    cases[3].sinks = normal_vector(cases[3].heads, 35, 2.0);
    return cases;
}

inline std::string words(const Backend& backend, const CachedAttention& c) {
    return backend.name() + " " + type_info(c.type_k).name + " " + type_info(c.type_v).name + " " +
           words_of(c.spec);
}

}  // namespace rotkv::test
