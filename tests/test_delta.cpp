// Gated DeltaNet's two operations, on the reference and on every backend that is built: held to
// the formula with whole matrices, and to what must hold whatever the numbers are.
#include "tests/laws.h"
#include "tests/random.h"
#include "tests/refused_call.h"

using namespace rotkv;
using namespace rotkv::test;

namespace {

using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

// A part of x: rows first .. end of `width`.
template <class T>
std::vector<T> rows_of(const std::vector<T>& x, size_t first, size_t end, size_t width) {
    return {x.begin() + std::ptrdiff_t(first * width), x.begin() + std::ptrdiff_t(end * width)};
}

// A call's numbers and its streams' states, which run() moves on.
struct Conv {
    int64_t streams = 3, channels = 37, taps = 4;
    Ints stream;
    Floats u, weight, state;

    explicit Conv(size_t tokens) {
        for (size_t t = 0; t < tokens; ++t) stream.push_back(int32_t(t * t % 7 % 3));
        u = normal_vector(int64_t(tokens) * channels, 1);
        weight = normal_vector(channels * taps, 2);
        state = normal_vector(streams * (taps - 1) * channels, 3);
    }
    Floats run(Backend& backend, size_t first, size_t end) {
        const int64_t tokens = int64_t(end - first);
        const Buffer x = upload(backend, rows_of(u, first, end, size_t(channels))),
                     w = upload(backend, weight), s = upload(backend, state),
                     of = upload(backend, rows_of(stream, first, end, 1)),
                     y(backend, size_t(tokens * channels) * sizeof(float));
        const ConvStepArgs args{.dst = y.view(DType::f32, {tokens, channels}),
                                .src = x.view(DType::f32, {tokens, channels}),
                                .weight = w.view(DType::f32, {channels, taps}),
                                .state = s.view(DType::f32, {streams, taps - 1, channels}),
                                .stream = of.view(DType::i32, {tokens})};
        backend.run(args);
        state = download_f32(backend, args.state);
        return download_f32(backend, args.dst);
    }
};

// The same for the delta rule. Keys and queries have length 1.
struct Delta {
    int64_t streams = 3, key_heads = 2, heads = 4, d = 20;
    KeyHeads map = KeyHeads::grouped;
    Ints stream;
    Floats q, k, v, alpha, beta, decay, dt, state;

    explicit Delta(size_t tokens) {
        const int64_t n = int64_t(tokens);
        for (size_t t = 0; t < tokens; ++t) stream.push_back(int32_t(t * t % 7 % 3));
        q = units(n * key_heads, 4);
        k = units(n * key_heads, 5);
        v = normal_vector(n * heads * d, 6);
        alpha = normal_vector(n * heads, 7);
        beta = normal_vector(n * heads, 8);
        decay = {-0.02f, -0.3f, -1.0f, -4.0f};
        dt = normal_vector(heads, 9);
        state = normal_vector(streams * heads * d * d, 10);
    }
    Floats units(int64_t rows, uint64_t seed) const {
        Floats x = normal_vector(rows * d, seed);
        for (size_t r = 0; r < x.size(); r += size_t(d)) {
            const double length = norm(&x[r], size_t(d));
            for (size_t j = r; j < r + size_t(d); ++j) x[j] = float(double(x[j]) / length);
        }
        return x;
    }
    Floats run(Backend& backend, size_t first, size_t end) {
        const int64_t tokens = int64_t(end - first);
        const auto part = [&](const Floats& x, int64_t width) {
            return upload(backend, rows_of(x, first, end, size_t(width)));
        };
        const Buffer all[] = {part(q, key_heads * d), part(k, key_heads * d),
                              part(v, heads * d),     part(alpha, heads),
                              part(beta, heads),      upload(backend, decay),
                              upload(backend, dt),    upload(backend, state)};
        const Buffer of = upload(backend, rows_of(stream, first, end, 1)),
                     y(backend, size_t(tokens * heads * d) * sizeof(float));
        const DeltaStepArgs args{.dst = y.view(DType::f32, {tokens, heads, d}),
                                 .q = all[0].view(DType::f32, {tokens, key_heads, d}),
                                 .k = all[1].view(DType::f32, {tokens, key_heads, d}),
                                 .v = all[2].view(DType::f32, {tokens, heads, d}),
                                 .alpha = all[3].view(DType::f32, {tokens, heads}),
                                 .beta = all[4].view(DType::f32, {tokens, heads}),
                                 .decay = all[5].view(DType::f32, {heads}),
                                 .dt = all[6].view(DType::f32, {heads}),
                                 .state = all[7].view(DType::f32, {streams, heads, d, d}),
                                 .stream = of.view(DType::i32, {tokens}),
                                 .key_heads = map};
        backend.run(args);
        state = download_f32(backend, args.state);
        return download_f32(backend, args.dst);
    }
    size_t matrix(int32_t of, size_t head) const {  // where it begins in the state
        return (size_t(of) * size_t(heads) + head) * size_t(d * d);
    }
    size_t key(size_t t, size_t head) const {  // where its row begins in k and q
        const size_t of =
            map == KeyHeads::grouped ? head / size_t(heads / key_heads) : head % size_t(key_heads);
        return (t * size_t(key_heads) + of) * size_t(d);
    }
};

// All tokens at once, one at a time, and in ragged batches: the same bytes, results and states.
template <class Law>
void check_batches(const Law& law, size_t tokens) {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        Law whole = law;
        const Floats expected = whole.run(*backend, 0, tokens);
        for (const size_t step : {size_t(1), size_t(5), size_t(16)}) {
            Law parts = law;
            Floats found;
            for (size_t t = 0; t < tokens; t += step) {
                const Floats more = parts.run(*backend, t, std::min(tokens, t + step));
                found.insert(found.end(), more.begin(), more.end());
            }
            INFO(step << " at a time");
            CHECK(floats_equal(found, expected));
            CHECK(floats_equal(parts.state, whole.state));
        }
    }
}

// Tokens in another stream, its state with them: the same outputs, and the states elsewhere.
template <class Law>
void check_streams(const Law& law, size_t tokens) {
    const int32_t to[] = {2, 0, 1};
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        Law plain = law, moved = law;
        const size_t size = law.state.size() / 3;
        const auto move = [&](const Floats& state) {
            Floats result(state.size());
            for (size_t s = 0; s < 3; ++s) {
                std::copy_n(state.begin() + std::ptrdiff_t(s * size), size,
                            result.begin() + std::ptrdiff_t(size_t(to[s]) * size));
            }
            return result;
        };
        moved.state = move(law.state);
        for (int32_t& stream : moved.stream) stream = to[stream];
        const Floats expected = plain.run(*backend, 0, tokens);
        CHECK(floats_equal(moved.run(*backend, 0, tokens), expected));
        CHECK(floats_equal(moved.state, move(plain.state)));
    }
}

double silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

TEST_CASE("conv_step: a batch is its tokens one by one, whatever the streams are called") {
    check_batches(Conv(40), 40);
    check_streams(Conv(40), 40);
}

TEST_CASE("delta_step: a batch is its tokens one by one, whatever the streams are called") {
    check_batches(Delta(40), 40);
    check_streams(Delta(40), 40);
}

TEST_CASE("conv_step: with one weight of 1 it is silu of the input so many tokens back") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        for (size_t back = 0; back < 4; ++back) {
            INFO(backend->name() << ", " << back << " back");
            Conv one(30);
            for (size_t i = 0; i < one.weight.size(); ++i) one.weight[i] = i % 4 == 3 - back;
            const Floats before = one.state, y = one.run(*backend, 0, 30);
            const size_t n = size_t(one.channels);
            for (size_t t = 0; t < 30; ++t) {
                Floats past;  // the stream's inputs so far, those of the state first
                const size_t first = size_t(one.stream[t]) * 3 * n;
                for (size_t j = 0; j < 3; ++j) past.push_back(before[first + j * n + t]);
                for (size_t s = 0; s <= t; ++s) {
                    if (one.stream[s] == one.stream[t]) past.push_back(one.u[s * n + t]);
                }
                const double expected = silu(double(past[past.size() - 1 - back]));
                CHECK(double(y[t * n + t]) == Approx(expected).epsilon(1e-6).margin(1e-12));
            }
        }
    }
}

// Errors of steps add up, since no step enlarges what is there: keep <= 1, and I - gain k k^T
// lengthens no row. One step's is at most walk(D) + 20 roundings of keep |m| + |v|.
TEST_CASE("delta_step: equals the formula with whole matrices in f64") {
    for (const KeyHeads map : {KeyHeads::grouped, KeyHeads::interleaved}) {
        for (const std::unique_ptr<Backend>& backend : all_backends()) {
            constexpr size_t tokens = 60;
            Delta law(tokens);
            law.map = map;
            law.alpha[5] = 30;  // softplus is its argument there
            const size_t d = size_t(law.d), heads = size_t(law.heads);
            std::vector<double> states(law.state.begin(), law.state.end()), next(d * d);
            const Floats y = law.run(*backend, 0, tokens);
            double worst = 0;
            for (size_t i = 0; i < tokens * heads; ++i) {
                const size_t t = i / heads, h = i % heads;
                double* m = &states[law.matrix(law.stream[t], h)];
                const float *k = &law.k[law.key(t, h)], *q = &law.q[law.key(t, h)];
                const double gain = 1 / (1 + std::exp(-double(law.beta[i])));
                const double x = double(law.alpha[i]) + double(law.dt[h]);
                const double keep = std::exp(double(law.decay[h]) * std::log(1 + std::exp(x)));
                // M' = keep M (I - gain k k^T) + gain v k^T, the product written out
                for (size_t r = 0; r < d; ++r) {
                    for (size_t c = 0; c < d; ++c) {
                        next[r * d + c] = gain * double(law.v[i * d + r]) * double(k[c]);
                        for (size_t j = 0; j < d; ++j) {
                            const double unit = j == c ? 1 : 0;
                            const double hidden = gain * double(k[j]) * double(k[c]);
                            next[r * d + c] += keep * m[r * d + j] * (unit - hidden);
                        }
                    }
                }
                std::copy(next.begin(), next.end(), m);
                for (size_t r = 0; r < d; ++r) {
                    double sum = 0;
                    for (size_t j = 0; j < d; ++j) sum += m[r * d + j] * double(q[j]);
                    const double apart = double(y[i * d + r]) - sum / std::sqrt(double(d));
                    worst = std::max(worst, std::fabs(apart));
                }
            }
            const double longest = 6 + norm(states.data(), d) + 2 * std::sqrt(double(d));
            INFO(backend->name());
            CHECK(worst < double(tokens) * (2 * std::sqrt(double(d)) + 20) * k_unit * longest);
            CHECK(farthest(law.state, states, law.d) <
                  double(tokens) * (2 * std::sqrt(double(d)) + 20) * k_unit * longest);
        }
    }
}

TEST_CASE("delta_step: what is stored under a key is found under it") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        constexpr size_t tokens = 12;
        Delta law(tokens);
        law.stream.assign(tokens, 1);
        law.decay.assign(4, 0.0f);                 // all of M stays
        law.beta.assign(law.beta.size(), 100.0f);  // and goes all the way to v
        const size_t d = size_t(law.d);
        std::fill(law.k.begin(), law.k.end(), 0.0f);
        for (size_t t = 0; t < tokens; ++t) {  // keys at right angles, read back at once
            for (size_t h = 0; h < 4; ++h) law.k[law.key(t, h) + t] = 1;
        }
        law.q = law.k;
        Floats y = law.run(*backend, 0, tokens);
        for (size_t i = 0; i < y.size(); ++i) {
            CHECK(double(y[i]) ==
                  Approx(double(law.v[i]) / std::sqrt(20.0)).epsilon(1e-5).margin(1e-5));
        }
        // the last step reads the first key: later ones have not touched what lies there
        std::copy_n(law.k.begin(), 2 * d, law.q.begin() + std::ptrdiff_t((tokens - 1) * 2 * d));
        const Floats first = rows_of(law.v, 0, 1, 4 * d);
        law.k.assign(law.k.size(), 0.0f);
        y = law.run(*backend, tokens - 1, tokens);
        for (size_t i = 0; i < y.size(); ++i) {
            CHECK(double(y[i]) ==
                  Approx(double(first[i]) / std::sqrt(20.0)).epsilon(1e-5).margin(1e-5));
        }
    }
}

TEST_CASE("delta_step: without a gain M only decays, without a decay it stays") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        Delta law(1);
        law.beta.assign(4, -1000.0f);
        law.alpha.assign(4, 25.0f);
        law.dt.assign(4, 0.0f);  // softplus(25) is 25
        law.decay = {0.0f, -0.01f, -0.1f, -2.0f};
        const Floats before = law.state, y = law.run(*backend, 0, 1);
        const size_t d = size_t(law.d);
        for (size_t h = 0; h < 4; ++h) {
            const double keep = std::exp(25 * double(law.decay[h]));
            for (size_t r = 0; r < d; ++r) {
                const size_t row = law.matrix(law.stream[0], h) + r * d;
                double sum = 0;
                for (size_t j = 0; j < d; ++j) {
                    sum += keep * double(before[row + j]) * double(law.q[law.key(0, h) + j]);
                    CHECK(double(law.state[row + j]) ==
                          Approx(keep * double(before[row + j])).epsilon(1e-6));
                }
                CHECK(double(y[h * d + r]) ==
                      Approx(sum / std::sqrt(20.0)).epsilon(1e-5).margin(1e-6));
            }
        }
    }
}

TEST_CASE("delta_step: two ways to share key heads are one where each head has its own") {
    for (const KeyHeads map : {KeyHeads::grouped, KeyHeads::interleaved}) {
        for (const std::unique_ptr<Backend>& backend : all_backends()) {
            INFO(backend->name());
            Delta shared(25);
            shared.map = map;
            Delta own = shared;
            own.key_heads = own.heads;
            own.k.clear();
            own.q.clear();
            for (size_t i = 0; i < size_t(25 * own.heads); ++i) {
                const size_t row = shared.key(i / 4, i % 4), d = size_t(own.d);
                own.k.insert(own.k.end(), &shared.k[row], &shared.k[row] + d);
                own.q.insert(own.q.end(), &shared.q[row], &shared.q[row] + d);
            }
            const size_t of_head_1 = map == KeyHeads::grouped ? 0 : 1;
            CHECK(shared.key(0, 1) == of_head_1 * size_t(own.d));
            CHECK(floats_equal(own.run(*backend, 0, 25), shared.run(*backend, 0, 25)));
            CHECK(floats_equal(own.state, shared.state));
        }
    }
}

TEST_CASE("ops_check: the states of conv_step and delta_step fit their tokens") {
    const ConvStepArgs conv{.dst = f32({5, 6}),
                            .src = f32({5, 6}),
                            .weight = f32({6, 4}),
                            .state = f32({2, 3, 6}),
                            .stream = i32({5})};
    const auto of_conv = [&](const std::function<void(ConvStepArgs&)>& spoil) {
        ConvStepArgs args = conv;
        CHECK_NOTHROW(check(args));
        spoil(args);
        return refusal([&] { check(args); }, ErrorCode::bad_argument);
    };
    CHECK(of_conv([](ConvStepArgs& a) {
              a.state = f32({2, 4, 6});
          }) == "conv_step: expected state [1][any][3][6], found f32 [1][2][4][6]");
    CHECK(of_conv([](ConvStepArgs& a) {
              a.weight = f32({5, 4});
          }).find("weight [1][1][6][any]") != std::string::npos);
    CHECK(of_conv([](ConvStepArgs& a) {
              a.weight = f32({6, 0});
          }).find("one column or more") != std::string::npos);
    CHECK(of_conv([](ConvStepArgs& a) { a.stream = i32({4}); }).find("stream [1][1][1][5]") !=
          std::string::npos);
    CHECK(of_conv([](ConvStepArgs& a) { a.state.stride[1] = 0; }).find("without strides of 0") !=
          std::string::npos);
    const DeltaStepArgs delta{.dst = f32({3, 4, 5}),
                              .q = f32({3, 2, 5}),
                              .k = f32({3, 2, 5}),
                              .v = f32({3, 4, 5}),
                              .alpha = f32({3, 4}),
                              .beta = f32({3, 4}),
                              .decay = f32({4}),
                              .dt = f32({4}),
                              .state = f32({2, 4, 5, 5}),
                              .stream = i32({3})};
    const auto of_delta = [&](const std::function<void(DeltaStepArgs&)>& spoil) {
        DeltaStepArgs args = delta;
        CHECK_NOTHROW(check(args));
        spoil(args);
        return refusal([&] { check(args); }, ErrorCode::bad_argument);
    };
    CHECK(of_delta([](DeltaStepArgs& a) {
              a.q = a.k = f32({3, 3, 5});
          }) ==
          "delta_step: expected value heads that are a multiple of the key heads, found 4 and 3");
    for (TensorView DeltaStepArgs::*one :
         {&DeltaStepArgs::dst, &DeltaStepArgs::q, &DeltaStepArgs::k, &DeltaStepArgs::alpha,
          &DeltaStepArgs::beta, &DeltaStepArgs::decay, &DeltaStepArgs::dt, &DeltaStepArgs::state,
          &DeltaStepArgs::stream}) {
        CHECK(of_delta([&](DeltaStepArgs& a) { a.*one = f32({7, 7}); }).find("delta_step: ") == 0);
        CHECK(of_delta([&](DeltaStepArgs& a) { (a.*one).type = DType::f16; }).find("of type") !=
              std::string::npos);
    }
    CHECK(of_delta([](DeltaStepArgs& a) { a.state.stride[0] = 0; }).find("without strides of 0") !=
          std::string::npos);
}
