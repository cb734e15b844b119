#pragma once
// Memory for intermediate results, kept from call to call: pages that are fresh in every call would
// cost more than what is written to them.
// Docs: docs/08-backends.md

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace rotkv::fast {

inline constexpr std::size_t k_alignment = 64;  ///< a cache line, and the widest vector

/// Floats that grow and never shrink. One per thread and use: declare it thread_local.
class Workspace {
  public:
    /// At least `count` floats of undefined content, valid until the next call.
    float* reserve(int64_t count) {
        if (count > count_) {
            memory_.reset();  // first, so that old and new never exist together
            count_ = 0;
            const std::size_t bytes = std::size_t(count) * sizeof(float);
            memory_.reset(
                static_cast<float*>(::operator new(bytes, std::align_val_t(k_alignment))));
            count_ = count;
        }
        return memory_.get();
    }

  private:
    struct Free {
        void operator()(float* p) const { ::operator delete(p, std::align_val_t(k_alignment)); }
    };
    std::unique_ptr<float, Free> memory_;
    int64_t count_ = 0;
};

}  // namespace rotkv::fast
