#include "tools/compare/explain.h"

#include "ref/error.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace rotkv::tools {

namespace {

using Vector = std::vector<double>;

double dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
}

Vector difference(const Vector& a, const Vector& b) {
    Vector result;
    for (std::size_t i = 0; i < a.size(); ++i) result.push_back(a[i] - b[i]);
    return result;
}

double square(const Vector& x) { return dot(x, x); }

// scale q.k of every cell, before the softcap.
Vector scores(const ObservedQuery& query, std::span<const float> keys) {
    const std::size_t d = query.q.size();
    Vector result;
    for (std::size_t at = 0; at < keys.size(); at += d) {
        double sum = 0;
        for (std::size_t j = 0; j < d; ++j) sum += double(query.q[j]) * double(keys[at + j]);
        result.push_back(query.scale * sum);
    }
    return result;
}

double capped(double score, double softcap) {
    return softcap > 0 ? softcap * std::tanh(score / softcap) : score;
}

// d capped(s) / d s
double cap_slope(double score, double softcap) {
    if (softcap <= 0) return 1;
    const double part = std::tanh(score / softcap);
    return 1 - part * part;
}

Vector softmax(Vector s, double softcap) {
    for (double& score : s) score = capped(score, softcap);
    const double largest = *std::max_element(s.begin(), s.end());
    double sum = 0;
    for (double& score : s) sum += score = std::exp(score - largest);
    for (double& score : s) score /= sum;
    return s;
}

// sum_c weight_c v_c
Vector mix(const Vector& weight, std::span<const float> values) {
    const std::size_t d = values.size() / weight.size();
    Vector result(d, 0.0);
    for (std::size_t c = 0; c < weight.size(); ++c) {
        for (std::size_t j = 0; j < d; ++j) result[j] += weight[c] * double(values[c * d + j]);
    }
    return result;
}

// How the output moves with the temperature: do / d ln beta.
Vector temperature_direction(const ObservedQuery& query, const Vector& s, const Vector& p) {
    Vector move;  // d capped(beta s) / d ln beta, less its mean
    for (const double score : s) move.push_back(cap_slope(score, query.softcap) * score);
    const double mean = dot(p, move);
    for (std::size_t c = 0; c < p.size(); ++c) move[c] = p[c] * (move[c] - mean);
    return mix(move, query.v);
}

// The share of |e|^2 that lies along g where scores have independent noise of equal variance: each
// cell then moves the output by p_c w_c (v_c - o) times its own noise.
double share_by_chance(const ObservedQuery& query, const Vector& s, const Vector& p,
                       const Vector& o, const Vector& g) {
    double along = 0, all = 0;
    for (std::size_t c = 0; c < p.size(); ++c) {
        const double weight = p[c] * cap_slope(s[c], query.softcap);
        Vector u;
        for (std::size_t j = 0; j < o.size(); ++j) {
            u.push_back(weight * (double(query.v[c * o.size() + j]) - o[j]));
        }
        along += std::pow(dot(u, g), 2);
        all += square(u);
    }
    return all > 0 && square(g) > 0 ? along / square(g) / all : 0;
}

void add_score_moments(OutputErrors& errors, const Vector& p, const Vector& s,
                       const Vector& stored) {
    const double mean = dot(p, s), stored_mean = dot(p, stored);
    for (std::size_t c = 0; c < p.size(); ++c) {
        errors.covariance += p[c] * (s[c] - mean) * (stored[c] - stored_mean);
        errors.score_variance += p[c] * (s[c] - mean) * (s[c] - mean);
    }
}

void check_rows(const ObservedQuery& query) {
    const bool cells = !query.q.empty() && !query.k.empty() && query.k.size() % query.q.size() == 0;
    require(cells && query.stored_k.size() == query.k.size() && !query.v.empty() &&
                query.v.size() % (query.k.size() / query.q.size()) == 0 &&
                query.stored_v.size() == query.v.size(),
            ErrorCode::bad_argument,
            "explain: expected as many keys as values, and as many stored as exact");
}

}  // namespace

void OutputErrors::add(const OutputErrors& other) {
    queries += other.queries;
    output += other.output;
    both += other.both;
    keys += other.keys;
    values += other.values;
    along += other.along;
    turning += other.turning;
    own += other.own;
    own_by_chance += other.own_by_chance;
    covariance += other.covariance;
    score_variance += other.score_variance;
}

OutputErrors split_output_error(const ObservedQuery& query) {
    check_rows(query);
    const Vector s = scores(query, query.k), stored_s = scores(query, query.stored_k);
    const Vector p = softmax(s, query.softcap), stored_p = softmax(stored_s, query.softcap);
    const Vector o = mix(p, query.v);
    const Vector o_k = mix(stored_p, query.v), o_v = mix(p, query.stored_v);
    const Vector o_kv = mix(stored_p, query.stored_v);
    const Vector e = difference(o_k, o), g = temperature_direction(query, s, p);

    OutputErrors errors;
    errors.queries = 1;
    errors.output = square(o);
    errors.both = square(difference(o_kv, o));
    errors.keys = square(e);
    errors.values = square(difference(o_v, o));
    errors.along = dot(e, g);
    errors.turning = square(g);
    errors.own = errors.temperature();
    errors.own_by_chance = errors.keys * share_by_chance(query, s, p, o, g);
    add_score_moments(errors, p, s, stored_s);
    return errors;
}

}  // namespace rotkv::tools
