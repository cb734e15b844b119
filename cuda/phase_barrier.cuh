#pragma once
// A barrier in shared memory at which warps with different work wait for each other, and for copies
// that are under way. From compute capability 8.0 on; copies of the engine from 9.0 on.
// Docs: docs/08-backends.md

#include "cuda/copies.cuh"

namespace rotkv::cuda {

constexpr uint32_t k_most_wait = 1000000;  // ns that a warp sleeps, unless it is woken

/// A barrier in shared memory whose phases end when so many have arrived.
class PhaseBarrier {
  public:
    explicit __device__ PhaseBarrier(const uint64_t& memory) : address_(shared_address(&memory)) {}

    __device__ void create(uint32_t arrivals) const {
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" : : "r"(address_), "r"(arrivals));
    }
    __device__ void arrive() const {
        asm volatile("mbarrier.arrive.shared.b64 _, [%0];" : : "r"(address_) : "memory");
    }
    /// So many bytes more must come before the phase ends.
    __device__ void expect(uint32_t bytes) const {
        asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;"
                     :
                     : "r"(address_), "r"(bytes)
                     : "memory");
    }
    /// When this thread's copies so far are there; counts as one more arrival of those expected.
    __device__ void arrive_when_copied() const {
        asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];"
                     :
                     : "r"(address_)
                     : "memory");
    }
    /// Has it? As wait(), without waiting.
    __device__ bool has_ended(uint32_t parity) const {
        uint32_t ended;
        asm volatile(
            "{\n"
            ".reg .pred there;\n"
            "mbarrier.test_wait.parity.shared.b64 there, [%1], %2;\n"
            "selp.u32 %0, 1, 0, there;\n"
            "}"
            : "=r"(ended)
            : "r"(address_), "r"(parity)
            : "memory");
        return ended != 0;
    }
    /// Until a phase has ended: of phases 0, 1, 2 ..., the last one of this parity.
    __device__ void wait(uint32_t parity) const {
        asm volatile(
            "{\n"
            ".reg .pred there;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared.b64 there, [%0], %1, %2;\n"
            "@there bra done;\n"
            "bra again;\n"
            "done:\n"
            "}"
            :
            : "r"(address_), "r"(parity), "r"(k_most_wait)
            : "memory");
    }

    /// Of the barrier, for copies of the engine that end a phase.
    __device__ uint32_t address() const { return address_; }

  private:
    uint32_t address_;
};

}  // namespace rotkv::cuda
