#include "tools/compare/explain.h"

#include "ref/error.h"
#include "ref/measure/query_output.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

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

// How the output moves with the temperature: do / d ln beta.
Vector temperature_direction(const QueryOutput& exact, std::span<const float> values) {
    const Vector &s = exact.scores(), &p = exact.p();
    Vector move;  // d capped(beta s) / d ln beta, less its mean
    for (std::size_t c = 0; c < s.size(); ++c) move.push_back(exact.slope(c) * s[c]);
    const double mean = dot(p, move);
    for (std::size_t c = 0; c < p.size(); ++c) move[c] = p[c] * (move[c] - mean);
    return weighted_sum(move, values);
}

// The share of |e|^2 that lies along g where scores have independent noise of equal variance: each
// cell then moves the output by p_c w_c (v_c - o) times its own noise.
double share_by_chance(const QueryOutput& exact, std::span<const float> values, const Vector& g) {
    const Vector& o = exact.output();
    double along = 0, all = 0;
    for (std::size_t c = 0; c < exact.p().size(); ++c) {
        const double weight = exact.p()[c] * exact.slope(c);
        Vector u;
        for (std::size_t j = 0; j < o.size(); ++j) {
            u.push_back(weight * (double(values[c * o.size() + j]) - o[j]));
        }
        along += std::pow(dot(u, g), 2);
        all += square(u);
    }
    return all == 0 || square(g) == 0 ? 0 : along / square(g) / all;
}

void add_score_moments(OutputErrors& errors, const Vector& p, const Vector& s,
                       const Vector& stored) {
    const double all = std::accumulate(p.begin(), p.end(), 0.0);
    const double mean = dot(p, s) / all, stored_mean = dot(p, stored) / all;
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
    const QueryOutput exact(query_scores(query.q, query.k, query.scale), query.softcap, query.v,
                            query.sink);
    const Vector stored_s = query_scores(query.q, query.stored_k, query.scale);
    const Vector stored_p = exact.probabilities(stored_s);
    const Vector& o = exact.output();
    const Vector o_k = weighted_sum(stored_p, query.v);
    const Vector o_v = weighted_sum(exact.p(), query.stored_v);
    const Vector o_kv = weighted_sum(stored_p, query.stored_v);
    const Vector e = difference(o_k, o), g = temperature_direction(exact, query.v);

    OutputErrors errors;
    errors.queries = 1;
    errors.output = square(o);
    errors.both = square(difference(o_kv, o));
    errors.keys = square(e);
    errors.values = square(difference(o_v, o));
    errors.along = dot(e, g);
    errors.turning = square(g);
    errors.own = errors.temperature();
    errors.own_by_chance = errors.keys * share_by_chance(exact, query.v, g);
    add_score_moments(errors, exact.p(), exact.scores(), stored_s);
    return errors;
}

}  // namespace rotkv::tools
