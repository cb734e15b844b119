// The checks that stand before every backend: malformed arguments are refused with a line that
// names the operation, and what is well formed but not handled is said to be unsupported.
#include "ref/error.h"
#include "ref/forwarding_backend.h"
#include "ref/kernels.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/laws.h"
#include "tests/refused_call.h"

#include <algorithm>
#include <cmath>
#include <string>

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("ops: imported memory is its owner's, imported once or twice") {
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        const std::vector<std::byte> owned(64, std::byte(7));
        std::byte* const first = backend->import(owned);
        std::byte* const second = backend->import(owned);
        backend->free_memory(first);
        std::vector<std::byte> read(owned.size());
        backend->download(read, second);
        CHECK(read == owned);
        backend->free_memory(second);
        CHECK(owned == std::vector<std::byte>(64, std::byte(7)));
    }
}

TEST_CASE("ops: malformed arguments are refused by name") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const Rotation odd{Rotation::Kind::sylvester, 48, 0, 0};
    TensorView repeated = f32({4, 64}), gap = f32({4, 64});
    repeated.stride[2] = 0;
    gap.stride[3] = 8;
    struct Row {
        std::function<void()> call;
        const char* expected;
    };
    const Row rows[] = {
        {[&] {
             ref->run(HadamardArgs{.dst = f32({2, 64}), .src = f32({3, 64})});
         },
         "hadamard: expected dst"},
        {[&] { ref->run(HadamardArgs{.dst = half({64}), .src = f32({64})}); },
         "hadamard: expected dst of type f32, found f16"},
        {[&] {
             ref->run(HadamardArgs{.dst = half({64}), .src = half({2, 64})});
         },
         "hadamard: expected dst [1][1][2][64]"},
        {[&] { ref->run(HadamardArgs{.dst = i32({64}), .src = i32({64})}); },
         "hadamard: expected src of type f32, f16 or bf16, found i32"},
        {[&] { ref->run(HadamardArgs{.dst = f32({96}), .src = f32({96}), .rotation = odd}); },
         "a power of two that divides"},
        {[&] {
             ref->run(HadamardArgs{.dst = repeated, .src = f32({4, 64})});
         },
         "without strides of 0"},
        {[&] {
             ref->run(HadamardArgs{.dst = f32({4, 64}), .src = gap});
         },
         "contiguous innermost extent"},
        {[&] { ref->run(QuantizeArgs{.dst = f32({64}), .src = i32({64})}); },
         "quantize: expected src of type f32"},
        {[&] { ref->run(QuantizeArgs{.dst = i32({64}), .src = f32({64})}); },
         "dst of a cache type"},
        {[&] { ref->run(DequantizeArgs{.dst = f32({64}), .src = i32({64})}); },
         "dequantize: expected src"},
        {[&] {
             ref->run(RopeArgs{.dst = f32({1, 1, 8}),
                               .src = f32({1, 1, 8}),
                               .table = f32({1, 8, 2}),
                               .row = i32({1})});
         },
         "at most D = 8 turning channels"},
        {[&] {
             ref->run(RopeArgs{.dst = f32({2, 1, 8}),
                               .src = f32({2, 1, 8}),
                               .table = f32({1, 4, 2}),
                               .row = i32({1})});
         },
         "rope: expected row"},
        {[&] {
             ref->run(RmsNormArgs{
                 .dst = f32({2, 8}), .src = f32({2, 8}), .weight = f32({9}), .epsilon = 0});
         },
         "rms_norm: expected weight [1][1][1][8]"},
        {[&] {
             ref->run(LayerNormArgs{
                 .dst = f32({2, 8}), .src = f32({2, 8}), .weight = f32({9}), .epsilon = 0});
         },
         "layer_norm: expected weight [1][1][1][8]"},
        {[&] {
             ref->run(ScaleArgs{.dst = f32({2, 1, 8}),
                                .src = f32({2, 1, 8}),
                                .factor = f32({4}),
                                .row = i32({1})});
         },
         "scale: expected row [1][1][1][2]"},
        {[&] {
             ref->run(ScaleArgs{.dst = f32({2, 1, 8}), .src = f32({2, 1, 8}), .row = i32({2})});
         },
         "scale: expected factor"},
        {[&] {
             ref->run(MatmulArgs{.dst = f32({2, 4}), .weight = f32({4, 8}), .src = f32({2, 9})});
         },
         "matmul: expected weight"},
        {[&] {
             ref->run(MatmulArgs{.dst = f32({2, 5}), .weight = f32({4, 8}), .src = f32({2, 8})});
         },
         "matmul: expected dst"},
        {[&] { ref->run(ActMulArgs{.dst = f32({8}), .gate = f32({9}), .up = f32({8})}); },
         "act_mul: expected gate"},
        {[&] { ref->run(AddArgs{.dst = f32({8}), .a = f32({8}), .b = f32({9})}); },
         "add: expected b"},
        {[&] {
             ref->run(EmbedArgs{.dst = f32({2, 8}), .weight = f32({4, 9}), .token = i32({2})});
         },
         "embed: expected weight"},
        {[&] {
             ref->run(
                 LogitsArgs{.dst = f32({65, 4}), .hidden = f32({65, 8}), .weight = f32({4, 8})});
         },
         "at most 64 rows"},
        {[&] {
             ref->run(NllArgs{.nll = f32({2}),
                              .top = i32({2}),
                              .hidden = f32({2, 8}),
                              .weight = f32({4, 8}),
                              .target = i32({2})});
         },
         "nll: expected nll of type f64"},
        {[&] {
             ref->run(MergeArgs{.dst = f32({2, 3, 8}),
                                .lse = f32({3, 2}),
                                .a = f32({2, 3, 8}),
                                .b = f32({2, 3, 8}),
                                .lse_a = f32({3, 2}),
                                .lse_b = f32({3, 2})});
         },
         "merge: expected lse [1][1][2][3], found f32 [1][1][3][2]"},
        {[&] {
             ref->run(MergeArgs{.dst = f32({2, 3, 8}),
                                .lse = f32({2, 3}),
                                .a = f32({2, 3, 8}),
                                .b = f32({3, 8}),
                                .lse_a = f32({2, 3}),
                                .lse_b = f32({2, 3})});
         },
         "merge: expected b"},
    };
    for (const Row& row : rows) {
        const std::string text = refusal(row.call, ErrorCode::bad_argument);
        INFO(row.expected << " in: " << text);
        CHECK(text.find(row.expected) != std::string::npos);
    }
}

TEST_CASE("ops: attention's arguments must agree with each other") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const AttentionArgs good{.dst = f32({2, 4, 8}),
                             .q = f32({2, 4, 8}),
                             .k_cache = f32({1, 3, 2, 8}),
                             .v_cache = f32({1, 3, 2, 8}),
                             .position = i32({1, 3}),
                             .used = i32({1}),
                             .q_stream = i32({2}),
                             .q_position = i32({2})};
    CHECK_NOTHROW(check(good));
    AttentionArgs part = good;
    part.lse = f32({2, 4});
    part.bounds = {{4, 4}, {0, 1}};
    CHECK_NOTHROW(check(part));
    CHECK(!(part == good));
    const auto refused = [&](const std::function<void(AttentionArgs&)>& spoil) {
        AttentionArgs bad = good;
        spoil(bad);
        return refusal([&] { ref->run(bad); }, ErrorCode::bad_argument);
    };
    CHECK(refused([](AttentionArgs& a) { a.q = f32({2, 3, 8}); }).find("dst") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) {
              a.k_cache = f32({1, 3, 3, 8});
              a.v_cache = a.k_cache;
          }).find("multiple of the KV heads") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) {
              a.position = i32({1, 4});
          }).find("position") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) { a.window = -1; }).find("window") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) { a.sinks = f32({3}); }).find("sinks") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) { a.lse = f32({2, 3}); }).find("lse") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) {
              a.lse = f32({2, 4});
              a.lse.stride[2] = 0;
          }).find("lse without strides of 0") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) { a.bounds.position.from = -1; }) ==
          "attention: expected bounds.position from 0 or more, found -1");
    CHECK(refused([](AttentionArgs& a) {
              a.bounds.distance = {5, 4};
          }) ==
          "attention: expected bounds.distance that ends where it begins, or later, found from 5 "
          "to 4");
    CHECK(refused([](AttentionArgs& a) { a.softcap = NAN; }).find("softcap") != std::string::npos);
    CHECK(refused([](AttentionArgs& a) { a.k_cache.type = DType::q4_k; }).find("cache type") !=
          std::string::npos);
}

TEST_CASE("ops: block types on a head of 80 and f16 precision are unsupported, with the reason") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    AttentionArgs args;
    args.k_cache = view(unread, DType::q4_0, {1, 3, 2, 64});
    args.v_cache = args.k_cache;
    args.k_cache.n[3] = args.v_cache.n[3] = 80;
    CHECK(!ref->supports(args).yes);
    CHECK(ref->supports(args).reason ==
          "K: q4_0 needs rows of a multiple of 32 elements, found 80");
    AttentionArgs f16;
    f16.precision = Precision::f16;
    CHECK(ref->supports(f16).reason == "f16 attention: f32 only here");
    MatmulArgs bf16;
    bf16.precision = Precision::bf16;
    CHECK(ref->supports(bf16).reason == "bf16 products: f32 only here");
    TensorView codes = view(unread, DType::q4_0, {1, 64});
    codes.n[3] = 80;
    const std::string text = refusal(
        [&] {
            ref->run(QuantizeArgs{.dst = codes, .src = f32({1, 80})});
        },
        ErrorCode::unsupported);
    CHECK(text.find("ref: quantize: dst: q4_0 needs") == 0);
}

TEST_CASE("ops: norms, scale, act_mul, add, matmul, embed by hand") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    const Buffer x = upload(*ref, std::vector<float>{3, 4}),
                 w = upload(*ref, std::vector<float>{1, 2});
    const Buffer y(*ref, 8);
    const TensorView out = y.view(DType::f32, {2});
    ref->run(RmsNormArgs{.dst = out,
                         .src = x.view(DType::f32, {2}),
                         .weight = w.view(DType::f32, {2}),
                         .epsilon = 0.0f});
    const float root = std::sqrt(12.5f);
    CHECK(download_f32(*ref, out)[0] == Approx(3 / root));
    CHECK(download_f32(*ref, out)[1] == Approx(8 / root));
    ref->run(
        RmsNormArgs{.dst = out, .src = x.view(DType::f32, {2}), .weight = {}, .epsilon = 0.0f});
    CHECK(download_f32(*ref, out)[1] == Approx(4 / root));
    ref->run(LayerNormArgs{.dst = out,
                           .src = x.view(DType::f32, {2}),
                           .weight = w.view(DType::f32, {2}),
                           .epsilon = 0.0f});
    CHECK(download_f32(*ref, out) == std::vector<float>{-1, 2});
    ref->run(ScaleArgs{
        .dst = y.view(DType::f32, {1, 1, 2}), .src = x.view(DType::f32, {1, 1, 2}), .scale = 0.5f});
    CHECK(download_f32(*ref, out) == std::vector<float>{1.5f, 2});
    const Buffer one = upload(*ref, std::vector<int32_t>{1});
    ref->run(ScaleArgs{.dst = y.view(DType::f32, {1, 1, 2}),
                       .src = x.view(DType::f32, {1, 1, 2}),
                       .factor = w.view(DType::f32, {2}),
                       .row = one.view(DType::i32, {1}),
                       .scale = 0.5f});
    CHECK(download_f32(*ref, out) == std::vector<float>{3, 4});
    ref->run(ActMulArgs{.dst = out,
                        .gate = w.view(DType::f32, {2}),
                        .up = x.view(DType::f32, {2}),
                        .activation = Activation::silu});
    CHECK(download_f32(*ref, out)[0] == Approx(3 * 0.7310585786));
    CHECK(download_f32(*ref, out)[1] == Approx(4 * 1.7615941560));
    ref->run(ActMulArgs{.dst = out,
                        .gate = w.view(DType::f32, {2}),
                        .up = x.view(DType::f32, {2}),
                        .activation = Activation::gelu_tanh});
    CHECK(download_f32(*ref, out)[0] == Approx(3 * 0.8411919906));
    CHECK(download_f32(*ref, out)[1] == Approx(4 * 1.9545976940));
    ref->run(AddArgs{.dst = out, .a = x.view(DType::f32, {2}), .b = w.view(DType::f32, {2})});
    CHECK(download_f32(*ref, out) == std::vector<float>{4, 6});

    const Buffer weight = upload(*ref, std::vector<float>{1, 2, 3, 4});
    const TensorView matrix = weight.view(DType::f32, {2, 2});
    ref->run(MatmulArgs{
        .dst = y.view(DType::f32, {1, 2}), .weight = matrix, .src = x.view(DType::f32, {1, 2})});
    CHECK(download_f32(*ref, out) == std::vector<float>{11, 25});
    const Buffer token = upload(*ref, std::vector<int32_t>{1});
    ref->run(EmbedArgs{.dst = y.view(DType::f32, {1, 2}),
                       .weight = matrix,
                       .token = token.view(DType::i32, {1}),
                       .scale = 2.0f});
    CHECK(download_f32(*ref, out) == std::vector<float>{6, 8});
}

TEST_CASE("ops: nll, kld and logits by hand, the first of equal words on top") {
    const std::unique_ptr<Backend> ref = make_ref_backend();
    // Words 0 and 1 are the same; logits of a are 2, 2, 0, of b 0, 0, 1.
    const Buffer weight = upload(*ref, std::vector<float>{1, 0, 1, 0, 0, 1});
    const Buffer a = upload(*ref, std::vector<float>{2, 0}),
                 b = upload(*ref, std::vector<float>{0, 1});
    const Buffer target = upload(*ref, std::vector<int32_t>{2});
    const Buffer f64(*ref, 3 * sizeof(double)), i32(*ref, 2 * sizeof(int32_t));
    const TensorView words = weight.view(DType::f32, {3, 2}), next = target.view(DType::i32, {1});
    double values[3];
    int32_t tops[2];
    const TensorView out[3] = {view(f64.data(), DType::f64, {1}),
                               view(f64.data() + 8, DType::f64, {1}),
                               view(f64.data() + 16, DType::f64, {1})};
    const TensorView top[2] = {view(i32.data(), DType::i32, {1}),
                               view(i32.data() + 4, DType::i32, {1})};
    const TensorView left = a.view(DType::f32, {1, 2}), right = b.view(DType::f32, {1, 2});

    ref->run(NllArgs{.nll = out[0],
                     .top = top[0],
                     .hidden = left,
                     .weight = words,
                     .target = next,
                     .softcap = 0});
    f64.download(std::as_writable_bytes(std::span(values)));
    i32.download(std::as_writable_bytes(std::span(tops)));
    const double sum_a = 2 * std::exp(2.0) + 1, sum_b = 2 + std::exp(1.0);
    CHECK(values[0] == Approx(std::log(sum_a)));
    CHECK(tops[0] == 0);

    ref->run(KldArgs{.kld = out[0],
                     .nll_a = out[1],
                     .nll_b = out[2],
                     .top_a = top[0],
                     .top_b = top[1],
                     .hidden_a = left,
                     .hidden_b = right,
                     .weight = words,
                     .target = next,
                     .softcap = 0});
    f64.download(std::as_writable_bytes(std::span(values)));
    i32.download(std::as_writable_bytes(std::span(tops)));
    const double p = std::exp(2.0) / sum_a, q = 1 / sum_b;
    CHECK(values[0] == Approx(2 * p * std::log(p / q) +
                              (1 / sum_a) * std::log((1 / sum_a) / (std::exp(1.0) / sum_b))));
    CHECK(values[1] == Approx(std::log(sum_a)));
    CHECK(values[2] == Approx(std::log(sum_b) - 1));
    CHECK(tops[0] == 0);
    CHECK(tops[1] == 2);

    const Buffer logits(*ref, 3 * sizeof(float));
    ref->run(LogitsArgs{
        .dst = logits.view(DType::f32, {1, 3}), .hidden = left, .weight = words, .softcap = 1.0f});
    CHECK(download_f32(*ref, logits.view(DType::f32, {3}))[0] == Approx(std::tanh(2.0)));
}

TEST_CASE("ops: what a backend runs again is not asked a second time, all else is") {
    struct Remembering : ForwardingBackend {
        explicit Remembering() : ForwardingBackend(make_ref_backend()) {}
        std::vector<Call> passed;
        mutable int asked = 0;
        int again = 0;

        Support answer(const Call& call) const override {
            ++asked;
            return ForwardingBackend::answer(call);
        }
        void execute(const Call& call) override {
            ForwardingBackend::execute(call);
            passed.push_back(call);
        }
        bool execute_again(const Call& call) override {
            if (std::find(passed.begin(), passed.end(), call) == passed.end()) return false;
            ++again;
            real().run(call);
            return true;
        }
    };
    Remembering backend;
    const Buffer memory = upload(backend, std::vector<float>{1, 2});
    const TensorView x = memory.view(DType::f32, {1}), both = memory.view(DType::f32, {2});
    for (int i = 0; i < 3; ++i) backend.run(AddArgs{.dst = x, .a = x, .b = x});
    CHECK(backend.asked == 1);
    CHECK(backend.again == 2);
    backend.run(AddArgs{.dst = both, .a = both, .b = both});
    CHECK(backend.asked == 2);
    CHECK_THROWS_AS(backend.run(AddArgs{.dst = both, .a = both, .b = x}), Error);
    CHECK(backend.again == 2);
    CHECK(download_f32(backend, both) == std::vector<float>{16, 4});
}
