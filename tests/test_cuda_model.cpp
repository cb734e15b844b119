// Whole models on an NVIDIA GPU, and calls that are recorded there and replayed.
#include "tests/cuda_device.h"
#include "tools/choose_words.h"
#include "tools/sampling.h"

#include <array>
#include <span>

using namespace rotkv;
using namespace rotkv::test;

TEST_CASE("cuda: every architecture equals its definition in f64") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const std::vector<int32_t> tokens = tiny_tokens(19);
    for (const Architecture& architecture : architectures()) {
        for (const bool uneven : {false, true}) {
            const TinyModel tiny = TinyModel::make(architecture.name, uneven);
            INFO(architecture.name << (uneven ? ", uneven" : ""));
            // Sums are f32 here; scores of queries that a temperature stretches feel it most.
            const std::vector<float> found = run_model(*device, TinyFile(tiny).gguf(), tokens);
            CHECK(distance(found, tiny.forward(tokens)) < 4e-5);
        }
    }
}

TEST_CASE("cuda: calls that come again work on what memory holds by then") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Buffer x(*device, k_width * 4), y(*device, k_width * 4), z(*device, k_width * 4);
    for (const float value : {1.0f, 2.0f, 3.0f, 4.0f}) {
        CHECK(add_often(*device, y, x, value) == filled((1 + k_calls) * value));
    }
    CHECK(add_often(*device, z, x, 5) == filled((1 + k_calls) * 5.0f));  // into another buffer
    CHECK(download_f32(*device, y.view(DType::f32, {k_width})) == filled((1 + k_calls) * 4.0f));
}

TEST_CASE("cuda: recorded products outlive a move of the memory that they share") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const int64_t most = 512;
    const Buffer weight = upload(*device, normal_vector(most * most, 1));
    const Buffer x = upload(*device, normal_vector(most * most, 2)), y(*device, most * most * 4);
    const auto products = [&](int64_t n) {
        // One row again and again, which has to be copied to where operations share memory.
        TensorView rows = x.view(DType::f32, {n, n / 2});
        rows.stride[2] = 0;
        for (int64_t i = 0; i < k_calls; ++i) {
            device->run(MatmulArgs{.dst = y.view(DType::f32, {n, n}),
                                   .weight = weight.view(DType::f32, {n, n / 2}),
                                   .src = rows});
        }
        return download_f32(*device, y.view(DType::f32, {n, n}));
    };
    const std::vector<float> first = products(80);  // beyond cuda/matmul_few.h
    CHECK(products(80) == first);
    products(most);
    CHECK(products(80) == first);
    CHECK(products(80) == first);
}

// The second row has two largest logits, of which the first counts; the third has no largest one.
TEST_CASE("cuda: the words chosen of logits are the host's") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    for (const int64_t words : {2, 31, 256, 4095, 4097, 49152}) {
        std::vector<float> logits = normal_vector(4 * words, uint64_t(words));
        const auto row = [&](int64_t i) {
            return std::span(logits).subspan(size_t(i * words), size_t(words));
        };
        row(1)[size_t(words / 3)] = row(1).back() = 9;
        row(2).back() = INFINITY;
        row(3).back() = 9;
        const Buffer buffer = upload(*device, logits);
        for (const double temperature : {0.0, 0.7}) {
            const std::array<double, 4> u = {0.1, 0.999, 0.5, 0.7};
            std::array<int32_t, 4> chosen{}, expected{};
            for (int64_t i = 0; i < 4; ++i) {
                expected[size_t(i)] =
                    tools::choose_word(std::span<const float>(row(i)), temperature, u[size_t(i)])
                        .value_or(-1);
            }
            tools::choose_words(*device, buffer.view(DType::f32, {4, words}), temperature, u,
                                chosen);
            INFO(words << " words, temperature " << temperature);
            CHECK(chosen == expected);
        }
    }
}
