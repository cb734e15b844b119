// What an NVIDIA GPU refuses, and what it never comes back from: each time one clear error, nothing
// left behind, and the same call works afterwards, or says why it never will.
#include "cuda/call_words.h"
#include "cuda/failure.h"
#include "tests/cuda_device.h"
#include "tests/parity.h"

#include <algorithm>
#include <cmath>
#include <functional>

using namespace rotkv;
using namespace rotkv::test;

namespace {

struct Sums {
    Backend& device;
    Buffer x, y;

    explicit Sums(Backend& where) : device(where), x(where, k_width * 4), y(where, k_width * 4) {}
    std::vector<float> run(float value) const { return add_often(device, y, x, value); }
};

// [n] rows of products that need memory for copies, their factors a row that repeats.
struct Products {
    static constexpr int64_t some = 80, most = 512;  // beyond cuda/matmul_few.h: room is shared
    Backend& device;
    Buffer weight, x, y;

    explicit Products(Backend& where)
        : device(where),
          weight(upload(where, normal_vector(most * most, 1))),
          x(upload(where, normal_vector(most * most, 2))),
          y(where, most * most * 4) {}

    std::vector<float> run(int64_t n) const {
        TensorView rows = x.view(DType::f32, {n, n / 2});
        rows.stride[2] = 0;
        for (int64_t i = 0; i < k_calls; ++i) {
            device.run(MatmulArgs{.dst = y.view(DType::f32, {n, n}),
                                  .weight = weight.view(DType::f32, {n, n / 2}),
                                  .src = rows});
        }
        return download_f32(device, y.view(DType::f32, {n, n}));
    }
};

using Run = std::function<std::vector<float>(Backend&)>;

std::string error_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::io);
        return error.what();
    }
    return "";
}

// Refuses the first of what `which` counts, then the second, until the call gets through; each time
// `words` are in the error, and the same call on the same backend works at once. Later ones in
// strides, where there are hundreds. Returns how often it was refused.
int64_t refuse_each(int64_t cuda::Refused::*which, const std::string& words, const Run& run,
                    bool fresh_backend) {
    std::unique_ptr<Backend> device = make_cuda_backend(0);
    const std::vector<float> expected = run(*device);
    int64_t times = 0;
    for (int64_t n = 1;; n += 1 + n / 12) {
        if (fresh_backend) device = make_cuda_backend(0);
        const int64_t live = cuda::live_allocations();
        cuda::refused() = {};
        cuda::refused().*which = n;
        const std::string error = error_of([&] {
            run(*device);
            device->synchronize();
        });
        const bool through = cuda::refused().*which > 0;
        cuda::refused() = {};
        INFO("refused: number " << n << ": " << error);
        if (through) {
            REQUIRE(error.empty());
            return times;
        }
        ++times;
        CHECK_THAT(error, containing(words));
        // The first use of a backend may have made what it keeps (cuBLAS, room for products).
        if (!fresh_backend) CHECK(cuda::live_allocations() == live);
        CHECK(floats_equal(run(*device), expected));
    }
}

// All of what a test does, once before and once between two looks at what is free.
void check_nothing_leaks(const std::function<void()>& all) {
    all();
    const int64_t live = cuda::live_allocations(), bytes = cuda::free_bytes();
    all();
    CHECK(cuda::live_allocations() == live);
    CHECK(cuda::free_bytes() >= bytes);
}

const char* const k_no_memory = "bytes: out of memory";
const char* const k_not_taken = "too many resources";

CachedAttention small_attention(int64_t tokens, DType type) {
    CachedAttention c;
    c.type_k = c.type_v = type;
    c.cells = 64;
    c.fill(1, tokens, 3);
    return c;
}

struct Environment {
    explicit Environment(const char* value) { setenv("ROTKV_CUDA_SYNC", value, 1); }
    ~Environment() { unsetenv("ROTKV_CUDA_SYNC"); }
};

}  // namespace

TEST_CASE("cuda: a call in words") {
    const TensorView x = view(static_cast<void*>(nullptr), DType::f32, {7, 64});
    const TensorView w = view(static_cast<void*>(nullptr), DType::q8_0, {32, 64});
    const TensorView y = view(static_cast<void*>(nullptr), DType::f32, {7, 32});
    CHECK(cuda::words_of(MatmulArgs{.dst = y, .weight = w, .src = x}) ==
          "matmul (dst f32 [1][1][7][32], weight q8_0 [1][1][32][64], src f32 [1][1][7][64])");
    CHECK(cuda::words_of(RmsNormArgs{
              .dst = x,
              .src = x,
              .weight = {},
          }) == "rms_norm (dst f32 [1][1][7][64], src f32 [1][1][7][64])");
}

TEST_CASE("cuda: what does not fit is refused with its size and the next call works") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Sums sums(*device);
    const std::string error = error_of([&] { device->allocate(size_t(1) << 50); });
    CHECK_THAT(error, containing("allocate 1125899906842624 " + std::string(k_no_memory)));
    CHECK(sums.run(2) == filled((1 + k_calls) * 2.0f));
    std::byte on_host[16];
    device->free_memory(on_host);
    CHECK_THAT(error_of([&] { device->synchronize(); }), containing("free"));
    CHECK(sums.run(3) == filled((1 + k_calls) * 3.0f));
}

TEST_CASE("cuda: recorded products outlive a refused move of the memory that they share") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Products products(*device);
    const std::vector<float> first = products.run(Products::some);
    for (int i = 0; i < 2; ++i) CHECK(products.run(Products::some) == first);
    cuda::refused().allocation = 1;
    const std::string error = error_of([&] { products.run(Products::most); });
    CHECK_THAT(error, containing("matmul (dst f32 [1][1][512][512]"));
    CHECK_THAT(error, containing(k_no_memory));
    for (int i = 0; i < 3; ++i) CHECK(products.run(Products::some) == first);
    const std::vector<float> most = products.run(Products::most);
    CHECK(products.run(Products::most) == most);
}

TEST_CASE("cuda: a graph refused while its recording's calls still come is that call's error") {
    const std::unique_ptr<Backend> device = device_or_skip();
    if (device == nullptr) return;
    const Sums sums(*device);
    for (const float value : {1.0f, 2.0f, 3.0f}) {
        CHECK(sums.run(value) == filled((1 + k_calls) * value));
    }
    for (const int64_t which : {1, 2}) {  // the first graph, and the other, when all have come
        cuda::refused().launch = which;
        CHECK_THAT(error_of([&] { sums.run(4); }), containing(k_not_taken));
        CHECK(sums.run(5) == filled((1 + k_calls) * 5.0f));
    }
}

TEST_CASE("cuda: every allocation may be refused") {
    if (device_or_skip() == nullptr) return;
    int64_t cuda::Refused::*const which = &cuda::Refused::allocation;
    const TinyFile tiny(TinyModel::make("llama"));
    check_nothing_leaks([&] {
        for (int64_t n = 1; n <= 3; ++n) {  // counters, parts, staging
            INFO("making a backend, number " << n);
            const int64_t live = cuda::live_allocations();
            cuda::refused().allocation = n;
            CHECK_THAT(error_of([] { make_cuda_backend(0); }), containing("out of memory"));
            CHECK(cuda::live_allocations() == live);
        }
        cuda::refused() = {};
        const Run products = [](Backend& device) { return Products(device).run(Products::some); };
        CHECK(refuse_each(which, k_no_memory, products, true) == 5);  // 3 buffers, room, cuBLAS
        const Run attention = [](Backend& device) {
            return small_attention(20, DType::q8_0).run(device);
        };
        CHECK(refuse_each(which, k_no_memory, attention, false) > 5);
        const Run model = [&](Backend& device) {
            return run_model(device, tiny.gguf(), tiny_tokens(17));
        };
        CHECK(refuse_each(which, k_no_memory, model, false) > 10);
    });
}

TEST_CASE("cuda: every launch may be refused") {
    if (device_or_skip() == nullptr) return;
    int64_t cuda::Refused::*const which = &cuda::Refused::launch;
    const TinyFile tiny(TinyModel::make("llama"));
    check_nothing_leaks([&] {
        // Launched; recorded: begun, launched, ended, made, replayed; replayed.
        const Run sums = [](Backend& device) {
            const Sums three(device);
            std::vector<float> all;
            for (int i = 1; i <= 3; ++i) {
                const std::vector<float> one = three.run(float(i));
                all.insert(all.end(), one.begin(), one.end());
            }
            return all;
        };
        CHECK(refuse_each(which, k_not_taken, sums, true) > 15);
        const Run products = [](Backend& device) { return Products(device).run(64); };
        CHECK(refuse_each(which, k_not_taken, products, true) > 10);
        for (const int64_t tokens : {3, 40}) {
            const Run attention = [&](Backend& device) {
                return small_attention(tokens, DType::q8_0).run(device);
            };
            CHECK(refuse_each(which, k_not_taken, attention, false) >= 2);
        }
        const Run model = [&](Backend& device) {
            return run_model(device, tiny.gguf(), tiny_tokens(17));
        };
        CHECK(refuse_each(which, k_not_taken, model, true) > 20);
    });
}

// Products of one token that are joined to the norm before them round otherwise (fusion.h), and a
// cache may round what comes of that the other way.
static bool are_near(const std::vector<float>& a, const std::vector<float>& b) {
    const auto near = [](float x, float y) {
        return std::fabs(x - y) <= 2e-3f * (1 + std::fabs(y));
    };
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), near);
}

TEST_CASE("cuda: ROTKV_CUDA_SYNC runs operations one by one and names them") {
    if (device_or_skip() == nullptr) return;
    const TinyFile tiny(TinyModel::make("llama"));
    const std::vector<int32_t> tokens = tiny_tokens(17);
    const std::vector<float> expected = run_model(*make_cuda_backend(0), tiny.gguf(), tokens);
    {
        const Environment one("1");
        const std::unique_ptr<Backend> device = make_cuda_backend(0);
        CHECK(are_near(run_model(*device, tiny.gguf(), tokens), expected));
        const Sums sums(*device);
        const TensorView x = sums.x.view(DType::f32, {k_width});
        cuda::refused().launch = 1;
        const std::string error = error_of([&] { device->run(AddArgs{.dst = x, .a = x, .b = x}); });
        CHECK_THAT(error, containing("cuda: add (dst f32 [1][1][1][64], "));
        CHECK_THAT(error, containing(k_not_taken));
        CHECK(sums.run(2) == filled((1 + k_calls) * 2.0f));
    }
    const Environment other("yes");
    CHECK_THROWS_WITH(make_cuda_backend(0), "ROTKV_CUDA_SYNC: expected 0 or 1, found 'yes'");
}

TEST_CASE("cuda: a fault is final and every later call names it") {
    if (!is_child()) {
        if (device_or_skip() == nullptr) return;
        for (const std::string sync : {"0", "1"}) {
            std::string output;
            const bool passed = run_again("ROTKV_CUDA_SYNC=" + sync, output);
            INFO(output);
            CHECK(passed);
        }
        return;
    }
    const bool sync = std::string(std::getenv("ROTKV_CUDA_SYNC")) == "1";
    const std::unique_ptr<Backend> device = make_cuda_backend(0);
    const Sums sums(*device);
    const TensorView good = sums.x.view(DType::f32, {k_width});
    TensorView bad = good;
    bad.data = reinterpret_cast<std::byte*>(uintptr_t(0x10000));
    const std::string first = error_of([&] {
        device->run(AddArgs{.dst = good, .a = bad, .b = good});
        device->synchronize();
    });
    const std::string named = "add (dst f32 [1][1][1][64], a f32 [1][1][1][64], b f32";
    CHECK_THAT(first, containing("illegal memory access"));
    CHECK_THAT(first, containing(sync ? named : "(ROTKV_CUDA_SYNC=1 names the operation)"));
    const std::function<void()> later[] = {
        [&] { device->allocate(16); },
        [&] { device->synchronize(); },
        [&] { device->run(AddArgs{.dst = good, .a = good, .b = good}); },
        [&] { sums.run(1); },
        [&] { download_f32(*device, good); },
    };
    for (const auto& call : later) {
        const std::string again = error_of(call);
        CHECK_THAT(again, containing("lost the device, since: "));
        CHECK_THAT(again, containing(sync ? named : "illegal memory access"));
    }
}
