// The emulation itself: what Metal allows gives what it should, what it forbids is found and named.
#include "tests/catch.h"
#include "tests/metal_bench.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

using namespace rotkv::metal;
using rotkv::test::Bench;

namespace {

// What is said when `call` fails.
template <class Failure>
std::string words_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Failure& failure) {
        return failure.what();
    }
    return "nothing was found";
}

std::string fault_of(const std::string& kernel, NS::UInteger threads) {
    Bench bench(kernel);
    return words_of<emul::Fault>([&] { bench.run(threads); });
}

bool says(const std::string& text, const std::string& word) {
    INFO(text);
    const bool found = text.find(word) != std::string::npos;
    CHECK(found);
    return found;
}

}  // namespace

TEST_CASE("metal: lanes exchange values and wait for each other") {
    for (const NS::UInteger threads : {NS::UInteger(32), NS::UInteger(96), NS::UInteger(1024)}) {
        Bench bench("reversed");
        bench.run(threads);
        for (NS::UInteger i = 0; i < threads; ++i) {
            CHECK(Bench::data(bench.y)[i] == float(threads - 1 - i));
        }
    }
    Bench bench("neighbours");
    bench.run(32);
    for (int i = 0; i < 32; ++i) CHECK(Bench::data(bench.y)[i] == float((i ^ 1) + 31 * 32 / 2));
}

TEST_CASE("metal: without a barrier a lane reads what nobody has written yet") {
    if (emul::kind_of_lanes() == std::string("threads")) {
        return rotkv::test::skip("ThreadSanitizer reports it, which tests/test_metal.py asks for");
    }
    Bench bench("reversed_without_barrier");
    bench.run(64);
    int unwritten = 0;
    for (int i = 0; i < 64; ++i) unwritten += std::isnan(Bench::data(bench.y)[i]) ? 1 : 0;
    CHECK(unwritten > 0);
}

TEST_CASE("metal: lanes that part are named with their places") {
    CHECK(says(fault_of("barrier_of_one_simdgroup", 64),
               "threadgroup_barrier at broken_kernels.metal"));
    CHECK(says(fault_of("barrier_of_one_simdgroup", 64), "thread 32 has returned"));
    CHECK(says(fault_of("barriers_apart", 64), "thread 32 for threadgroup_barrier"));
    CHECK(says(fault_of("sums_of_some", 32), "has returned"));
    CHECK(says(fault_of("lanes_that_part", 32), "simd_max at broken_kernels.metal"));
    CHECK(says(fault_of("lane_that_left", 32), "simd_sum at broken_kernels.metal"));
    CHECK(says(fault_of("matrices_of_some", 32), "multiply_accumulate at broken_kernels.metal"));
    CHECK(says(fault_of("matrices_of_some", 32), "has returned"));
    CHECK(says(fault_of("matrices_of_some", 16), "a simdgroup that is not whole"));
    CHECK(says(fault_of("lane_that_is_none", 32), "lane 32 of 32"));
    CHECK(says(fault_of("lane_that_is_none", 32), "kernel lane_that_is_none"));
}

TEST_CASE("metal: what Metal does not take is refused when it is dispatched") {
    const auto refusal = [](const std::function<void(Bench&)>& change) {
        Bench bench("reversed");
        return words_of<emul::Misuse>([&] {
            change(bench);
            bench.dispatch.check({1, 1, 1}, {32, 1, 1});
        });
    };
    using B = Bench&;
    CHECK(refusal([](B) {}) == "nothing was found");
    CHECK(says(refusal([](B b) { b.dispatch.set_buffer(nullptr, 0, 1); }), "'x': nothing bound"));
    CHECK(says(refusal([](B b) { b.dispatch.set_buffer(b.x.get(), 0, 31); }), "buffer index 31"));
    CHECK(says(refusal([](B b) { b.dispatch.set_buffer(b.x.get(), 2, 1); }), "alignment, 4"));
    CHECK(says(refusal([](B b) { b.dispatch.set_buffer(b.x.get(), 4096, 1); }), "offset 4096"));
    CHECK(says(refusal([](B b) { b.dispatch.set_bytes("", 0, 1); }), "0 bytes"));
    CHECK(says(refusal([](B b) { b.dispatch.set_bytes("ab", 2, 1); }), "2 bytes bound"));
    CHECK(says(refusal([](B b) { b.dispatch.set_memory(20, 0); }), "a multiple of 16"));
    CHECK(says(refusal([](B b) { b.dispatch.set_memory(32784, 0); }), "32784 bytes"));
    CHECK(says(refusal([](B b) { b.dispatch.memory.clear(); }), "no threadgroup memory"));
    CHECK(says(refusal([](B b) { b.dispatch.check({1, 1, 1}, {1056, 1, 1}); }), "1056 threads"));
    CHECK(says(refusal([](B b) { b.dispatch.check({0, 1, 1}, {32, 1, 1}); }), "without threads"));
    CHECK(says(refusal([](B b) { b.dispatch.kernel = nullptr; }), "without a pipeline"));
}

TEST_CASE("metal: what a kernel's text says of its arguments must agree with C++") {
    const emul::CppParameter pointer{true, false, 4, 4, false, false}, number{false, false, 4, 4};
    emul::CppParameter shared = pointer;
    shared.shared = true;
    const auto refusal = [&](const std::string& argument, const emul::CppParameter& cpp) {
        const std::string text = "kernel void f(" + argument + ") {}";
        return words_of<std::logic_error>([&] { emul::parameters_of(text, "f", {cpp}); });
    };
    CHECK(refusal("device float* x [[buffer(0)]]", pointer) == "nothing was found");
    CHECK(refusal("threadgroup float* x [[threadgroup(0)]]", shared) == "nothing was found");
    CHECK(says(refusal("float* x [[buffer(0)]]", pointer), "no address space"));
    CHECK(says(refusal("device float* x", pointer), "no [[...]]"));
    CHECK(says(refusal("device float* x [[texture(0)]]", pointer), "[[texture]]"));
    CHECK(says(refusal("threadgroup float* x [[buffer(0)]]", shared), "says another"));
    CHECK(says(refusal("constant float* x [[buffer(0)]]", pointer), "not constant"));
    CHECK(says(refusal("uint x [[buffer(0)]]", number), "a pointer or not"));
}

TEST_CASE("metal: commands are written, committed and waited for in this order") {
    const NS::SharedPtr<NS::AutoreleasePool> pool =
        NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
    const auto queue = NS::TransferPtr(device->newCommandQueue());
    MTL::CommandBuffer* const commands = queue->commandBuffer();
    MTL::ComputeCommandEncoder* const encoder = commands->computeCommandEncoder();
    using emul::Misuse;
    CHECK(says(words_of<Misuse>([&] { commands->computeCommandEncoder(); }), "open"));
    CHECK(says(words_of<Misuse>([&] { commands->commit(); }), "open"));
    CHECK(says(words_of<Misuse>([&] {
                   encoder->dispatchThreadgroups({1, 1, 1}, {32, 1, 1});
               }),
               "without a pipeline"));
    encoder->endEncoding();
    CHECK(says(words_of<Misuse>([&] { encoder->endEncoding(); }), "after endEncoding"));
    CHECK(says(words_of<Misuse>([&] { commands->waitUntilCompleted(); }), "no commit"));
    commands->commit();
    CHECK(says(words_of<Misuse>([&] { commands->commit(); }), "second time"));
    commands->waitUntilCompleted();
    CHECK(commands->status() == MTL::CommandBufferStatusCompleted);
    alignas(16) static std::byte some[32];
    CHECK(says(words_of<Misuse>([&] { device->newBuffer(some + 1, 16, {}, nullptr); }), "pages"));
    CHECK(says(words_of<Misuse>([&] { device->newBuffer(0, {}); }), "length of 0"));
}

TEST_CASE("metal: exp and log are within two units of the last place, tanh within three") {
    struct Function {
        uint32_t which;
        double (*right)(double);
        float from, to;
        bool by_factor;  // numbers lie apart by a factor, or evenly
    };
    const Function functions[] = {{0, std::exp, -87, 88.5f, false},
                                  {1, std::log, 1e-37f, 3e38f, true},
                                  {1, std::log, 0.5f, 2, false},
                                  {2, std::tanh, -12, 12, false},
                                  {2, std::tanh, 1e-20f, 1, true}};
    for (const Function& function : functions) {
        Bench bench("functions");
        bench.dispatch.set_bytes(&function.which, 4, 2);
        for (int i = 0; i < 1024; ++i) {
            const double at = i / 1023.0, from = double(function.from), to = double(function.to);
            Bench::data(bench.x)[i] = float(function.by_factor ? from * std::pow(to / from, at)
                                                               : from + (to - from) * at);
        }
        bench.run(1024);
        double worst = 0;
        for (int i = 0; i < 1024; ++i) {
            const double right = function.right(double(Bench::data(bench.x)[i]));
            const double unit = std::max(std::fabs(right), 1.17549435e-38) * 0x1p-23;
            worst = std::max(worst, std::fabs(double(Bench::data(bench.y)[i]) - right) / unit);
        }
        INFO(function.which << " from " << function.from);
        CHECK(worst <= (function.which == 2 ? 3 : 2));
    }
}

TEST_CASE("metal: everything that was made is released") {
    const int64_t before = emul::live_objects();
    {
        Bench bench("reversed");
        bench.run(32);
        CHECK(emul::live_objects() > before);
    }
    CHECK(emul::live_objects() == before);
    CHECK(says(words_of<emul::Misuse>([] {
                   const auto device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
                   NS::TransferPtr(device->newCommandQueue())->commandBuffer();
               }),
               "no autorelease pool"));
    CHECK(emul::live_objects() == before);
}
