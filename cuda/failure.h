#pragma once
// What goes wrong on a device: how it is reported, what of it is final, memory and streams that
// cannot leak on the way out, and the seam by which tests make the device say no.
//
// A *refusal* (no memory left, a launch that the device does not take) concerns one call: nothing
// else has changed, CUDA keeps no trace of it, and everybody goes on. A *fault* (a kernel has
// touched memory that is not its own, or trapped) is final: CUDA answers every later call of the
// process on that device with it, results included. What is in no list of refusals is taken for
// one. Docs: docs/08-backends.md

#include "ref/error.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

struct CUstream_st;  // a cudaStream_t points to it

namespace rotkv::cuda {

using Stream = CUstream_st*;

/// Of a cudaError_t: is it a fault, or a refusal?
bool is_fault(int result);

/// What CUDA or cuBLAS said no with: Error(io).
class Failure : public Error {
  public:
    Failure(const std::string& reason, bool fault)
        : Error(ErrorCode::io, "cuda: " + reason), reason_(reason), fault_(fault) {}
    const std::string& reason() const { return reason_; }  ///< what() without the room's name
    bool fault() const { return fault_; }

  private:
    std::string reason_;
    bool fault_;
};

/// Of the current device; for release(). Throws Failure, which says how many bytes.
std::byte* allocate(std::size_t bytes);

/// Waits for what uses the memory. Throws Failure.
void release(std::byte* memory);

// What an owner does at its end: failures are dropped, and not left for the next launch to report.
struct Release {
    void operator()(std::byte* memory) const noexcept;
};
struct ReleaseOnHost {
    void operator()(std::byte* memory) const noexcept;
};
struct DestroyStream {
    void operator()(Stream stream) const noexcept;
};
using DeviceMemory = std::unique_ptr<std::byte, Release>;
using PinnedMemory = std::unique_ptr<std::byte, ReleaseOnHost>;  ///< the host's, read by the device
using OwnStream = std::unique_ptr<CUstream_st, DestroyStream>;

PinnedMemory allocate_pinned(std::size_t bytes);  ///< Throws as allocate().

/// For tests: which allocation, and which launch (also of recordings: begin, end, make, replay) of
/// this thread is refused, 1 being the next; 0: none. Counted down as they come.
struct Refused {
    int64_t allocation = 0, launch = 0;
};
Refused& refused();

/// For tests, of the whole process: allocations that nobody has released; bytes that the current
/// device has left.
int64_t live_allocations();
int64_t free_bytes();

}  // namespace rotkv::cuda
