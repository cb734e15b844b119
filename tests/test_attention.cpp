// Rotated attention against attention in f64, and the laws that bind its options to each other.
#include "ref/kernels.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"

#include <cmath>
#include <cstring>
#include <numeric>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// f32 rotations of q, k and the output, log2(N) + 2 roundings each, scores up to about 20.
constexpr double k_rounding = 2e-5;

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("attention: equals the definition in f64, for every option and rotation") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    struct Row {
        int64_t heads, kv_heads, d_k, d_v, window;
        float softcap;
        bool sinks;
        const char* spec;
    };
    const Row rows[] = {
        {4, 4, 64, 64, 0, 0, false, "k=none v=none"},
        {4, 4, 64, 64, 0, 0, false, "k=64 v=64"},
        {6, 2, 128, 128, 0, 0, false, "k=128 v=none"},
        {8, 1, 192, 128, 0, 0, false, "k=64 v=64"},
        {2, 2, 64, 64, 7, 0, false, "k=64:5 v=32:5"},
        {4, 2, 80, 96, 0, 20.0f, false, "k=16 v=32"},
        {4, 1, 256, 64, 16, 30.0f, true, "k=none v=64:1"},
        {3, 1, 64, 128, 0, 0, true, "k=16:2 v=64"},
    };
    for (const Row& row : rows) {
        CachedAttention c;
        c.heads = row.heads;
        c.kv_heads = row.kv_heads;
        c.d_k = row.d_k;
        c.d_v = row.d_v;
        c.window = row.window;
        c.softcap = row.softcap;
        c.spec = spec_of(row.spec);
        c.scale = 1.0f / std::sqrt(float(row.d_k));
        c.fill(2, 24, 7);
        if (row.sinks) c.sinks = normal_vector(row.heads, 3, 2.0);
        INFO(row.spec << ", D = " << row.d_k << ", " << row.d_v << ", window " << row.window);
        CHECK(distance(c.run(*ref), dense_attention(c)) < k_rounding);
    }
}

TEST_CASE("attention: a query group equals its KV head repeated") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention grouped;
    grouped.heads = 6;
    grouped.kv_heads = 2;
    grouped.type_k = grouped.type_v = DType::q8_0;
    grouped.spec = spec_of("k=64 v=64");
    grouped.fill(1, 20, 1);
    CachedAttention repeated = grouped;
    repeated.kv_heads = 6;
    const auto repeat = [](const std::vector<float>& x, size_t d) {
        std::vector<float> y;
        for (size_t row = 0; row < x.size() / d; ++row) {
            for (int i = 0; i < 3; ++i) {
                y.insert(y.end(), x.begin() + int64_t(row * d), x.begin() + int64_t(row * d + d));
            }
        }
        return y;
    };
    repeated.k = repeat(grouped.k, 64);
    repeated.v = repeat(grouped.v, 64);
    CHECK(same(grouped.run(*ref), repeated.run(*ref)));
}

TEST_CASE("attention: a window equals removing what lies outside it") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention c;
    c.type_k = c.type_v = DType::q4_0;
    c.spec = spec_of("k=64 v=64");
    c.fill(1, 40, 2);
    c.q_streams = {0};
    c.q_positions = {39};
    c.q = normal_vector(c.heads * c.d_k, 9);
    CachedAttention removed = c;
    c.window = 12;  // positions 28 .. 39, the query's own among them

    KvCache cache(*ref, removed.shape(), removed.spec);
    removed.store(*ref, cache);
    cache.remove(0, 0, 28);
    CHECK(same(c.run(*ref), removed.attend(*ref, cache)));
    cache.remove(0, 28, 29);
    CHECK(!same(c.run(*ref), removed.attend(*ref, cache)));
}

TEST_CASE("attention: streams do not see each other") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention both;
    both.type_k = DType::q5_1;
    both.type_v = DType::q4_1;
    both.spec = spec_of("k=64 v=64");
    both.fill(2, 16, 3);
    const std::vector<float> together = both.run(*ref);
    for (int32_t s = 0; s < 2; ++s) {
        CachedAttention one = both;
        const size_t half = both.streams.size() / 2;
        const auto part = [&](const std::vector<float>& x) {
            const auto begin = x.begin() + s * int64_t(x.size()) / 2;
            return std::vector<float>(begin, begin + int64_t(x.size()) / 2);
        };
        one.streams = one.q_streams = std::vector<int32_t>(half, 0);
        one.positions.resize(half);
        one.q_positions.resize(half);
        one.k = part(both.k);
        one.v = part(both.v);
        one.q = part(both.q);
        CHECK(same(one.run(*ref), part(together)));
    }
}

TEST_CASE("attention: storing in several calls does not matter") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention c;
    c.type_k = c.type_v = DType::q8_0;
    c.spec = spec_of("k=64 v=64");
    c.fill(1, 32, 4);
    const std::vector<float> expected = c.run(*ref);

    KvCache cache(*ref, c.shape(), c.spec);
    c.store(*ref, cache, 5);
    CHECK(same(c.attend(*ref, cache), expected));
}

TEST_CASE("attention: a sink equals a cell with that score and no value") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention c;
    c.heads = c.kv_heads = 1;
    c.fill(1, 8, 5);
    c.q_streams = {0};
    c.q_positions = {8};
    c.q = normal_vector(c.d_k, 6);
    CachedAttention with_cell = c;
    c.sinks = {1.5f};
    // A ninth key along q whose score is 1.5, with value 0.
    double squares = 0;
    for (const float x : c.q) squares += double(x) * double(x);
    for (const float x : c.q) with_cell.k.push_back(float(double(x) * 12.0 / squares));
    with_cell.v.resize(with_cell.v.size() + 64, 0.0f);
    with_cell.streams.push_back(0);
    with_cell.positions.push_back(8);
    CHECK(distance(c.run(*ref), with_cell.run(*ref)) < 1e-6);
}

TEST_CASE("attention: nothing visible gives zero") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    CachedAttention c;
    c.type_k = c.type_v = DType::q4_0;
    c.spec = spec_of("k=64 v=64");
    c.fill(1, 4, 8);
    for (int32_t& p : c.positions) p += 10;
    c.q_positions = {-1, 0, 9, 10};
    for (const bool sinks : {false, true}) {
        if (sinks) c.sinks = std::vector<float>(4, 1.0f);
        const std::vector<float> out = c.run(*ref);
        const size_t row = size_t(c.heads * c.d_v);
        for (size_t i = 0; i < 3 * row; ++i) REQUIRE(out[i] == 0.0f);
        CHECK(out[3 * row] != 0.0f);
    }
}

TEST_CASE("attention: V as a view of K, with K's rotation and its signs") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    for (const char* text : {"k=none v=none", "k=64 v=64", "k=64:3 v=64:3:64"}) {
        CachedAttention c;
        c.heads = 4;
        c.kv_heads = 1;
        c.d_k = 192;
        c.d_v = 128;
        c.v_in_k = true;
        c.v_first = 64;
        c.spec = spec_of(text);
        c.fill(1, 24, 12);
        INFO(text);
        CHECK(distance(c.run(*ref), dense_attention(c)) < k_rounding);
    }
    // Signs counted from the view's own first channel are not the ones that K's rows had.
    CachedAttention wrong;
    wrong.heads = 4;
    wrong.kv_heads = 1;
    wrong.d_k = 192;
    wrong.d_v = 128;
    wrong.v_in_k = true;
    wrong.v_first = 64;
    wrong.spec = spec_of("k=64:3 v=64:3");
    wrong.fill(1, 24, 12);
    CHECK_THROWS_WITH(wrong.run(*ref), containing("expected its rotation 64:3:64"));
}

TEST_CASE("attention: with loud channels, rotation lowers the error of a 4-bit cache") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const auto error = [&](const char* text) {
        CachedAttention c;
        c.type_k = c.type_v = DType::q4_0;
        c.spec = spec_of(text);
        c.fill(1, 48, 21);
        c.cells = 64;
        const std::vector<double> exact = dense_attention(c);
        const std::vector<float> out = c.run(*ref);
        double sum = 0;
        for (size_t i = 0; i < exact.size(); ++i) sum += std::pow(double(out[i]) - exact[i], 2);
        return sum;
    };
    CHECK(error("k=64 v=64") < 0.7 * error("k=none v=none"));
}
