// The laws of attention over a cache, each with its formula and where it comes from: what holds
// whatever the code looks like. Checked on the reference and on every backend that is built, within
// bounds that follow from the number of roundings.
#include "ref/hadamard.h"
#include "ref/quant.h"
#include "tests/laws.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

/// The case that a quantized, rotated cache stands for: plain f32 with R^T Q(R k) for k and v.
AttentionCase as_stored(const AttentionCase& c) {
    AttentionCase plain = c;
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
std::vector<double> scores(const AttentionCase& c, size_t i, int64_t h) {
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
double log_sum_exp(const std::vector<double>& x) {
    const double largest = *std::max_element(x.begin(), x.end());
    if (largest == -INFINITY) return largest;
    double sum = 0;
    for (const double value : x) sum += std::exp(value - largest);
    return largest + std::log(sum);
}

/// What the stored tokens get of query i and head h, the sink's share left out.
std::vector<double> probabilities(const AttentionCase& c, size_t i, int64_t h) {
    std::vector<double> p = scores(c, i, h), all = p;
    if (!c.sinks.empty()) all.push_back(double(c.sinks[size_t(h)]));
    const double sum = log_sum_exp(all);
    for (double& x : p) x = std::exp(x - sum);
    return p;
}

/// How far rounding can move each output row of attention over a cache of c, |o| being the length
/// of a row; `plain` is what the cache stands for. A score is off by ds = scale |q| |k| (a rounding
/// for each term of its sum, 4 for scale and softcap, and those of rotating q and k), so that the
/// row is off by sum p ds |v| + sum p ds max |v|; and by sum p |v| times (exp and division: 8,
/// each cell: rescaling twice, its product and sum, and those of rotating v and the row). The
/// reference sums in f64 and rounds once.
std::vector<double> attention_rounding(const AttentionCase& c, const AttentionCase& plain,
                                       const Backend& backend) {
    const bool f64 = backend.name() == "ref";
    const auto rotating = [&](Side side) {
        const Rotation rotation = c.spec.at(0, side);
        return rotation.on() ? 2 * hadamard_rounding(rotation.block) : 0;
    };
    const double of_score = (f64 ? 0 : double(c.d_k + 4) * k_unit) + rotating(Side::k);
    const double of_value = (f64 ? 1 : double(8 + 4 * c.cells)) * k_unit + rotating(Side::v);
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
            score += p[t] * ds * of_score;
            both += p[t] * ds * of_score * length;
            if (p[t] > 0) longest = std::max(longest, length);
        }
        bounds.push_back(both + score * longest + value * of_value);
    }
    return bounds;
}

/// The largest |a - b| of a row, as a multiple of its bound.
template <class A, class B>
double times_bound(const std::vector<A>& a, const std::vector<B>& b,
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

/// Every stream's cells in another order, the empty ones among them.
void permute_cells(KvCache& cache, Random& random) {
    const KvShape& shape = cache.shape();
    const size_t cells = size_t(shape.cells);
    std::vector<int32_t> positions(cache.host_positions().begin(), cache.host_positions().end());
    for (int64_t stream = 0; stream < shape.streams; ++stream) {
        std::vector<size_t> from(cells);
        for (size_t c = 0; c < cells; ++c) {
            from[c] = c;
            std::swap(from[c], from[size_t(random.below(int64_t(c) + 1))]);
        }
        const int32_t* strip = cache.host_positions().data() + stream * shape.cells;
        for (size_t c = 0; c < cells; ++c) positions[size_t(stream) * cells + c] = strip[from[c]];
        for (const Side side : {Side::k, Side::v}) {
            const KvLayer& layer = shape.layers[0];
            const int64_t row = side == Side::k ? row_bytes(layer.type_k, layer.d_k)
                                                : row_bytes(layer.type_v, layer.d_v);
            const size_t cell_bytes = size_t(layer.kv_heads * row);
            std::vector<std::byte> before(cells * cell_bytes), after(before.size());
            cache.read_cells(0, stream, side, before);
            for (size_t c = 0; c < cells; ++c)
                std::memcpy(&after[c * cell_bytes], &before[from[c] * cell_bytes], cell_bytes);
            cache.write_cells(0, stream, side, after);
        }
    }
    cache.set_positions(positions);
}

/// Two streams of 24 tokens in 32 cells, more query heads than KV heads.
AttentionCase case_of(DType type_k, DType type_v, const char* spec, uint64_t seed) {
    AttentionCase c;
    c.cells = 32;
    c.type_k = type_k;
    c.type_v = type_v;
    c.spec = spec_of(spec);
    c.fill(2, 24, seed);
    return c;
}

/// One token's queries over many cells, which a backend may share out among its threads.
AttentionCase long_case() {
    AttentionCase c = case_of(DType::q8_0, DType::q5_0, "k=64 v=64", 36);
    c.kv_heads = 1;
    c.cells = 500;
    c.fill(1, 420, 37);
    c.q_streams = {0};
    c.q_positions = {419};
    c.q.resize(size_t(c.heads * c.d_k));
    return c;
}

std::vector<AttentionCase> mixed_cases() {
    std::vector<AttentionCase> cases = {case_of(DType::f32, DType::f32, "k=none v=none", 31),
                                        case_of(DType::q8_0, DType::q4_0, "k=64 v=32:5", 32),
                                        case_of(DType::q5_1, DType::f16, "k=64:4 v=none", 33),
                                        case_of(DType::iq4_nl, DType::q4_1, "k=32 v=64", 34),
                                        long_case()};
    cases[2].softcap = 20;
    cases[3].sinks = normal_vector(cases[3].heads, 35, 2.0);
    return cases;
}

std::string words(const Backend& backend, const AttentionCase& c) {
    return backend.name() + " " + type_info(c.type_k).name + " " + type_info(c.type_v).name + " " +
           words_of(c.spec);
}

}  // namespace

TEST_CASE("law: attention over a rotated cache is plain attention fed with R^T Q(R k)") {
    // q~ . Q(R k) = (R q) . Q(R k) = q . R^T Q(R k), and the same for v: Croci et al. 2024
    // (QuaRot).
    std::vector<AttentionCase> cases = mixed_cases();
    cases.push_back(case_of(DType::q4_0, DType::q4_0, "k=32:3 v=32:3:32", 36));
    cases.back().v_in_k = true;
    cases.back().v_first = 32;
    cases.back().d_v = 32;
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const AttentionCase& c : cases) {
            const AttentionCase plain = as_stored(c);
            INFO(words(*backend, c));
            CHECK(times_bound(c.run(*backend), plain.run(*backend),
                              attention_rounding(c, plain, *backend)) <= 2);
        }
    }
}

TEST_CASE("law: attention does not know which cell a token lies in") {
    // A sum over a set: any permutation of the cells of a stream, holes among them, changes
    // nothing.
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const AttentionCase& c : mixed_cases()) {
            KvCache cache(*backend, c.shape(), c.spec);
            fill(*backend, cache.k(0), std::byte(0xFF));  // NaN in the empty cells
            fill(*backend, cache.v(0), std::byte(0xFF));
            c.store(*backend, cache);
            const std::vector<float> expected = c.attend(*backend, cache);
            const std::vector<double> bounds = attention_rounding(c, as_stored(c), *backend);
            Random random(41);
            for (int draw = 0; draw < 5; ++draw) {
                permute_cells(cache, random);
                INFO(words(*backend, c) << ", draw " << draw);
                CHECK(times_bound(c.attend(*backend, cache), expected, bounds) <= 2);
            }
        }
    }
}

TEST_CASE("law: two halves of a cache, merged by their sums, are the whole") {
    // With Z = sum exp(s): o = (Z_a o_a + Z_b o_b) / (Z_a + Z_b). A sink belongs to one half.
    // Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022.
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const AttentionCase& c : mixed_cases()) {
            const AttentionCase plain = as_stored(c);
            const std::vector<double> bounds = attention_rounding(c, plain, *backend);
            const int32_t end = c.positions.back() + 1;
            for (const int32_t cut : {1, 9, end / 2, end - 1}) {
                std::vector<float> part[2];
                for (int half = 0; half < 2; ++half) {
                    AttentionCase only = c;
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

TEST_CASE("law: damage to K and to V adds up, but for the product of the two") {
    // With p and v off by dp and dv: o(K, V) - o(K) - o(V) + o = sum dp dv, and nothing else.
    // |sum dp dv| <= (exp(2 e) - 1) max |dv| with e = scale |q| max |dk|, so that it is small to
    // second order: 16 times finer steps make each error 16 times smaller, and this 256 times.
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const DType type : {DType::q8_0, DType::q5_0, DType::q4_0}) {
            AttentionCase none = case_of(DType::f32, DType::f32, "k=64 v=64:1", 51);
            AttentionCase k_only = none, v_only = none, both = none;
            k_only.type_k = both.type_k = type;
            v_only.type_v = both.type_v = type;
            const AttentionCase plain = as_stored(none), stored = as_stored(both);
            const std::vector<float> o = none.run(*backend), o_k = k_only.run(*backend);
            const std::vector<float> o_v = v_only.run(*backend), o_kv = both.run(*backend);
            std::vector<double> rest(o.size()), product(o.size(), 0.0);
            for (size_t i = 0; i < o.size(); ++i)
                rest[i] = double(o_kv[i]) - double(o_k[i]) - double(o_v[i]) + double(o[i]);
            const size_t d = size_t(none.d_v);
            const int64_t group = none.heads / none.kv_heads;
            for (size_t row = 0; row < o.size() / d; ++row) {
                const int64_t h = int64_t(row) % none.heads;
                const size_t i = row / size_t(none.heads);
                const std::vector<double> p = probabilities(plain, i, h);
                const std::vector<double> p_k = probabilities(stored, i, h);
                for (size_t t = 0; t < p.size(); ++t) {
                    const size_t v = (t * size_t(none.kv_heads) + size_t(h / group)) * d;
                    for (size_t j = 0; j < d; ++j)
                        product[row * d + j] +=
                            (p_k[t] - p[t]) * (double(stored.v[v + j]) - double(plain.v[v + j]));
                }
            }
            // Four outputs, two of them over quantized keys; each has its bound.
            std::vector<double> bounds = attention_rounding(none, plain, *backend);
            const std::vector<double> quantized = attention_rounding(both, stored, *backend);
            for (size_t row = 0; row < bounds.size(); ++row)
                bounds[row] = 2 * bounds[row] + 2 * quantized[row];
            INFO(words(*backend, both));
            CHECK(times_bound(rest, product, bounds) <= 1);
            const double e = double(none.scale) * largest_norm(none.q, none.d_k) *
                             farthest(stored.k, plain.k, none.d_k);
            const double product_bound =
                (std::exp(2 * e) - 1) * farthest(stored.v, plain.v, none.d_v);
            for (double& bound : bounds) bound += product_bound;
            CHECK(times_bound(rest, std::vector<double>(o.size(), 0.0), bounds) <= 1);
        }
    }
}
