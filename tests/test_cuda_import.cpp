// Tensors of other libraries: device memory that the backend has not allocated.
#include "ref/kernels.h"
#include "tests/cuda_device.h"
#include "tests/parity.h"
#include "tests/random.h"

#include <cuda_runtime_api.h>

using namespace rotkv;

namespace {

// What another library would have: memory, and a stream that nothing waits for.
struct Theirs {
    static constexpr size_t bytes = size_t(64) << 20;
    void *memory = nullptr, *older = nullptr;
    cudaStream_t stream = nullptr;

    Theirs() {
        REQUIRE(cudaMalloc(&memory, bytes) == cudaSuccess);
        REQUIRE(cudaMalloc(&older, bytes) == cudaSuccess);
        REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    }
    ~Theirs() {
        cudaFree(memory);
        cudaFree(older);
        cudaStreamDestroy(stream);
    }
};

template <class Call>
std::string refusal(const Call& call) {
    try {
        call();
    } catch (const Error& error) {
        CHECK(error.code() == ErrorCode::bad_argument);
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("cuda: another library's tensor is turned where it lies, after what its stream does") {
    const std::unique_ptr<Backend> device = test::device_or_skip();
    if (device == nullptr) return;
    auto* const backend = static_cast<CudaBackend*>(device.get());
    const Theirs theirs;
    const int64_t d = 128, rows = int64_t(Theirs::bytes) / (d * 4);
    std::vector<float> x = test::normal_vector(rows * d, 3), y = x, found(x.size());
    const Rotation rotation{.kind = Rotation::Kind::sylvester, .block = d};
    ref::hadamard({view(y.data(), DType::f32, {rows, d}), view(x.data(), DType::f32, {rows, d}),
                   rotation, false});
    REQUIRE(cudaMemcpy(theirs.older, x.data(), Theirs::bytes, cudaMemcpyHostToDevice) ==
            cudaSuccess);
    for (int i = 0; i < 50; ++i) {  // long enough for whoever does not wait to come first
        cudaMemsetAsync(theirs.memory, i, Theirs::bytes, theirs.stream);
    }
    cudaMemcpyAsync(theirs.memory, theirs.older, Theirs::bytes, cudaMemcpyDeviceToDevice,
                    theirs.stream);
    std::byte* const memory = backend->import_device(theirs.memory, Theirs::bytes, theirs.stream);
    const TensorView tensor = view(memory, DType::f32, {rows, d});
    backend->run(HadamardArgs{tensor, tensor, rotation, false});
    backend->download(std::as_writable_bytes(std::span(found)), memory);
    CHECK(found == y);
}

TEST_CASE("cuda: memory that is not the device's, or too short, is not imported") {
    const std::unique_ptr<Backend> device = test::device_or_skip();
    if (device == nullptr) return;
    auto* const backend = static_cast<CudaBackend*>(device.get());
    const Theirs theirs;
    std::vector<float> host(64);
    char* const memory = static_cast<char*>(theirs.memory);
    const auto asking = [&](void* where, size_t bytes) {
        return refusal([&] { backend->import_device(where, bytes, theirs.stream); });
    };
    CHECK(asking(host.data(), 256).find("expected memory of a device") != std::string::npos);
    CHECK(asking(memory + 4, 16).find("4 bytes past") != std::string::npos);
    CHECK(asking(memory, Theirs::bytes + 1).find("up to the allocation's end") !=
          std::string::npos);
    CHECK(asking(memory + 16, Theirs::bytes - 16).empty());
}
