#pragma once
// What holds while a public call of a backend runs: its thread is alone in the backend, and on the
// backend's device. Docs: docs/08-backends.md

#include "ref/error.h"

#include <atomic>
#include <thread>

namespace rotkv::cuda {

/// A backend is one thread's at a time.
class Alone {
  public:
    struct Wait {};

    /// Throws Error(bad_argument) where another thread's call has not ended.
    explicit Alone(std::atomic<bool>& in_use) : in_use_(in_use) {
        if (!in_use_.exchange(true, std::memory_order_acquire)) return;
        throw Error(ErrorCode::bad_argument,
                    "cuda: expected one thread at a time to call a backend, found two");
    }
    /// For whom may not throw: waits until that call has ended.
    Alone(std::atomic<bool>& in_use, Wait) : in_use_(in_use) {
        while (in_use_.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
    }
    ~Alone() { in_use_.store(false, std::memory_order_release); }
    Alone(const Alone&) = delete;
    Alone& operator=(const Alone&) = delete;

  private:
    std::atomic<bool>& in_use_;
};

/// The thread's current device is this one, and afterwards again what it was. backend.cu.
class OnDevice {
  public:
    explicit OnDevice(int device);  ///< throws Failure
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int before_ = 0;
    bool changed_ = false;
};

}  // namespace rotkv::cuda
