// Failures: one place where CUDA's answers become exceptions, and where memory comes from.
#include "cuda/device.cuh"
#include "cuda/failure.h"

#include <atomic>

namespace rotkv::cuda {
namespace {

std::atomic<int64_t> live{0};

// Is it this one's turn?
bool strikes(int64_t& countdown) { return countdown > 0 && --countdown == 0; }

std::string room(std::size_t bytes) { return "allocate " + std::to_string(bytes) + " bytes"; }

}  // namespace

// Refusals are listed, not faults: an error that nobody here knows, of a later toolkit, is final.
// Whoever goes on after a fault computes nothing; whoever stops after a refusal says so.
bool is_fault(int result) {
    if (result >= cudaErrorStreamCaptureUnsupported &&
        result <= cudaErrorStreamCaptureWrongThread) {
        return false;  // a recording that cannot go on
    }
    switch (cudaError_t(result)) {
        case cudaSuccess:
        case cudaErrorNotReady:
        case cudaErrorMemoryAllocation:
        case cudaErrorInvalidValue:
        case cudaErrorInvalidDevice:
        case cudaErrorInvalidDevicePointer:
        case cudaErrorInvalidResourceHandle:
        case cudaErrorInvalidMemcpyDirection:
        case cudaErrorInvalidSymbol:
        case cudaErrorInvalidConfiguration:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorMissingConfiguration:
        case cudaErrorLaunchOutOfResources:
        case cudaErrorCooperativeLaunchTooLarge:
        case cudaErrorInvalidClusterSize:
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidKernelImage:
        case cudaErrorInvalidPtx:
        case cudaErrorUnsupportedPtxVersion:
        case cudaErrorJitCompilerNotFound:
        case cudaErrorJitCompilationDisabled:
        case cudaErrorSharedObjectInitFailed:
        case cudaErrorSharedObjectSymbolNotFound:
        case cudaErrorSymbolNotFound:
        case cudaErrorGraphExecUpdateFailure:
        case cudaErrorIllegalState:
        case cudaErrorNoDevice:
        case cudaErrorInsufficientDriver:
        case cudaErrorCallRequiresNewerDriver:
        case cudaErrorDevicesUnavailable:
        case cudaErrorSystemNotReady:
        case cudaErrorNotPermitted:
        case cudaErrorNotSupported:
        case cudaErrorHostMemoryAlreadyRegistered:
        case cudaErrorHostMemoryNotRegistered:
        case cudaErrorPeerAccessUnsupported:
        case cudaErrorPeerAccessAlreadyEnabled:
        case cudaErrorPeerAccessNotEnabled:
            return false;
        default:
            return true;
    }
}

void fail(cudaError_t result, const std::string& what) {
    static_cast<void>(cudaGetLastError());  // else the next launch, which is well, would report it
    throw Failure(what + ": " + cudaGetErrorString(result), is_fault(result));
}

void ignore(cudaError_t result) {
    if (result != cudaSuccess) static_cast<void>(cudaGetLastError());
}

cudaError_t launched(cudaError_t result) {
    return strikes(refused().launch) ? cudaErrorLaunchOutOfResources : result;
}

std::byte* allocate(std::size_t bytes) {
    void* memory = nullptr;
    const bool no = strikes(refused().allocation);
    const cudaError_t result = no ? cudaErrorMemoryAllocation : cudaMalloc(&memory, bytes);
    if (result != cudaSuccess) fail(result, room(bytes));
    ++live;
    return static_cast<std::byte*>(memory);
}

void release(std::byte* memory) {
    if (memory == nullptr) return;
    require_success(cudaFree(memory), "free");
    --live;
}

void Release::operator()(std::byte* memory) const noexcept {
    ignore(cudaFree(memory));
    --live;
}

PinnedMemory allocate_pinned(std::size_t bytes) {
    void* memory = nullptr;
    const bool no = strikes(refused().allocation);
    const cudaError_t result = no ? cudaErrorMemoryAllocation : cudaMallocHost(&memory, bytes);
    if (result != cudaSuccess) fail(result, room(bytes) + " of the host's memory");
    ++live;
    return PinnedMemory(static_cast<std::byte*>(memory));
}

void ReleaseOnHost::operator()(std::byte* memory) const noexcept {
    ignore(cudaFreeHost(memory));
    --live;
}

void DestroyStream::operator()(Stream stream) const noexcept { ignore(cudaStreamDestroy(stream)); }

Refused& refused() {
    static thread_local Refused next;
    return next;
}

int64_t live_allocations() { return live; }

int64_t free_bytes() {
    std::size_t left = 0, all = 0;
    require_success(cudaMemGetInfo(&left, &all), "memory");
    return int64_t(left);
}

}  // namespace rotkv::cuda
