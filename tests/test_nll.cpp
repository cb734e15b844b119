// Likelihoods at the edge of what f32 holds.
#include "ref/kernels.h"
#include "tests/cached_attention.h"
#include "tests/catch.h"
#include "tests/laws.h"

#include <cmath>
#include <string>

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("ops: a logit that f32 cannot hold is no number in any backend") {
    // The words' logits are ten times their weights.
    const auto nll = [](Backend& backend, const std::vector<float>& words, int next) {
        const int64_t n = int64_t(words.size());
        const Buffer weight = upload(backend, words),
                     x = upload(backend, std::vector<float>{10.0f}),
                     target = upload(backend, std::vector<int32_t>{next});
        const Buffer out(backend, 3 * sizeof(double)), top(backend, 2 * sizeof(int32_t));
        const TensorView of_nll = view(out.data(), DType::f64, {1}),
                         hidden_x = x.view(DType::f32, {1, 1}),
                         of_words = weight.view(DType::f32, {n, 1}),
                         of_target = target.view(DType::i32, {1}),
                         of_top = view(top.data(), DType::i32, {1});
        double values[3];
        backend.run(NllArgs{.nll = of_nll,
                            .top = of_top,
                            .hidden = hidden_x,
                            .weight = of_words,
                            .target = of_target,
                            .softcap = 0});
        out.download(std::as_writable_bytes(std::span(values)));
        const double alone = values[0];
        backend.run(KldArgs{.kld = view(out.data() + 8, DType::f64, {1}),
                            .nll_a = of_nll,
                            .nll_b = view(out.data() + 16, DType::f64, {1}),
                            .top_a = of_top,
                            .top_b = view(top.data() + 4, DType::i32, {1}),
                            .hidden_a = hidden_x,
                            .hidden_b = hidden_x,
                            .weight = of_words,
                            .target = of_target,
                            .softcap = 0});
        out.download(std::as_writable_bytes(std::span(values)));
        CHECK(!std::isfinite(values[1]));  // the KLD: 0 times infinity
        CHECK((values[0] == alone || (std::isnan(alone) && std::isnan(values[0]))));
        return alone;
    };
    for (const std::unique_ptr<Backend>& backend : all_backends()) {
        INFO(backend->name());
        const double expected = std::log(std::exp(0.1) + std::exp(0.2)) - 0.2;
        for (const std::vector<float>& words :
             {std::vector<float>{1e38f, 0.01f, 0.02f}, {0.01f, 1e38f, 0.02f}}) {
            CHECK(std::isnan(nll(*backend, words, 2)));  // one word is infinitely likely
            std::vector<float> below = words;
            for (float& word : below) word = word > 1 ? -word : word;
            CHECK(nll(*backend, below, 2) == Approx(expected).epsilon(1e-6));  // p = 0
        }
        CHECK(!std::isfinite(nll(*backend, {-1e38f, 0.01f, 0.02f}, 0)));
        // A whole panel of words with p = 0, then others.
        std::vector<float> many(9000, -1e38f);
        many.back() = 0.02f;
        CHECK(nll(*backend, many, 8999) == Approx(0).margin(1e-6));
    }
}
