// What CUDA and its driver know of memory that is not ours.
#include "cuda/device.cuh"
#include "cuda/driver.h"
#include "cuda/foreign_memory.h"

#include <cuda.h>

namespace rotkv::cuda {

namespace {

[[noreturn]] void refuse(const std::string& expected, const std::string& found) {
    throw Error(ErrorCode::bad_argument,
                "import_device: expected " + expected + ", found " + found);
}

// From an address on, to the end of what was allocated together.
std::size_t bytes_behind(const void* memory) {
    static const auto find_range = [] {
        decltype(&::cuMemGetAddressRange) function = nullptr;
        find_in_driver(function, "cuMemGetAddressRange");
        return function;
    }();
    CUdeviceptr begin = 0;
    std::size_t bytes = 0;
    const auto address = reinterpret_cast<CUdeviceptr>(memory);
    if (find_range(&begin, &bytes, address) != CUDA_SUCCESS) refuse("an allocation", "none");
    return bytes - std::size_t(address - begin);
}

}  // namespace

void require_usable(const void* memory, std::size_t bytes, int device) {
    cudaPointerAttributes known{};
    require_success(cudaPointerGetAttributes(&known, memory), "pointer");
    const bool is_of_devices = known.type == cudaMemoryTypeDevice;
    if (!is_of_devices) refuse("memory of a device", "memory of the host, or nobody's");
    const std::string number = std::to_string(device);
    if (known.device != device) {
        refuse("memory of device " + number, "device " + std::to_string(known.device));
    }
    const std::size_t past = reinterpret_cast<std::uintptr_t>(memory) % 16;
    if (past != 0) refuse("an address on 16 bytes", std::to_string(past) + " bytes past one");
    const std::size_t whole = (bytes + 15) / 16 * 16, there = bytes_behind(memory);
    if (there < whole) {
        refuse(std::to_string(whole) + " bytes",
               std::to_string(there) + " up to the allocation's end");
    }
}

void put_in_order(Stream before, Stream after) {
    cudaEvent_t event = nullptr;
    require_success(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    cudaError_t result = cudaEventRecord(event, before);
    if (result == cudaSuccess) result = cudaStreamWaitEvent(after, event, 0);
    ignore(cudaEventDestroy(event));
    require_success(result, "order of streams");
}

}  // namespace rotkv::cuda
