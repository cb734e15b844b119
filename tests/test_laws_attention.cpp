// The laws of attention over a cache, each with its formula and where it comes from: what holds
// whatever the code looks like. Checked on the reference and on every backend that is built, within
// bounds that follow from the number of roundings.
#include "tests/laws_attention.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

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

}  // namespace

TEST_CASE("law: attention over a rotated cache is plain attention fed with R^T Q(R k)") {
    // q~ . Q(R k) = (R q) . Q(R k) = q . R^T Q(R k), and the same for v: Croci et al. 2024
    // (QuaRot).
    std::vector<CachedAttention> cases = mixed_cases();
    cases.push_back(case_of(DType::q4_0, DType::q4_0, "k=32:3 v=32:3:32", 36));
    cases.back().v_in_k = true;
    cases.back().v_first = 32;
    cases.back().d_v = 32;
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const CachedAttention& c : cases) {
            const CachedAttention plain = as_stored(c);
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
        for (const CachedAttention& c : mixed_cases()) {
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

TEST_CASE("law: sinks that no score comes near are none, and so is a window over all positions") {
    // exp(-inf) adds nothing to what softmax divides by; every distance is below the window, and
    // every position in the first chunk.
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (CachedAttention c : mixed_cases()) {
            c.sinks.clear();
            c.window = 0;
            const std::vector<float> expected = c.run(*backend);
            const std::vector<double> bounds = attention_rounding(c, as_stored(c), *backend);
            CachedAttention deep = c, wide = c;
            deep.sinks = std::vector<float>(size_t(c.heads), -INFINITY);
            wide.window = 1 << 20;
            INFO(words(*backend, c));
            CHECK(times_bound(deep.run(*backend), expected, bounds) <= 2);
            CHECK(times_bound(wide.run(*backend), expected, bounds) <= 2);
            wide.chunked = true;
            CHECK(times_bound(wide.run(*backend), expected, bounds) <= 2);
            deep.sinks.assign(size_t(c.heads), 1e4f);
            CHECK(times_bound(deep.run(*backend), expected, bounds) > 2);
        }
    }
}

TEST_CASE("law: damage to K and to V adds up, but for the product of the two") {
    // With p and v off by dp and dv: o(K, V) - o(K) - o(V) + o = sum dp dv, and nothing else.
    // |sum dp dv| <= (exp(2 e) - 1) max |dv| with e = scale |q| max |dk|, so that it is small to
    // second order: 16 times finer steps make each error 16 times smaller, and this 256 times.
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (const DType type : {DType::q8_0, DType::q5_0, DType::q4_0}) {
            CachedAttention none = case_of(DType::f32, DType::f32, "k=64 v=64:1", 51);
            CachedAttention k_only = none, v_only = none, both = none;
            k_only.type_k = both.type_k = type;
            v_only.type_v = both.type_v = type;
            const CachedAttention plain = as_stored(none), stored = as_stored(both);
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
