#pragma once
// What this machine can do at best, measured by loops that do nothing else: the ceilings that
// GFLOP/s and GB/s are held against.
// Docs: docs/performance.md

#include "ref/backend.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace rotkv::tools {

/// The best of everything measured so far, per second.
struct Ceilings {
    double flops = 0;       ///< the backend's f32 matrix product
    double read_bytes = 0;  ///< threads that add up a buffer; on a device, as copy_bytes
    double copy_bytes = 0;  ///< threads that copy it; read and written bytes both count (STREAM)
};

class Machine {
  public:
    /// The buffer is as large as what a token has to read, `bytes`, within 64 MiB .. 1 GiB: weights
    /// that fit into a cache are held against that cache.
    Machine(Backend& backend, int threads, double bytes);

    /// Measures once more, some tens of milliseconds.
    void measure();

    const Ceilings& best() const { return best_; }
    int64_t buffer_bytes() const {  ///< a device's: what is copied, and its copy
        return on_device_ ? 2 * int64_t(x_.bytes()) : int64_t(memory_.bytes());
    }

  private:
    double read_seconds() const;
    double copy_seconds();
    double device_copy_seconds();

    Backend& backend_;
    int threads_;
    bool on_device_;
    int64_t extent_;
    Buffer memory_;  ///< a host backend's, in pages such as its weights have
    std::span<uint64_t> words_;
    Buffer x_, weight_, product_;  ///< [extent][extent] f32
    Ceilings best_;
};

/// The most memory that this process has had resident so far, mapped weights included.
int64_t peak_resident_bytes();

}  // namespace rotkv::tools
