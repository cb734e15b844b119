// Every backend against the reference where results are rounded: within bounds in u = 2^-24 that
// follow from how many roundings there are.
#include "ref/kernels.h"
#include "tests/parity.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

constexpr double k_unit = 0x1p-24;

}  // namespace

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
                    fill(b, cache.k(0), std::byte(0xFF));
                    if (!c.v_in_k) fill(b, cache.v(0), std::byte(0xFF));
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
                const double size = std::fabs(double(expected[i]));
                // exp and its argument: a few units each, the products one more.
                REQUIRE(apart <= 12 * k_unit * size + 1e-37);
            }
        }
    }
}

namespace {

// What nll, kld and logits make of two residual streams a and b.
struct Likelihoods {
    int64_t tokens, width, words;
    std::vector<float> a, b, weight;
    std::vector<int32_t> target;
    float softcap;

    // [4][T] nll of a, kld, nll_a, nll_b; [3][T] their top words; [T][V] logits of a.
    std::vector<double> run(Backend& backend) const {
        const Buffer ha = upload(backend, a), hb = upload(backend, b), w = upload(backend, weight);
        const Buffer next = upload(backend, target);
        const Buffer f64(backend, size_t(4 * tokens) * sizeof(double));
        const Buffer i32(backend, size_t(3 * tokens) * sizeof(int32_t));
        const auto doubles = [&](int64_t i) {
            return view(f64.data() + i * tokens * 8, DType::f64, {tokens});
        };
        const auto ints = [&](int64_t i) {
            return view(i32.data() + i * tokens * 4, DType::i32, {tokens});
        };
        const TensorView left = ha.view(DType::f32, {tokens, width});
        const TensorView right = hb.view(DType::f32, {tokens, width});
        const TensorView matrix = w.view(DType::f32, {words, width});
        const TensorView goal = next.view(DType::i32, {tokens});
        backend.nll({doubles(0), ints(0), left, matrix, goal, softcap});
        backend.kld({doubles(1), doubles(2), doubles(3), ints(1), ints(2), left, right, matrix,
                     goal, softcap});
        std::vector<double> values(size_t(4 * tokens));
        std::vector<int32_t> tops(size_t(3 * tokens));
        f64.download(std::as_writable_bytes(std::span(values)));
        i32.download(std::as_writable_bytes(std::span(tops)));
        values.insert(values.end(), tops.begin(), tops.end());

        const Buffer dst(backend, size_t(tokens * words) * sizeof(float));
        const TensorView logits = dst.view(DType::f32, {tokens, words});
        backend.logits({logits, left, matrix, softcap});
        const std::vector<float> all = download_f32(backend, logits);
        values.insert(values.end(), all.begin(), all.end());
        return values;
    }
};

}  // namespace

TEST_CASE("parity: nll, kld and logits agree within rounding") {
    const std::unique_ptr<Backend> ref = ref::make_backend();
    Likelihoods c{37, 96, 3001, normal_vector(37 * 96, 1, 0.7), {}, normal_vector(3001 * 96, 2),
                  {}, 0};
    const std::vector<float> noise = normal_vector(37 * 96, 5, 0.02);
    for (size_t i = 0; i < noise.size(); ++i) c.b.push_back(c.a[i] + noise[i]);
    for (int32_t t = 0; t < 37; ++t) c.target.push_back(t * 83 % 3001);
    for (const float softcap : {0.0f, 5.0f}) {
        c.softcap = softcap;
        const std::vector<double> expected = c.run(*ref);
        for (const std::unique_ptr<Backend>& backend : candidates()) {
            const std::vector<double> found = c.run(*backend);
            REQUIRE(found.size() == expected.size());
            for (size_t i = 0; i < expected.size(); ++i) {
                INFO(backend->name() << " softcap " << softcap << ", value " << i);
                // Sums of 96 products in f32; a word that is top stays top on these inputs.
                REQUIRE(std::fabs(found[i] - expected[i]) <= 2e-5);
            }
            for (size_t t = 0; t < 37; ++t) {
                const double kld = expected[37 + t];
                REQUIRE(kld > 0);
                REQUIRE(std::fabs(found[37 + t] - kld) < 1e-3 * kld + 1e-6);
                REQUIRE(found[t] == Approx(found[2 * 37 + t]).epsilon(1e-9));
            }
        }
    }
}
