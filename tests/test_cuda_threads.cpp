// Who may call the backend "cuda", on which device, and what the environment may not change.
#include "cuda/entry.h"
#include "cuda/failure.h"
#include "tests/cuda_device.h"
#include "tests/parity.h"

#include <chrono>
#include <thread>

using namespace rotkv;
using namespace rotkv::test;

namespace {

// Each in a thread of its own; what one throws is its result.
std::vector<std::string> in_threads(const std::vector<std::function<void()>>& jobs) {
    std::vector<std::string> errors(jobs.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < jobs.size(); ++i) {
        threads.emplace_back([&, i] {
            try {
                jobs[i]();
            } catch (const std::exception& error) {
                errors[i] = error.what();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    return errors;
}

const ModelPrecision k_f16_attention{.attention = Precision::f16};

}  // namespace

TEST_CASE("cuda: a backend is one thread's at a time") {
    std::atomic<bool> in_use = false;
    {
        const cuda::Alone first(in_use);
        CHECK_THROWS_WITH(cuda::Alone(in_use), containing("one thread at a time"));
    }
    { const cuda::Alone next(in_use); }
    std::atomic<bool> ended = false;
    std::thread waiting;
    {
        const cuda::Alone first(in_use);
        waiting = std::thread([&] {
            const cuda::Alone second(in_use, cuda::Alone::Wait{});
            ended = true;
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        CHECK(!ended);
    }
    waiting.join();
    CHECK(ended);
    CHECK(!in_use);
}

TEST_CASE("cuda: backends in several threads compute what one does") {
    if (device_or_skip() == nullptr) return;
    const std::vector<int32_t> tokens = tiny_tokens(25);
    std::vector<std::unique_ptr<TinyFile>> files;
    std::vector<std::vector<float>> expected;
    for (const char* name : {"llama", "gemma3", "qwen3"}) {  // of different heads
        files.push_back(std::make_unique<TinyFile>(TinyModel::make(name, true)));
        const std::unique_ptr<Backend> alone = make_cuda_backend(0);
        expected.push_back(run_model(*alone, files.back()->gguf(), tokens, k_f16_attention));
    }
    std::vector<int> equal(files.size(), 0);
    std::vector<std::function<void()>> jobs;
    constexpr int k_times = 6;
    for (size_t i = 0; i < files.size(); ++i) {
        jobs.push_back([&, i] {
            for (int time = 0; time < k_times; ++time) {  // made while others record
                const std::unique_ptr<Backend> device = make_cuda_backend(0);
                const std::vector<float> found =
                    run_model(*device, files[i]->gguf(), tokens, k_f16_attention);
                equal[i] += floats_equal(found, expected[i]) ? 1 : 0;
            }
        });
    }
    CHECK(in_threads(jobs) == std::vector<std::string>(jobs.size()));
    CHECK(equal == std::vector<int>(jobs.size(), k_times));
}

TEST_CASE("cuda: a backend goes from thread to thread") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const TinyFile tiny(TinyModel::make("llama"));
    const std::vector<int32_t> tokens = tiny_tokens(17);
    const std::vector<float> expected = run_model(*device, tiny.gguf(), tokens);
    std::vector<float> found;
    const auto job = [&] { found = run_model(*device, tiny.gguf(), tokens); };
    CHECK(in_threads({job}) == std::vector<std::string>(1));
    CHECK(floats_equal(found, expected));
}

TEST_CASE("cuda: a backend stays on the device that it was made on") {
    const std::unique_ptr<Backend> here = device_or_skip();
    if (here == nullptr) return;
    std::unique_ptr<Backend> there;
    try {
        const cuda::OnDevice second(1);
        there = make_cuda_backend(0);
    } catch (const Error& error) {
        return skip("no second device: " + std::string(error.what()));
    }
    const auto free_there = [] {
        const cuda::OnDevice second(1);
        return cuda::free_bytes();
    };
    constexpr int64_t k_bytes = int64_t(1) << 30;
    const int64_t before_here = cuda::free_bytes(), before_there = free_there();
    {
        const Buffer large(*there, size_t(k_bytes));
        CHECK(cuda::free_bytes() == before_here);  // and this thread's device is the first again
        CHECK(free_there() <= before_there - k_bytes);
    }
    const TinyFile tiny(TinyModel::make("llama"));
    const std::vector<int32_t> tokens = tiny_tokens(17);
    for (const ModelPrecision& precision : {ModelPrecision{}, k_f16_attention}) {
        CHECK(floats_equal(run_model(*there, tiny.gguf(), tokens, precision),
                           run_model(*here, tiny.gguf(), tokens, precision)));
    }
}

TEST_CASE("cuda: f32 products are f32 whatever NVIDIA_TF32_OVERRIDE says") {
    if (!is_child()) {
        if (device_or_skip() == nullptr) return;
        std::string output;
        const bool passed = run_again("NVIDIA_TF32_OVERRIDE=1", output);
        INFO(output);
        CHECK(passed);
        return;
    }
    const std::unique_ptr<Backend> device = make_cuda_backend(0);
    // Sums of 1 + 2^-12 are exact in f32, in any order; TF32 has not the bit.
    const int64_t tokens = 64, in = 256, out = 256;  // of longer sums 9.0 has its own products
    const Buffer src = upload(*device, std::vector<float>(size_t(tokens * in), 1 + 0x1p-12f));
    const Buffer weight = upload(*device, std::vector<float>(size_t(out * in), 1));
    const Buffer dst(*device, size_t(tokens * out) * sizeof(float));
    const TensorView y = dst.view(DType::f32, {tokens, out});
    device->run(MatmulArgs{.dst = y,
                           .weight = weight.view(DType::f32, {out, in}),
                           .src = src.view(DType::f32, {tokens, in})});
    const std::vector<float> expected(size_t(tokens * out), float(in) * (1 + 0x1p-12f));
    const bool equal = download_f32(*device, y) == expected;
    CHECK(equal);
}
