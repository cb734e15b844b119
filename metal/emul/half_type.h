#pragma once
// half, for C++ on a CPU: an f16 that becomes an f32 wherever it is read. It may lie in memory of a
// threadgroup, which the emulation makes volatile.
// Docs: docs/22-metal.md

#include "ref/half.h"

namespace rotkv::metal::emul {

class Half {
  public:
    Half() = default;
    Half(float x) : bits_(f32_to_f16(x)) {}  // NOLINT: Metal converts in silence too
    Half(const Half&) = default;
    Half(const volatile Half& other) : bits_(other.bits_) {}
    Half& operator=(const Half&) = default;
    void operator=(const Half& other) volatile { bits_ = other.bits_; }

    operator float() const { return f16_to_f32(bits_); }           // NOLINT
    operator float() const volatile { return f16_to_f32(bits_); }  // NOLINT

  private:
    uint16_t bits_;
};

}  // namespace rotkv::metal::emul
