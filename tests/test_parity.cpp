// Every backend against the reference, operation by operation. Exact operations are compared byte
// by byte, the others against bounds in u = 2^-24 that follow from how many roundings there are.
#include "ref/kernels.h"
#include "tests/attention_case.h"
#include "tests/catch.h"
#include "tools/backends.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr double k_unit = 0x1p-24;
constexpr DType k_cache_types[] = {DType::f32,  DType::f16,  DType::bf16, DType::q8_0,  DType::q5_1,
                                   DType::q5_0, DType::q4_1, DType::q4_0, DType::iq4_nl};

// Every backend that is built, except the one that is the measure.
std::vector<std::unique_ptr<Backend>> candidates() {
    std::vector<std::unique_ptr<Backend>> result;
    for (const tools::BackendEntry& entry : tools::backends()) {
        if (entry.make == nullptr || std::string(entry.name) == "ref") continue;
        result.push_back(entry.make(0));
        CHECK(result.back()->name() == entry.name);
    }
    return result;
}

// Rows that quantizers find hard: see docs/03-quantization.md.
std::vector<float> hard_rows(int64_t d) {
    constexpr float inf = std::numeric_limits<float>::infinity();
    std::vector<float> x = loud_channels(16, d, 17, 16, 40.0);
    const auto row = [&](int64_t i) { return x.data() + i * d; };
    std::fill(row(1), row(2), 0.0f);
    row(2)[d / 2] = inf;
    row(3)[d - 1] = std::nanf("");
    for (int64_t j = 0; j < d; ++j) {
        row(4)[j] = float(j % 17 - 8) * 0.5f;  // ties of every format
        row(5)[j] *= 1e-30f;
        row(6)[j] *= 1e6f;  // scales beyond f16
        row(7)[j] += 100.0f;
        row(8)[j] = -0.0f;
        row(9)[j] *= 1e-16f;  // below what iq4_nl keeps
        row(10)[j] *= 1e-41f;
    }
    row(11)[0] = -8.0f;
    row(11)[1] = 8.0f;  // two elements of the largest magnitude
    return x;
}

// Equal bits; a NaN equals any NaN.
bool floats_equal(const std::vector<float>& a, const std::vector<float>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](float x, float y) {
        return std::memcmp(&x, &y, sizeof x) == 0 || (std::isnan(x) && std::isnan(y));
    });
}

}  // namespace

TEST_CASE("parity: hadamard is exact") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const int64_t d : {1, 2, 16, 64, 80, 96, 192, 256, 320, 576, 1024}) {
            for (int64_t n = 1; n <= d; n *= 2) {
                if (d % n != 0) continue;
                for (const int64_t rows : {1, 7, 113}) {
                    for (const Rotation::Kind kind :
                         {Rotation::Kind::sylvester, Rotation::Kind::signs}) {
                        const std::vector<float> x = normal_vector(rows * d, uint64_t(d + n));
                        const auto run = [&](Backend& b, bool inverse) {
                            const Buffer memory = upload(b, x);
                            const TensorView view = memory.view(DType::f32, {rows, d});
                            b.hadamard({view, view, {kind, n, 5, 0}, inverse});
                            return download_f32(b, view);
                        };
                        INFO(backend->name() << " D = " << d << ", N = " << n);
                        REQUIRE(floats_equal(run(*backend, false), run(*ref, false)));
                        REQUIRE(floats_equal(run(*backend, true), run(*ref, true)));
                    }
                }
            }
        }
    }
}

TEST_CASE("parity: quantize and dequantize are exact") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const DType type : k_cache_types) {
            for (const int64_t d : {32, 64, 96, 256, 576}) {
                const std::vector<float> x = hard_rows(d);
                const auto codes = [&](Backend& b) {
                    const Buffer src = upload(b, x);
                    const Buffer dst(b, size_t(16 * row_bytes(type, d)));
                    b.quantize({dst.view(type, {16, d}), src.view(DType::f32, {16, d})});
                    return download(b, dst.view(type, {16, d}));
                };
                const std::vector<std::byte> expected = codes(*ref);
                INFO(backend->name() << " " << type_info(type).name << " D = " << d);
                REQUIRE((codes(*backend) == expected));

                const auto values = [&](Backend& b) {
                    const Buffer src(b, expected.size());
                    src.upload(expected);
                    const Buffer dst(b, size_t(16 * d) * sizeof(float));
                    b.dequantize({dst.view(DType::f32, {16, d}), src.view(type, {16, d})});
                    return download_f32(b, dst.view(DType::f32, {16, d}));
                };
                REQUIRE(floats_equal(values(*backend), values(*ref)));
            }
        }
    }
}

TEST_CASE("parity: rope is exact") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const RopePairs pairs : {RopePairs::norm, RopePairs::neox}) {
            for (const int64_t d : {16, 64, 80, 256}) {
                for (const int64_t n_rot : {d, d / 2, int64_t(6)}) {
                    RopeConfig config;
                    config.n_rot = n_rot;
                    const std::vector<int32_t> positions = {0, 1, 77, 5000};
                    const std::vector<float> table = rope_table(config, positions);
                    const std::vector<float> x = normal_vector(7 * 3 * d, 2);
                    const auto run = [&](Backend& b) {
                        const Buffer memory = upload(b, x), turns = upload(b, table);
                        const Buffer rows = upload(b, std::vector<int32_t>{3, 0, 1, 2, 2, 3, 1});
                        const TensorView view = memory.view(DType::f32, {7, 3, d});
                        b.rope({view, view, turns.view(DType::f32, {4, n_rot / 2, 2}),
                                rows.view(DType::i32, {7}), pairs});
                        return download_f32(b, view);
                    };
                    INFO(backend->name() << " D = " << d << ", " << n_rot << " turn");
                    REQUIRE(floats_equal(run(*backend), run(*ref)));
                }
            }
        }
    }
}

TEST_CASE("parity: kv_store and kv_shift write the same cache") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    RopeConfig config;
    config.n_rot = 48;
    config.pairs = RopePairs::neox;
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const DType type : k_cache_types) {
            for (const char* text :
                 {"k=none v=none", "k=sylvester/32 v=sylvester/64", "k=signs/64/3 v=signs/32/9"}) {
                AttentionCase c;
                c.type_k = type;
                c.type_v = type == DType::q4_0 ? DType::f16 : type;
                c.kv_heads = 3;
                c.heads = 3;
                c.d_v = 128;
                c.spec = RotationSpec::parse(text);
                c.fill(2, 19, 77);
                const auto run = [&](Backend& b) {
                    KvCache cache(b, c.shape(), c.spec);
                    const auto zero = [&](const TensorView& view) {
                        b.upload(view.data, std::vector<std::byte>(size_t(span_bytes(view))));
                    };
                    zero(cache.k(0));
                    zero(cache.v(0));
                    c.store(b, cache, 7);
                    cache.shift(1, 4, 12, 9, [&](int64_t) { return config; });
                    std::vector<std::byte> bytes = download(b, cache.k(0));
                    const std::vector<std::byte> v = download(b, cache.v(0));
                    bytes.insert(bytes.end(), v.begin(), v.end());
                    return bytes;
                };
                INFO(backend->name() << " " << type_info(type).name << " " << text);
                REQUIRE((run(*backend) == run(*ref)));
            }
        }
    }
}

TEST_CASE("parity: attention agrees within rounding") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    struct Row {
        int64_t heads, kv_heads, d_k, d_v, streams, tokens, window;
        float softcap;
        bool sinks, v_in_k;
        const char* spec;
    };
    const Row rows[] = {
        {9, 3, 64, 64, 1, 113, 0, 0, false, false, "k=sylvester/64 v=sylvester/64"},
        {9, 3, 64, 64, 3, 40, 0, 0, false, false, "k=none v=none"},
        {4, 1, 256, 256, 1, 70, 16, 0, false, false, "k=sylvester/256 v=sylvester/64"},
        {4, 4, 128, 128, 2, 33, 0, 20.0f, true, false, "k=signs/128/1 v=signs/64/1"},
        {8, 1, 192, 128, 1, 65, 33, 0, true, false, "k=sylvester/64 v=none"},
        {4, 2, 96, 32, 1, 50, 0, 0, false, false, "k=none v=sylvester/32"},
        {16, 1, 576, 512, 1, 20, 0, 0, false, true, "k=sylvester/64 v=sylvester/64"},
        {2, 1, 64, 64, 1, 1, 0, 0, false, false, "k=sylvester/64 v=sylvester/64"},
    };
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const Row& row : rows) {
            for (const DType type : k_cache_types) {
                AttentionCase c;
                c.heads = row.heads;
                c.kv_heads = row.kv_heads;
                c.d_k = row.d_k;
                c.d_v = row.d_v;
                c.window = row.window;
                c.softcap = row.softcap;
                c.v_in_k = row.v_in_k;
                c.cells = 128;
                c.scale = 1.0f / std::sqrt(float(row.d_k));
                c.type_k = type;
                c.type_v = row.v_in_k ? type : k_cache_types[size_t(row.tokens) % 9];
                c.spec = RotationSpec::parse(row.spec);
                c.fill(row.streams, row.tokens, 5);
                c.q_positions[0] = -1;
                if (row.sinks) c.sinks = normal_vector(row.heads, 8);
                const auto run = [&](Backend& b, size_t per_call) {
                    KvCache cache(b, c.shape(), c.spec);
                    // What lies in empty cells must not matter, not even as 0 * NaN.
                    b.upload(cache.k(0).data, std::vector<std::byte>(size_t(span_bytes(cache.k(0))),
                                                                     std::byte(0xFF)));
                    if (!c.v_in_k) {
                        b.upload(cache.v(0).data,
                                 std::vector<std::byte>(size_t(span_bytes(cache.v(0))),
                                                        std::byte(0xFF)));
                    }
                    c.store(b, cache, per_call);
                    cache.remove(0, 3, 5);
                    return c.attend(b, cache);
                };
                // Scores of up to about 50 u-sized steps; f32 sums over D and over the cells.
                const double bound = 400 * k_unit;
                INFO(backend->name() << " " << type_info(type).name << " D = " << c.d_k << "/"
                                     << c.d_v << ", " << row.tokens << " tokens, " << row.spec);
                const std::vector<float> expected = run(*ref, 0);
                const std::vector<float> found = run(*backend, 0);
                REQUIRE(distance(found, expected) < bound);
                REQUIRE(floats_equal(run(*backend, 0), found));
            }
        }
    }
}

TEST_CASE("parity: matmul and embed agree within rounding") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const DType type : k_cache_types) {
            for (const int64_t tokens : {1, 2, 5, 33}) {
                const int64_t in = 192, out = 67;
                const std::vector<float> x = normal_vector(tokens * in, 3);
                const std::vector<float> w = normal_vector(out * in, 4);
                const Buffer w_f32 = upload(*ref, w);
                const Buffer packed(*ref, size_t(out * row_bytes(type, in)));
                ref->quantize({packed.view(type, {out, in}), w_f32.view(DType::f32, {out, in})});
                const std::vector<std::byte> bytes = download(*ref, packed.view(type, {out, in}));
                const auto run = [&](Backend& b) {
                    const Buffer weight(b, bytes.size()), src = upload(b, x);
                    weight.upload(bytes);
                    // A wider destination: results land in columns of a larger activation.
                    const Buffer memory = upload(b, std::vector<float>(size_t(tokens * 80), 0.5f));
                    TensorView dst = memory.view(DType::f32, {tokens, 80});
                    const TensorView whole = dst;
                    dst.n[3] = out;
                    b.matmul(
                        {dst, weight.view(type, {out, in}), src.view(DType::f32, {tokens, in})});
                    return download_f32(b, whole);
                };
                const std::vector<float> expected = run(*ref), found = run(*backend);
                INFO(backend->name() << " " << type_info(type).name << ", " << tokens);
                // Each result: sum of 192 products of size 1, so sum |a b| is about 120.
                for (size_t i = 0; i < expected.size(); ++i) {
                    const double apart = std::fabs(double(found[i]) - double(expected[i]));
                    REQUIRE(apart <= 192 * 120 * k_unit);
                    if (i % 80 >= size_t(out)) REQUIRE(found[i] == 0.5f);
                }

                const auto embedded = [&](Backend& b) {
                    const Buffer weight(b, bytes.size());
                    weight.upload(bytes);
                    const Buffer token = upload(b, std::vector<int32_t>{66, 0, 13});
                    const Buffer dst(b, size_t(3 * in) * sizeof(float));
                    const TensorView view = dst.view(DType::f32, {3, in});
                    b.embed(
                        {view, weight.view(type, {out, in}), token.view(DType::i32, {3}), 1.7f});
                    return download_f32(b, view);
                };
                REQUIRE(floats_equal(embedded(*backend), embedded(*ref)));
            }
        }
    }
}

TEST_CASE("parity: rms_norm, act_mul and add agree within rounding") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const int64_t d : {1, 7, 64, 576, 2048}) {
            std::vector<float> x = normal_vector(9 * d, 1, 3.0);
            const std::vector<float> w = normal_vector(9 * d, 2);
            x[0] = 120.0f;  // exp(-x) far from 1 on either side
            if (d > 1) x[1] = -120.0f;
            const auto run = [&](Backend& b) {
                const Buffer memory(b, size_t(36 * d) * sizeof(float));
                const Buffer left = upload(b, x), right = upload(b, w);
                const TensorView all = memory.view(DType::f32, {4, 9, d});
                const auto part = [&](int64_t i) {
                    TensorView one = all;
                    one.n[1] = 1;
                    one.data += i * all.stride[1];
                    return one;
                };
                const TensorView a = left.view(DType::f32, {9, d});
                const TensorView c = right.view(DType::f32, {9, d});
                b.rms_norm({part(0), a, right.view(DType::f32, {d}), 1e-5f});
                b.act_mul({part(1), a, c, Activation::silu});
                b.act_mul({part(2), a, c, Activation::gelu_tanh});
                TensorView bias = right.view(DType::f32, {1, d});
                bias.n[2] = 9;
                bias.stride[2] = 0;
                b.add({part(3), a, bias});
                return download_f32(b, all);
            };
            const std::vector<float> expected = run(*ref), found = run(*backend);
            for (size_t i = 0; i < expected.size(); ++i) {
                const double apart = std::fabs(double(found[i]) - double(expected[i]));
                INFO(backend->name() << " D = " << d << ", element " << i << ": " << found[i]
                                     << ", expected " << expected[i]);
                // gelu's 1 + tanh cancels below -3: relative to |x up| there, not to the result.
                const double size =
                    i / size_t(9 * d) == 2
                        ? std::fabs(double(x[i % size_t(9 * d)]) * double(w[i % size_t(9 * d)]))
                        : std::fabs(double(expected[i]));
                REQUIRE(apart <= 8 * k_unit * size + 1e-37);
            }
        }
    }
}

TEST_CASE("parity: nll, kld and logits agree within rounding") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    for (const std::unique_ptr<Backend>& backend : candidates()) {
        for (const float softcap : {0.0f, 5.0f}) {
            const int64_t tokens = 37, width = 96, words = 3001;
            const std::vector<float> a = normal_vector(tokens * width, 1, 0.7);
            std::vector<float> b_rows = a;
            const std::vector<float> noise = normal_vector(tokens * width, 5, 0.02);
            for (size_t i = 0; i < a.size(); ++i) b_rows[i] += noise[i];
            const std::vector<float> w = normal_vector(words * width, 2);
            std::vector<int32_t> target;
            for (int32_t t = 0; t < tokens; ++t) target.push_back(t * 83 % int32_t(words));
            const auto run = [&](Backend& b) {
                const Buffer ha = upload(b, a), hb = upload(b, b_rows), weight = upload(b, w);
                const Buffer next = upload(b, target);
                const Buffer f64(b, size_t(4 * tokens) * sizeof(double));
                const Buffer i32(b, size_t(3 * tokens) * sizeof(int32_t));
                const auto doubles = [&](int64_t i) {
                    return view(f64.data() + i * tokens * 8, DType::f64, {tokens});
                };
                const auto ints = [&](int64_t i) {
                    return view(i32.data() + i * tokens * 4, DType::i32, {tokens});
                };
                const TensorView left = ha.view(DType::f32, {tokens, width});
                const TensorView right = hb.view(DType::f32, {tokens, width});
                const TensorView matrix = weight.view(DType::f32, {words, width});
                const TensorView goal = next.view(DType::i32, {tokens});
                b.nll({doubles(0), ints(0), left, matrix, goal, softcap});
                b.kld({doubles(1), doubles(2), doubles(3), ints(1), ints(2), left, right, matrix,
                       goal, softcap});
                std::vector<double> values(size_t(4 * tokens));
                std::vector<int32_t> tops(size_t(3 * tokens));
                f64.download(std::as_writable_bytes(std::span(values)));
                i32.download(std::as_writable_bytes(std::span(tops)));
                values.insert(values.end(), tops.begin(), tops.end());

                const Buffer dst(b, size_t(tokens * words) * sizeof(float));
                const TensorView logits = dst.view(DType::f32, {tokens, words});
                b.logits({logits, left, matrix, softcap});
                const std::vector<float> all = download_f32(b, logits);
                values.insert(values.end(), all.begin(), all.end());
                return values;
            };
            const std::vector<double> expected = run(*ref), found = run(*backend);
            REQUIRE(found.size() == expected.size());
            for (size_t i = 0; i < expected.size(); ++i) {
                INFO(backend->name() << " softcap " << softcap << ", value " << i << ": "
                                     << found[i] << ", expected " << expected[i]);
                // Sums of 96 products in f32; a word that is top stays top on these inputs.
                REQUIRE(std::fabs(found[i] - expected[i]) <= 2e-5);
            }
            for (size_t t = 0; t < size_t(tokens); ++t) {
                const double kld = expected[size_t(tokens) + t];
                REQUIRE(kld > 0);
                REQUIRE(std::fabs(found[size_t(tokens) + t] - kld) < 1e-3 * kld + 1e-6);
                REQUIRE(found[t] == Approx(found[2 * size_t(tokens) + t]).epsilon(1e-9));
            }
        }
    }
}
